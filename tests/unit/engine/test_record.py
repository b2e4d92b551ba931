"""Where the records lie, and who may get at them."""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook.engine import record
from runbook.errors import NotBegun


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    found = tmp_path / "state" / "runbook" / "runs"
    monkeypatch.setattr(record, "home", lambda: found)
    return found


@pytest.fixture(params=[0o000, 0o022, 0o277])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_nobody_else_gets_at_a_record_whatever_the_umask(home: Path, umask: int) -> None:
    kept = record.create(0)
    for folder in (kept.outputs, kept.folder, home, home.parent, home.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


def test_what_is_there_is_taken_as_it_is(home: Path) -> None:
    home.mkdir(parents=True)
    home.parent.chmod(0o755)
    record.create(0)
    assert stat.S_IMODE(home.parent.stat().st_mode) == 0o755


@pytest.mark.parametrize(("up", "mode"), [(0, 0o777), (1, 0o1777), (1, 0o770), (2, 0o777)])
def test_a_folder_that_others_may_write_is_refused(home: Path, up: int, mode: int) -> None:
    home.mkdir(parents=True)
    folder = [home, *home.parents][up]
    folder.chmod(mode)
    with pytest.raises(NotBegun, match=f"no safe place for the run's record: others may write in {folder}$"):
        record.create(0)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("mode", [0o1777, 0o775])
def test_the_folder_above_may_be_shared(home: Path, mode: int) -> None:
    home.mkdir(parents=True)
    home.parent.parent.chmod(mode)
    assert record.create(0).outputs.is_dir()


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a folder away")
def test_a_folder_of_somebody_else_is_refused(home: Path) -> None:
    home.mkdir(parents=True)
    os.chown(home.parent, 65534, 65534)
    with pytest.raises(NotBegun, match="runbook belongs to user 65534"):
        record.create(0)


def test_a_file_in_the_way_is_said_in_words(home: Path) -> None:
    home.parent.parent.mkdir()
    home.parent.write_text("")
    with pytest.raises(NotBegun, match="no place for the run's record"):
        record.create(0)
