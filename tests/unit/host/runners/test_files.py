"""The time of the latest change of files: the moment at which they came to their place, whatever their mtime is."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runbook.errors import HostError
from runbook.host.queries import FileChange
from runbook.host.runners.files import FileScan

OLD = 500_000_000.0


def latest(*paths: Path | str) -> FileChange:
    found = FileScan(tuple(map(str, paths)), time.monotonic() + 10).run()
    assert found.ok
    assert found.value is not None
    return found.value


def refusal(*paths: Path | str) -> str:
    with pytest.raises(HostError) as raised:
        FileScan(tuple(map(str, paths)), time.monotonic() + 10).run()
    return raised.value.message


def last(act: Callable[[], object], *others: Path) -> None:
    """Run the change once the kernel's clock, which advances in ticks, is later than every earlier change."""
    newest = max(path.lstat().st_ctime_ns for other in others for path in (other, *other.rglob("*")))
    probe = others[0].parent / "clock"
    probe.touch()
    while probe.stat().st_ctime_ns <= newest:
        probe.touch()
    act()


@pytest.fixture
def app(tmp_path: Path) -> Path:
    """A folder with code in it."""
    folder = tmp_path / "app"
    (folder / "lib").mkdir(parents=True)
    for name in ("server.js", "lib/a.js", "lib/b.js"):
        (folder / name).write_text(name)
    return folder


def test_what_was_written_last(app: Path) -> None:
    last(lambda: (app / "lib" / "a.js").write_text("new"), app)
    found = latest(app)
    assert (found.path, found.files) == (str(app / "lib" / "a.js"), 3)
    assert found.changed == pytest.approx((app / "lib" / "a.js").stat().st_ctime)


def test_a_copied_mtime_does_not_count(app: Path) -> None:
    """npm, tar and apt set the mtime to the time at which the content was made."""
    new = app.parent / "new.js"
    new.write_text("new")
    os.utime(new, (OLD, OLD))
    last(lambda: new.rename(app / "server.js"), app)
    assert (app / "server.js").stat().st_mtime == OLD
    assert latest(app).path == str(app / "server.js")
    assert latest(app).changed > OLD + 1


def test_a_folder_that_was_moved_here(app: Path) -> None:
    other = app.parent / "other"
    other.mkdir()
    (other / "server.js").touch()
    app.rename(app.parent / "app.old")
    last(lambda: other.rename(app), other)
    assert latest(app).path == str(app)
    assert latest(app / "server.js").path == str(app)


def test_a_folder_of_which_only_the_mode_changed(app: Path) -> None:
    before = latest(app)
    time.sleep(0.05)
    app.chmod(0o750)
    assert latest(app) == before


def test_a_folder_with_a_new_entry_is_not_what_changed(app: Path) -> None:
    last((app / "gateway.sock").mkdir, app)
    assert latest(app).path != str(app)


def test_a_link_that_was_replaced(app: Path) -> None:
    current = app.parent / "current"
    last(lambda: current.symlink_to("app"), app)
    assert latest(current).path == str(current)
    assert latest(current / "lib" / "a.js").path == str(current)
    (app / "lib" / "link.js").symlink_to(app.parent / "clock")
    last(lambda: (app.parent / "clock").write_text("x"), app)
    assert latest(app).path == str(app / "lib" / "link.js")


def test_links_in_a_circle(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert "too many" in refusal(tmp_path / "a")


def test_a_link_within_that_leads_nowhere(app: Path) -> None:
    (app / "dangling").symlink_to("nowhere")
    assert latest(app).files == 4


def test_a_pattern(app: Path) -> None:
    last(lambda: (app / "server.js").write_text("new"), app)
    assert latest(app / "lib" / "*.js").files == 2
    assert latest(app / "**" / "*.js").path == str(app / "server.js")
    (app / "[1].js").touch()
    assert latest(app / "[1].js").files == 1


def test_what_python_writes_while_it_runs(app: Path) -> None:
    (app / "lib" / "__pycache__").mkdir()
    last((app / "lib" / "__pycache__" / "a.cpython-311.pyc").touch, app)
    (app / "lib" / "old.pyc").touch()
    assert latest(app).path.endswith(".js")


def test_nothing_there(app: Path) -> None:
    (app.parent / "empty").mkdir()
    for named in (app / "nosuch", app / "*.py", app.parent / "empty", app / "nosuch" / "a.js"):
        assert refusal(app, named) == f"there is no file {named}"


def test_a_part_of_the_path_that_is_not_a_folder(app: Path) -> None:
    assert "server.js/x" in refusal(app / "server.js" / "x")


def test_a_folder_that_may_not_be_read(app: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refused(path: str) -> None:
        raise PermissionError(13, "Permission denied", path)

    monkeypatch.setattr(os, "scandir", refused)
    assert refusal(app) == f"cannot look at {app}: permission denied"


def test_a_name_that_is_not_utf_8(app: Path) -> None:
    last(lambda: Path(os.fsdecode(os.fsencode(app) + b"/\xff.js")).touch(), app)
    assert latest(app).path == f"{app}/\\xff.js"


def test_it_ends_in_time_and_when_it_is_aborted(app: Path) -> None:
    too_long = f"it takes too long to look at {app}"
    with pytest.raises(HostError, match=too_long):
        FileScan((str(app),), time.monotonic()).run()
    scan = FileScan((str(app),), time.monotonic() + 10)
    scan.abort()
    with pytest.raises(HostError, match=too_long):
        scan.run()
