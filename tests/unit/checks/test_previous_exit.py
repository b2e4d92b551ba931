"""The lookup of the previous exit: what it repeats, when it gives up, and how it words what it finds."""

from __future__ import annotations

from pathlib import Path

import pytest

from runbook.checks.previous_exit import (
    ANSWER_GRACE,
    EXIT_LOOKUP_TIMEOUT,
    UNKNOWN_EXIT,
    ExitDescription,
    PreviousExitLookup,
)
from runbook.host.queries import Answer, PreviousExit
from runbook.spec.state import RunState
from tests.unit.fake_machine import INVOCATION, FakeMachine, unit

QUERY = f"exit before {INVOCATION} of gw.service"


class Lookup:
    """A lookup that finds these answers, one after the other."""

    def __init__(self, *answers: Answer[PreviousExit], slow: float = 0.0) -> None:
        self.machine = FakeMachine(units={"gw.service": unit(type="notify")}, slow=slow)
        self.machine.answers = {QUERY: list(answers)}
        self.run = RunState("run-1", Path("/srv"))
        self.lookup = PreviousExitLookup()

    def poll(self, after: float = 0.0) -> ExitDescription | None:
        self.machine.clock.time += after
        return self.lookup.poll(self.machine, self.machine.units["gw.service"], self.run)


@pytest.mark.parametrize(
    ("found", "described"),
    [
        (
            PreviousExit("exit-code", True, "ExecStart", "exited", 78),
            ExitDescription("its main process exited with status 78"),
        ),
        (
            PreviousExit("signal", True, "ExecStart", "killed", 9),
            ExitDescription("its main process was killed by signal 9, which systemd did not send"),
        ),
        (
            PreviousExit("exit-code", False, "ExecStartPre", "exited", 7),
            ExitDescription("its ExecStartPre= exited with status 7"),
        ),
        (
            PreviousExit("signal", True, "ExecStopPost", "dumped", 6),
            ExitDescription("its ExecStopPost= was killed by signal 6"),
        ),
        (PreviousExit("success", True), ExitDescription("it exited, and systemd counts that as a success")),
        (PreviousExit(), UNKNOWN_EXIT),
        (
            PreviousExit("timeout", False),
            ExitDescription(
                "it did not report that it is ready within the 1min 30s of TimeoutStartSec= (Type=notify), "
                "and systemd stopped it",
                not_notified=True,
            ),
        ),
        (PreviousExit("timeout", True), ExitDescription("Result is timeout")),
    ],
)
def test_its_words(found: PreviousExit, described: ExitDescription) -> None:
    assert Lookup(Answer(True, "", found)).poll() == described


def test_it_repeats_the_query_until_the_entries_are_there() -> None:
    there = Answer(True, "", PreviousExit("success"))
    lookup = Lookup(Answer(True, ""), Answer(True, ""), there)
    assert [lookup.poll(), lookup.poll()] == [None, None]
    assert lookup.poll() == ExitDescription("it exited, and systemd counts that as a success")
    assert lookup.run.query_count == 3


def test_it_gives_up_when_its_time_is_over() -> None:
    lookup = Lookup(Answer(True, ""))
    assert lookup.poll() is None
    assert lookup.poll(EXIT_LOOKUP_TIMEOUT) is UNKNOWN_EXIT


def test_it_gives_up_at_once_if_the_journal_cannot_be_read() -> None:
    assert Lookup(Answer(False, "this user may not read it")).poll() is UNKNOWN_EXIT


def test_a_query_that_is_never_answered() -> None:
    lookup = Lookup(Answer(True, ""), slow=60)
    assert [lookup.poll(), lookup.poll(EXIT_LOOKUP_TIMEOUT)] == [None, None]
    assert lookup.poll(ANSWER_GRACE) is UNKNOWN_EXIT
