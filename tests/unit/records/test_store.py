"""Where the records are, and who can read and write them."""

from __future__ import annotations

import os
import resource
import signal
import stat
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook.errors import NotBegun
from runbook.events import Event
from runbook.records import history, store
from runbook.records.store import EventWriter, RunFolder
from tests.unit.recorded import STARTED, begun, ended, header, wrote

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(params=[0o000, 0o022, 0o277])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_no_other_user_can_read_a_record_whatever_the_umask(home: Path, umask: int) -> None:
    kept = store.create_folder(0)
    for folder in (kept.outputs_path, kept.path, home, home.parent, home.parent.parent):
        assert stat.S_IMODE(folder.stat().st_mode) == 0o700, folder


def test_what_is_there_is_taken_as_it_is(home: Path) -> None:
    home.mkdir(parents=True)
    home.parent.chmod(0o755)
    store.create_folder(0)
    assert stat.S_IMODE(home.parent.stat().st_mode) == 0o755


@pytest.mark.parametrize(("up", "mode"), [(0, 0o777), (1, 0o1777), (1, 0o770), (2, 0o777)])
def test_a_folder_that_others_may_write_is_refused(home: Path, up: int, mode: int) -> None:
    home.mkdir(parents=True)
    folder = [home, *home.parents][up]
    folder.chmod(mode)
    with pytest.raises(NotBegun, match=f"no safe place for the run's record: others may write in {folder}$"):
        store.create_folder(0)
    assert list(home.iterdir()) == []


@pytest.mark.parametrize("mode", [0o1777, 0o775])
def test_the_folder_above_may_be_shared(home: Path, mode: int) -> None:
    home.mkdir(parents=True)
    home.parent.parent.chmod(mode)
    assert store.create_folder(0).outputs_path.is_dir()


@pytest.mark.root
def test_a_folder_of_another_user_is_refused(home: Path) -> None:
    home.mkdir(parents=True)
    os.chown(home.parent, 65534, 65534)
    with pytest.raises(NotBegun, match="runbook belongs to user 65534"):
        store.create_folder(0)


def test_a_file_in_the_way_is_said_in_words(home: Path) -> None:
    home.parent.parent.mkdir()
    home.parent.write_text("")
    with pytest.raises(NotBegun, match="no place for the run's record"):
        store.create_folder(0)


def test_files_are_their_owners_alone(home: Path, umask: int) -> None:
    kept = wrote(begun(), STARTED).folder
    for path in (kept.header_path, kept.runbook_path, kept.spare_path, kept.events_path):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600, path


def test_a_run_that_cannot_be_put_on_disk_leaves_nothing(home: Path) -> None:
    kept = store.create_folder(0)
    kept.runbook_path.mkdir()
    with pytest.raises(NotBegun, match="no place for the run's record"):
        kept.write_header(header(kept.id), "")
    assert list(home.iterdir()) == []


def test_one_program_at_a_time_writes(home: Path) -> None:
    kept = begun()
    writer = EventWriter(kept, lambda _: None)
    with pytest.raises(NotBegun, match=f"run {kept.id} is under way"):
        EventWriter(kept, lambda _: None)
    writer.close()
    EventWriter(kept, lambda _: None).close()


def test_a_look_never_keeps_a_run_from_being_written(home: Path) -> None:
    """A query that had to take the lock would do so once in some hundred times."""
    kept = begun()
    over = threading.Event()

    def look() -> None:
        while not over.is_set():
            assert kept.is_running in (True, False)

    looking = threading.Thread(target=look)
    looking.start()
    try:
        for _ in range(500):
            writer = EventWriter(kept, lambda _: None)
            assert kept.is_running
            writer.close()
    finally:
        over.set()
        looking.join()
    assert not kept.is_running


def test_a_torn_line_is_cut_off_before_anything_is_written(home: Path) -> None:
    kept = wrote(begun(), STARTED).folder
    with kept.events_path.open("ab") as file:
        file.write(b'{"time": "2026-11-23T05:47:00Z", "run": "x", "ev' + b"\0" * 5000)
    assert [event.event for event in history.find_run(kept.id).read()] == ["run-started"]
    found = wrote(kept, ended())
    assert [event.event for event in found.read()] == ["run-started", "run-finished"]
    assert found.incomplete_reason == ""


@pytest.fixture
def full(home: Path) -> Iterator[RunFolder]:
    """Make a record on a disk with 40 kB left. A limit for the size of a file has the same effect on a write."""
    kept = begun()
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (40_000, before[1]))
    yield kept
    resource.setrlimit(resource.RLIMIT_FSIZE, before)
    signal.signal(signal.SIGXFSZ, handler)


def test_a_record_that_cannot_grow_notes_that_and_how_the_run_ended(full: RunFolder) -> None:
    told: list[str] = []
    writer = EventWriter(full, told.append)
    for number in range(3):
        writer(Event(number, full.id, "step-started", {"id": "x", "text": "-" * 19_000}))
    assert full.is_running
    assert told == [
        "the record of this run cannot grow any more (file too large); the run continues, but cannot be resumed"
    ]
    writer(Event(4, full.id, *ended()))
    writer.close()
    found = history.find_run(full.id)
    assert [e.event for e in found.read()] == ["step-started", "step-started", "record-lost", "run-finished"]
    assert (found.status, found.incomplete_reason, found.is_resumable) == ("changed", "file too large", False)
    assert not full.spare_path.exists()


def test_a_record_that_cannot_even_note_that_is_recognized(full: RunFolder) -> None:
    told: list[str] = []
    writer = EventWriter(full, told.append)
    for number in range(3):
        writer(Event(number, full.id, "step-started", {"id": "x", "text": "-" * 39_850}))
    writer(Event(4, full.id, *ended()))
    writer.close()
    found = history.find_run(full.id)
    assert [e.event for e in found.read()] == ["step-started"]
    assert (found.status, found.incomplete_reason, found.is_resumable) == (
        "record-lost",
        "its end could not be written",
        False,
    )
    assert len(told) == 1


def test_a_file_is_replaced_whole_and_a_link_is_not_followed(tmp_path: Path) -> None:
    target, link = tmp_path / "target", tmp_path / "link"
    target.write_text("theirs")
    link.symlink_to(target)
    store.replace_file(link, b"ours")
    assert (target.read_text(), link.read_text(), link.is_symlink()) == ("theirs", "ours", False)
    assert stat.S_IMODE(link.stat().st_mode) == 0o600
    with pytest.raises(OSError, match="Is a directory"):
        store.replace_file(tmp_path, b"")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["link", "target"]
