"""Which files belong to packages that were installed lately."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runbook.host import dpkg
from runbook.host.dpkg import Installation, find_installations


@pytest.fixture
def info(tmp_path: Path) -> Path:
    for name, when, files in (("old", 100, "/.\n/usr/bin/old\n"), ("app:amd64", 300, "/.\n/bin/app\n/usr/bin/other\n")):
        path = tmp_path / f"{name}.list"
        path.write_text(files)
        os.utime(path, (when, when))
    (tmp_path / "app:amd64.postinst").write_text("/usr/bin/old\n")
    return tmp_path


def test_a_package_that_was_installed_since(info: Path) -> None:
    app = Installation("app", 300.0)
    assert find_installations(["/usr/bin/app", "/usr/bin/old"], 200.0, info) == {"/usr/bin/app": app}
    assert find_installations(["/bin/other"], 200.0, info) == {"/bin/other": app}
    assert find_installations(["/usr/bin/old"], 50.0, info) == {"/usr/bin/old": Installation("old", 100.0)}
    assert find_installations(["/usr/bin/app"], 400.0, info) == {}


def test_what_is_not_read(info: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_installations([], 0.0, info) == {}
    assert find_installations(["/usr/bin/app"], 0.0, info / "missing") == {}
    monkeypatch.setattr(dpkg, "MAX_LIST", 5)
    assert find_installations(["/usr/bin/app"], 0.0, info) == {}
