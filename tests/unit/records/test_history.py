"""Which runs exist, the status of each, and which are retained, whatever else is in the folder."""

from __future__ import annotations

import contextlib
import json
import os
import time
import tracemalloc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from runbook.engine import resume
from runbook.errors import NotBegun, UsageError
from runbook.events import Event
from runbook.records import history, store
from runbook.records.history import RunRecord
from runbook.records.store import EventWriter, RunFolder
from tests.unit.recorded import BEGAN, STARTED, acting, begun, ended, finished, header, wrote

pytestmark = pytest.mark.usefixtures("home")


def test_the_latest_is_the_first_and_an_end_of_an_id_will_do() -> None:
    old, new = begun(BEGAN), begun(BEGAN + 60)
    assert [one.id for one in history.list_runs()] == [new.id, old.id]
    assert history.find_run(None).id == new.id
    assert history.find_run(old.id[-3:]).id in (old.id, new.id)
    assert history.find_run(old.id).id == old.id


def test_the_units_on_which_other_runs_acted_since() -> None:
    old, own, other = (wrote(begun(BEGAN + 60 * at), STARTED) for at in range(3))
    os.utime(old.folder.events_path, (BEGAN, BEGAN))
    since = BEGAN + 1
    assert history.find_units_of_other_runs(own.id, since) == set(other.units) != set()
    late = other.folder.events_path.stat().st_mtime + 1
    assert history.find_units_of_other_runs(own.id, late) == set()
    with contextlib.closing(EventWriter(other.folder, lambda _: None)):  # Its last action may still last.
        assert history.find_units_of_other_runs(own.id, late) == set(other.units)


@pytest.mark.parametrize(("name", "error"), [("../x", UsageError), ("20200101-0000-abc", NotBegun), ("", UsageError)])
def test_a_run_that_is_not_there(name: str, error: type[Exception]) -> None:
    begun()
    with pytest.raises(error):
        history.find_run(name)


def test_without_any_run_it_is_said_where_they_would_be(home: Path) -> None:
    with pytest.raises(NotBegun) as said:
        history.find_run(None)
    assert str(home) in said.value.hint


@pytest.mark.parametrize(
    ("events", "status", "unfinished"),
    [
        ([STARTED, ended()], "changed", False),
        ([STARTED, ended("interrupted", 143)], "interrupted", True),
        ([STARTED, ended("still-starting", 3)], "still-starting", True),
        ([STARTED, acting("update")], "cut-short", True),
        ([], "cut-short", True),
        ([STARTED, ended("interrupted", 143), ("run-resumed", {})], "cut-short", True),
        ([STARTED, ("run-superseded", {"by": "b", "unit": "web.service"})], "superseded", False),
        ([STARTED, ended("still-starting", 3), ("run-abandoned", {})], "abandoned", False),
        ([STARTED, ("record-lost", {"reason": "no space left"})], "record-lost", False),
        ([STARTED, ("record-lost", {"reason": "no space left"}), ended("interrupted", 143)], "interrupted", False),
    ],
)
@pytest.mark.parametrize("read", [history.TAIL_BYTES, 10])
def test_how_a_run_stands(
    read: int, events: list[Any], status: str, unfinished: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "TAIL_BYTES", read)
    found = wrote(begun(), *events)
    assert (found.status, found.is_resumable, found.summary_event().data["resumable"]) == (
        status,
        unfinished,
        unfinished,
    )


def test_of_a_run_that_has_ended_only_the_end_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    found = wrote(begun(), STARTED, ended())
    monkeypatch.setattr(history, "read_events", None)
    assert not found.is_resumable


def test_a_run_that_is_written_is_under_way() -> None:
    kept = begun(time.time() - 90)
    writer = EventWriter(kept, lambda _: None)
    assert (history.find_run(kept.id).status, history.find_run(kept.id).is_resumable) == ("under-way", False)
    # Its last event may be long ago.
    assert history.find_run(kept.id).summary_event().data["seconds"] == pytest.approx(90, abs=30)
    writer.close()
    assert history.find_run(kept.id).status == "cut-short"


def test_only_work_counts_as_time() -> None:
    """Not the night between two parts, and not the time until a later run superseded it."""
    kept = begun()
    wrote(kept, STARTED, acting("run"), at=BEGAN + 1)
    wrote(kept, ("run-resumed", {}), ended("interrupted", 143), at=BEGAN + 40_000)
    found = wrote(kept, ("run-superseded", {"by": "b", "unit": "u"}), at=BEGAN + 90_000)
    assert found.summary_event().data["seconds"] == 3.0


def test_what_was_cut_is_named() -> None:
    found = wrote(begun(), STARTED, acting("a"), finished("a"), acting("b"))
    assert found.summary_event().data["cut"] == ["b"]
    assert "cut" not in wrote(begun(), STARTED, acting("b"), ended("interrupted", 143)).summary_event().data


# -- what cannot be read


def broken(content: bytes) -> Callable[[RunFolder], None]:
    def write(kept: RunFolder) -> None:
        kept.header_path.write_bytes(content)

    return write


def _link(kept: RunFolder) -> None:
    elsewhere = kept.path.parent.parent / "elsewhere"
    kept.header_path.rename(elsewhere)
    kept.header_path.symlink_to(elsewhere)


def _fifo(kept: RunFolder) -> None:
    kept.header_path.unlink()
    os.mkfifo(kept.header_path)


def changed(**fields: Any) -> Callable[[RunFolder], None]:
    def change(kept: RunFolder) -> None:
        kept.header_path.write_text(json.dumps({**json.loads(kept.header_path.read_text()), **fields}))

    return change


HEADERS: dict[str, Callable[[RunFolder], None]] = {
    "empty": broken(b""),
    "half": broken(b'{"id": "2026'),
    "not text": broken(b"\xff\xfe\x00"),
    "a list": broken(b"[]"),
    "null": broken(b"null"),
    "deep": broken(b"[" * 200_000),
    "another id": changed(id="20200101-0000-abc"),
    "no number": changed(began="yesterday"),
    "no text": changed(file=None),
    "no names": changed(withheld=7),
    "a link": _link,
    "a pipe": _fifo,
}


@pytest.mark.parametrize("breaks", HEADERS.values(), ids=HEADERS)
def test_a_header_that_is_none_hides_no_other_run(breaks: Callable[[RunFolder], None]) -> None:
    good, bad = begun(), begun(BEGAN - history.MAX_RUN_AGE - 1)
    breaks(bad)
    assert [one.id for one in history.list_runs()] == [good.id]
    assert history.list_unreadable() == [bad.path]
    history.prune(BEGAN)
    assert bad.path.is_dir(), "what cannot be understood is not removed"


def test_a_field_of_a_later_version_is_passed_over() -> None:
    kept = begun()
    changed(colour="blue")(kept)
    assert history.find_run(kept.id).header == header(kept.id)


NO_EVENTS = [
    b"\n",
    b"nonsense\n",
    b"[1]\n",
    b"7\n",
    b"null\n",
    b'{"time": "x"}\n',
    b"\xff\n",
    b"[" * 100_000 + b"\n",
    b'{"time": "0001-01-01T00:00:00", "run": "x", "event": "y"}\n',
    b'{"time": 1e999, "run": "", "event": ""}\n',
    b"x" * 5000 + b"\n",
]


@pytest.mark.parametrize("line", NO_EVENTS)
def test_a_line_that_is_no_event_hides_no_other_and_ends_the_trust(
    line: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(history, "MAX_EVENT", 4096)
    kept = wrote(begun(), STARTED).folder
    with kept.events_path.open("ab") as file:
        file.write(line)
    found = wrote(kept, ended("interrupted", 143))
    assert [event.event for event in found.read()] == ["run-started", "run-finished"]
    assert (found.status, found.incomplete_reason, found.is_resumable) == (
        "interrupted",
        "a line of it cannot be read",
        False,
    )
    with pytest.raises(NotBegun, match="a line of it cannot be read"):
        resume.require_resumable(found)


@pytest.mark.parametrize("data", [{}, {"name": None, "units": []}, {"status": 7}])
def test_an_event_of_another_version_breaks_no_list(data: dict[str, Any]) -> None:
    found = wrote(begun(), ("run-started", data), ("run-finished", data), ("from-the-future", {"id": []}))
    assert found.summary_event().data["name"] == "upgrade.yaml"


def test_events_that_are_no_file_are_none(home: Path) -> None:
    kept = begun()
    kept.events_path.symlink_to("/dev/zero")
    assert list(history.find_run(kept.id).read()) == []
    with pytest.raises(NotBegun, match="no place"):
        EventWriter(kept, lambda _: None)


@pytest.mark.parametrize(
    ("line", "unfinished"),
    [
        (b"", True),
        (b'{"time": "2026-', True),
        (b"nonsense\n", False),
        (b'{"time": "2026-09-21T14:13:20.000Z", "run": "x", "event": "run-resumed"}\n', True),
    ],
)
def test_only_a_complete_last_line_shows_that_a_run_has_ended(line: bytes, unfinished: bool) -> None:
    """After the end that is recorded, a killed program may have left half a line, or a later part of the run."""
    found = wrote(begun(), STARTED, ended("interrupted", 143))
    with found.folder.events_path.open("ab") as file:
        file.write(line)
    assert found.reload().is_resumable == unfinished


def test_a_record_is_read_without_holding_all_of_it() -> None:
    kept = begun()
    line = Event(BEGAN, kept.id, *finished("x", evidence={"output": "x" * 100_000})).to_line().encode() + b"\n"
    wrote(kept, STARTED)
    with kept.events_path.open("ab") as file:
        file.writelines([line] * 200)
    found = history.find_run(kept.id)
    tracemalloc.start()
    assert sum(1 for _ in found.read()) == 201
    assert (found.status, found.is_resumable, found.summary_event().data["units"]) == (
        "cut-short",
        True,
        ["web.service"],
    )
    assert tracemalloc.get_traced_memory()[1] < 4 * 1024**2
    tracemalloc.stop()


def test_a_link_is_no_run(home: Path) -> None:
    kept = begun()
    elsewhere = begun()
    elsewhere.path.rename(home.parent / elsewhere.id)
    elsewhere.path.symlink_to(home.parent / elsewhere.id)
    (home / "notes").mkdir()
    (home / "20200101-0000-abd").write_text("")
    assert [one.id for one in history.list_runs()] == [kept.id]


# -- what is kept


def test_old_and_surplus_runs_are_removed_but_none_that_can_be_resumed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(history, "MAX_RUNS", 3)
    now = BEGAN + history.MAX_RUN_AGE
    old = BEGAN - 10
    kept_old = [wrote(begun(old), STARTED, acting("x")), wrote(begun(old), STARTED, ended("still-starting", 3))]
    under_way = begun(old)
    writer = EventWriter(under_way, lambda _: None)
    gone = [wrote(begun(old), STARTED, ended()), wrote(begun(old), ("record-lost", {"reason": ""}))]
    many = [wrote(begun(now - at), STARTED, ended()) for at in range(5)]
    history.prune(now)
    left = {one.id for one in history.list_runs()}
    assert left == {under_way.id, *(one.id for one in (*kept_old, *many[:3]))}
    assert all(not one.folder.path.exists() for one in gone)
    writer.close()


def test_what_never_became_a_run_goes_after_a_day(home: Path) -> None:
    fresh, old = store.create_folder(BEGAN), store.create_folder(BEGAN)
    (old.path / ".run.json.12345678").write_text('{"id"')  # The program was killed while it wrote this.
    at_work = store.create_folder(BEGAN)
    writer = EventWriter(at_work, lambda _: None)
    os.utime(fresh.path, (BEGAN, BEGAN))
    for one in (old, at_work):
        os.utime(one.path, (BEGAN - 90_000, BEGAN - 90_000))
    history.prune(BEGAN)
    assert {path.name for path in home.iterdir()} == {fresh.id, at_work.id}
    assert history.list_runs() == []
    writer.close()


# -- one that goes on


def test_following_ends_with_the_run_and_sees_all_of_it() -> None:
    kept = begun()
    writer = EventWriter(kept, lambda _: None)
    coming = [Event(BEGAN, kept.id, *STARTED), Event(BEGAN, kept.id, *acting("x")), Event(BEGAN, kept.id, *ended())]
    paused = []

    def pause(seconds: float) -> None:
        paused.append(seconds)
        if coming:
            writer(coming.pop(0))
        else:
            writer.close()

    seen = [event.event for event in history.find_run(kept.id).follow(pause)]
    assert seen == ["run-started", "step-acting", "run-finished"]
    assert len(paused) == 4


def test_following_ends_when_the_program_is_killed_in_the_middle_of_a_line() -> None:
    kept = begun()
    writer = EventWriter(kept, lambda _: None)
    writer(Event(BEGAN, kept.id, *STARTED))

    def killed(_: float) -> None:
        with kept.events_path.open("ab") as file:
            file.write(b'{"time": ')
        writer.close()

    assert [event.event for event in history.find_run(kept.id).follow(killed)] == ["run-started"]


def test_following_what_has_ended_is_reading_it() -> None:
    found = wrote(begun(), STARTED, ended())

    def never(_: float) -> None:
        raise AssertionError("there is nothing to wait for")

    assert list(found.follow(never)) == list(found.read())
    assert list(RunRecord(RunFolder("x", Path("/nowhere")), header("x")).follow(never)) == []
