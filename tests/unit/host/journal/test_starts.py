"""The starts of a unit, as systemd 252 and 257 log them. A script stands in for journalctl."""

from __future__ import annotations

import json
from pathlib import Path

from runbook.host.journal import starts
from runbook.host.queries import Answer, StartEvent, StartEventKind, StartTimesQuery
from tests.unit.host.conftest import Ask

STARTING, STARTED = starts.START_MESSAGE_IDS
QUERY = StartTimesQuery("gw.service", 12.5)


def entry(seconds: float, message_id: str = "", invocation: str = "", message: str = "") -> dict[str, str]:
    fields = {"MESSAGE_ID": message_id, "INVOCATION_ID": invocation, "MESSAGE": message}
    return {starts.SENT_TIME_FIELD: str(int(seconds * 1e6)), **fields}


def events(answer: Answer[tuple[StartEvent, ...]]) -> list[tuple[float, str]]:
    assert answer.ok, answer.detail
    return [(event.at, str(event.kind)) for event in answer.value or ()]


def write(played: Path, *entries: dict[str, str]) -> None:
    (played / "entries").write_text("".join(json.dumps(each) + "\n" for each in entries))


def test_each_invocation_is_one_start(played: Path, ask: Ask) -> None:
    write(
        played,
        entry(20, STARTING, "a"),
        entry(21, STARTED, "a"),
        entry(22, STARTED, "b"),
        entry(23, STARTED),  # A Condition skipped it.
    )
    assert events(ask(QUERY)) == [(20.0, "start"), (22.0, "start")]
    call = (played / "call").read_text()
    assert " --since=@12.500000 _PID=1 UNIT=gw.service MESSAGE_ID=" in call
    assert " + _PID=1 MESSAGE=Reloading. MESSAGE=Reexecuting. + _UID=0 OBJECT_SYSTEMD_UNIT=gw.service " in call


def reset(seconds: float, verdict: str = "", step: str = "fix") -> dict[str, str]:
    return {**entry(seconds), "RUNBOOK_RUN": "20261130-1956-5qc", "RUNBOOK_STEP": step, "RUNBOOK_VERDICT": verdict}


def test_a_reset_by_this_program_counts_from_the_moment_before_it(played: Path, ask: Ask) -> None:
    write(played, entry(20, STARTED, "a"), reset(21), entry(21.5, STARTED, "b"), reset(22, "reset"))
    assert events(ask(QUERY)) == [(20.0, "start"), (21.5, "start"), (21.0, "reset")]
    # The step failed, or has not ended.
    write(played, reset(21), reset(22, "access-denied"), reset(23, step="again"))
    assert events(ask(QUERY)) == []


def test_a_restart_by_systemd_itself(played: Path, ask: Ask) -> None:
    scheduled = entry(20, starts.RESTART_MESSAGE_ID, message="gw.service: Scheduled restart job, counter is at 1.")
    write(played, scheduled, entry(21, STARTED, "a"), entry(22, STARTED, "b"))
    assert events(ask(QUERY)) == [(21.0, "restart"), (22.0, "start")]


def test_a_reload_clears_the_counter(played: Path, ask: Ask) -> None:
    write(played, entry(20, STARTED, "a"), entry(21, message="Reloading."), entry(22, STARTED, "b"))
    assert events(ask(QUERY)) == [(20.0, "start"), (21.0, "cleared"), (22.0, "start")]


def test_a_requested_start_before_an_automatic_restart_counts_beside_it(played: Path, ask: Ask) -> None:
    scheduled = "gw.service: Scheduled restart job, restart counter is at 1."
    requested = "gw.service: Scheduled restart job immediately on client request, restart counter is at 1."
    write(
        played,
        entry(20, starts.RESTART_MESSAGE_ID, message=scheduled),
        entry(21, starts.RESTART_MESSAGE_ID, message=requested),
        entry(22, STARTED, "a"),
    )
    assert events(ask(QUERY)) == [(21.0, "start"), (22.0, "restart")]


def test_the_time_at_which_journald_received_it_is_second_best(played: Path, ask: Ask) -> None:
    write(played, {"__REALTIME_TIMESTAMP": "20000000", "MESSAGE_ID": STARTED, "INVOCATION_ID": "a"})
    assert ask(QUERY).value == (StartEvent(20.0, StartEventKind.START),)


def test_a_journal_that_is_not_read_to_its_end_is_no_answer(played: Path, ask: Ask) -> None:
    (played / "journalctl").write_text("#!/bin/sh\nexec sleep 60\n")
    answer = ask(QUERY, 0.3)
    assert (answer.ok, answer.value, answer.detail) == (False, None, "no answer in time")
