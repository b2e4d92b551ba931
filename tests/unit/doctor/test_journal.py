"""What the journal has of a unit, as far as it can be read in time."""

from __future__ import annotations

import re

from runbook.doctor.journal import JOURNAL_TIMEOUT, read_journal
from runbook.host.facts import ActiveState
from runbook.host.queries import Answer, JournalLine, PreviousExit
from tests.unit.doctor.diagnosed import FAILED, gw, healthy
from tests.unit.fake_machine import EPOCH, INVOCATION, FakeMachine, journal_lines, unit

LINES = "journal tail of gw.service"
LOGGED = "what systemd logged of gw.service"
EXIT = f"exit before {INVOCATION} of gw.service"


def test_a_line_is_shown_once() -> None:
    machine = healthy()
    machine.answers[LOGGED] = [journal_lines("gw.service: Failed at step EXEC", pid=1)]
    machine.answers[LINES] = [journal_lines("gw.service: Failed at step EXEC", "bye")]
    found = read_journal(machine, machine, gw(machine))
    assert (found.systemd_lines, found.lines) == (("gw.service: Failed at step EXEC",), ("bye",))
    assert found.budget is not None


def test_each_line_has_its_time() -> None:
    """Lines of earlier starts would read like those of the last one."""
    machine = healthy()
    now = EPOCH + machine.clock.time
    entries = (JournalLine(100, "bye", now - 86400), JournalLine(100, "ready", now))
    machine.answers[LINES] = [Answer(True, "", entries)]
    bye, ready = read_journal(machine, machine, gw(machine)).lines
    assert re.fullmatch(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d bye", bye)
    assert re.fullmatch(r"\d\d:\d\d:\d\d ready", ready)


def test_the_last_exit_of_a_start_that_waits_again_is_that_of_the_one_before() -> None:
    waits = {"active_state": ActiveState.ACTIVATING, "sub_state": "start", "type": "notify"}
    machine = FakeMachine({"gw.service": unit(**waits, inactive_enter_monotonic=900_000_000)})
    machine.answers[EXIT] = [Answer(True, "", PreviousExit("timeout", False, "ExecStart", "killed", 15))]
    assert "did not report that it is ready" in read_journal(machine, machine, gw(machine)).last_exit


def test_the_last_exit_is_that_of_the_unit_or_of_the_invocation_before() -> None:
    down = FakeMachine({"gw.service": unit(**FAILED)})
    assert read_journal(down, down, gw(down)).last_exit == "its main process exited with status 78"
    up = healthy(n_restarts=1)
    up.answers[EXIT] = [Answer(True, "", PreviousExit("signal", True, "ExecStart", "killed", 9))]
    assert "was killed by signal 9" in read_journal(up, up, gw(up)).last_exit
    assert read_journal(healthy(), up, gw(healthy())).last_exit == ""


def test_a_journal_that_cannot_be_read() -> None:
    machine = healthy()
    machine.answers[LINES] = [Answer(False, "this user may not read all of it")]
    found = read_journal(machine, machine, gw(machine))
    assert (found.lines, found.unreadable) == ((), "this user may not read all of it")


def test_a_journal_that_does_not_answer_in_time() -> None:
    machine = healthy()
    machine.slow = 60.0
    began = machine.clock.time
    found = read_journal(machine, machine, gw(machine))
    assert (found.lines, found.systemd_lines) == ((), ())
    assert machine.clock.time - began < JOURNAL_TIMEOUT + 1
