"""A wait outside of an attempt: when it is reported."""

from __future__ import annotations

from runbook.engine.execution.long_wait import LongWait
from runbook.engine.execution.stream import EventStream
from runbook.events import Event, StepWaiting, select
from runbook.model import Deadline
from tests.unit.fake_machine import FakeClock
from tests.unit.runs import step


def test_a_wait_is_reported_every_15_seconds_until_its_end() -> None:
    clock, seen = FakeClock(), list[Event]()
    wait = LongWait(
        EventStream("run-1", clock, (seen.append,)), step("restart"), "gw to start", Deadline.after(clock, 40)
    )
    wait.report()
    for _ in range(60):
        clock.time += 1
        wait.report_if_due()
    reports = [(one.id, one.reason, one.seconds, one.left) for one in select(seen, StepWaiting)]
    assert reports == [("restart", "gw to start", after, 40 - after) for after in (0, 15, 30)]
    assert wait.until_report == 0
