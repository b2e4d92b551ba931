"""Root writes files only where no other user can redirect them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runbook import errors
from runbook.cli.judged_folder import check_file
from tests.unit.cli.test_result_files import BEGIN, END, ready

OTHER, RUNNER = 65534, 1000


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    made = tmp_path / "results"
    made.mkdir(0o755)
    return made


@pytest.mark.root
@pytest.mark.parametrize(
    ("owner", "mode", "sudo", "why"),
    [
        (0, 0o755, "", ""),
        (OTHER, 0o755, "", "belongs to nobody"),
        (RUNNER, 0o755, str(RUNNER), ""),
        (OTHER, 0o755, str(RUNNER), "belongs to nobody"),
        (RUNNER, 0o777, str(RUNNER), "is writable by every user"),
        (0, 0o1777, "", ""),
        (OTHER, 0o1777, "", "belongs to nobody"),
    ],
)
def test_root_writes_only_where_no_other_user_can_put_a_link(
    folder: Path, monkeypatch: pytest.MonkeyPatch, owner: int, mode: int, sudo: str, why: str
) -> None:
    monkeypatch.setenv("SUDO_UID", sudo)
    os.chown(folder, owner, 0)
    folder.chmod(mode)
    if not why:
        list(ready(folder / "a.xml", END).write())
        assert (folder / "a.xml").read_text()
        return
    with pytest.raises(errors.NotBegun) as raised:
        check_file(folder / "a.xml")
    assert raised.value.message.startswith(f"root must not write {folder}/a.xml: its folder {folder} {why}")
    assert "through sudo as the user whose folder it is" in raised.value.hint
    assert list(folder.iterdir()) == []


@pytest.mark.root
def test_a_name_in_a_sticky_folder_that_another_user_has_taken(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    folder.chmod(0o1777)
    file = folder / "a.xml"
    check_file(file)
    file.touch()
    check_file(file)
    os.chown(file, OTHER, 0)
    with pytest.raises(errors.NotBegun, match="belongs to nobody"):
        check_file(file)
    monkeypatch.setenv("SUDO_UID", str(OTHER))
    check_file(file)


@pytest.mark.root
def test_a_folder_that_becomes_a_link_of_another_user_is_not_followed(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("SUDO_UID", raising=False)
    files, target = ready(folder / "a.xml", BEGIN, END), tmp_path / "target"
    target.mkdir()
    folder.rmdir()
    folder.symlink_to(target)
    os.lchown(folder, OTHER, 0)
    (problem,) = files.write()
    assert f"the link {folder} belongs to nobody" in problem
    assert "; runbook show 20261130-2000-x6q --junit " in problem
    assert list(target.iterdir()) == []
