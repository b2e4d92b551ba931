"""The live view: what it shows of the events at a moment, in a width and a height."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest

from runbook.events import (
    Event,
    Notice,
    Payload,
    PlanFinished,
    RunFinished,
    RunStarted,
    StepActing,
    StepFinished,
    StepRetrying,
    StepStarted,
    StepWaiting,
    Waiting,
)
from runbook.report.layout import Block, Layout, Piece, Screen
from runbook.report.live import LiveReport
from runbook.util.text_width import measure
from tests.docs import blocks_of_test
from tests.unit.fake_machine import FakeClock

WAIT = {"id": "remediate.check.wait-ready", "type": "wait-ready"}
HELD = "port 18789 is held by PID 74 (openclaw), in session-9.scope of user agentops: not this unit"
HEALTHY: dict[str, Any] = {"reason": "healthy for 6.2s of 40s", "healthy": 6.2, "healthy_for": 40.0}
FACTS = ["port 18789 is held only by PID 137", "http://127.0.0.1:18789/health: 200"]


class Shown(Screen):
    """Remembers the live view."""

    block: Block | None = None

    def line(self, pieces: Any) -> None:
        """Ignore it."""

    def show(self, block: Block | None) -> None:
        self.block = block

    def lines(self, width: int = 80, height: int = 24) -> list[str]:
        assert self.block is not None
        return ["".join(text for text, _ in line).rstrip() for line in self.block(width, height)]


class Run:
    """Passes events to a live view, at times of a clock."""

    def __init__(self, output: Sequence[str] = (), between: str = "") -> None:
        self.clock = FakeClock()
        self.screen = Shown()
        self.reported: list[Event] = []
        self.report = LiveReport(
            self.reported.append, Layout(self.screen), self.clock, lambda _, most: output[-most:], between=between
        )

    def __call__(self, payload: Payload, seconds: float = 0.0) -> None:
        """Let an event happen after some seconds."""
        self.clock.time += seconds
        self.report(Event.of(self.clock.now(), "run-1", payload))

    def begin(self, name: str = "wait-ready") -> None:
        self(StepStarted(id="remediate", type="remediate", name="remediate"))
        self(StepStarted(**WAIT, name=name))


def waiting(**fields: Any) -> StepWaiting:
    return StepWaiting(**{**WAIT, "seconds": 0.0, "left": 101.0, **fields})


def test_the_numbers_move_each_second_between_two_events() -> None:
    run = Run()
    run.begin()
    run(waiting(**HEALTHY, facts=FACTS), 5.0)
    shown = []
    for _ in range(3):
        shown.append(run.screen.lines()[0])
        run.clock.time += 1.0
    assert shown == [
        "  ..      wait-ready         healthy 6s of 40s, 1min 41s left                 5s",
        "  ..      wait-ready         healthy 7s of 40s, 1min 40s left                 6s",
        "  ..      wait-ready         healthy 8s of 40s, 1min 39s left                 7s",
    ]
    run.clock.time += 300
    assert "healthy 40s of 40s, 0s left" in run.screen.lines()[0]


def test_all_numbers_change_at_the_same_moment() -> None:
    run = Run()
    run.begin()
    run(waiting(**HEALTHY), 5.3)
    seen = []
    for _ in range(40):
        seen.append(run.screen.lines()[0])
        run.clock.time += 0.05
    assert len(dict.fromkeys(seen)) == 3


@pytest.mark.parametrize("width", [40, 60, 80, 140, 200])
def test_it_fits_into_the_width(width: int) -> None:
    run = Run(output=["\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 200, "added 1200 packages " * 20])
    run.begin("wait until the gateway \u4e2d is ready")
    folder = "/var/lib/runbook/runs/20261130-1249-azj/output"
    run(waiting(reason=HELD, facts=FACTS, output=f"{folder}/remediate.check.wait-ready.log"), 72.0)
    lines = run.screen.lines(width)
    assert max(map(measure, lines)) <= width
    assert "".join(" ".join(lines).split()).startswith("..waituntilthegat")
    shown = "".join(" ".join(lines).replace("1min 12s", "", 1).split())
    for text in (HELD, *FACTS, "1min 41s left", folder):
        assert "".join(text.split()) in shown
    assert sum(line.strip().startswith("| ") for line in lines) == 2


@pytest.mark.parametrize(
    ("width", "expected"),
    [
        (
            40,
            [
                "  ..      wait-ready                  5s",
                "            healthy 6s of 40s,",
                "            1min 41s left",
                "            port 18789 is held only by",
                "            PID 137",
                "            http://127.0.0.1:18789/healt",
                "            h: 200",
            ],
        ),
        (
            60,
            [
                "  ..      wait-ready                                      5s",
                "            healthy 6s of 40s, 1min 41s left",
                "            port 18789 is held only by PID 137",
                "            http://127.0.0.1:18789/health: 200",
            ],
        ),
        (
            140,
            [
                f"  ..      wait-ready         healthy 6s of 40s, 1min 41s left{'5s':>79}",
                "            port 18789 is held only by PID 137",
                "            http://127.0.0.1:18789/health: 200",
            ],
        ),
    ],
)
def test_the_lines_of_a_wait(width: int, expected: list[str]) -> None:
    run = Run()
    run.begin()
    run(waiting(**HEALTHY, facts=FACTS), 5.0)
    assert run.screen.lines(width) == expected


def test_a_command_shows_its_last_lines_and_where_its_output_is() -> None:
    run = Run(output=[f"line {number}" for number in range(9)])
    run(StepStarted(id="update", type="update", name="update"))
    run(StepActing(id="update", type="update", reason="run `npm install`", evidence={}))
    assert run.screen.lines() == ["  ..    update               run `npm install`                                0s"]
    wait = StepWaiting(
        id="update", type="update", reason="waiting for `npm install`", seconds=0.0, left=600.0, output="/r/update.log"
    )
    run(wait, 2.0)
    assert run.screen.lines() == [
        "  ..    update               waiting for `npm install`; 10min left            2s",
        "          | line 5",
        "          | line 6",
        "          | line 7",
        "          | line 8",
        "          output: /r/update.log",
    ]
    assert run.screen.lines(height=4)[1:] == [
        "          | line 7",
        "          | line 8",
        "          output: /r/update.log",
    ]
    assert len(run.screen.lines(height=1)) == 1


def test_what_a_command_wrote_does_not_steer_the_terminal() -> None:
    run = Run(output=["\x1b]0;evil\x07"])
    run.begin()
    run(waiting(reason="x", output="/o"))
    assert run.screen.lines()[1] == "            | \\x1b]0;evil\\x07"


def test_a_pause_counts_down() -> None:
    run = Run()
    run.begin()
    run(StepRetrying(**WAIT, attempt=1, pause=30.0, verdict="probe-failed", reason="x"), 1.0)
    run.clock.time += 9
    assert run.screen.lines() == ["  ..      wait-ready         attempt 2 follows; 21s left                     10s"]


def test_a_start_limit_counts_down() -> None:
    run = Run()
    run.begin("restart")
    why = "gw.service was started 5 times, and its start limit is 5 in 1min"
    run(waiting(reason=f"{why}; it is over in 12s", opens_in=11.6, left=90.0, facts=[why]), 3.0)
    shown = []
    for _ in range(3):
        shown.append(run.screen.lines()[0])
        run.clock.time += 1.0
    assert shown == [
        "  ..      restart            waits up to 12s, or until the unit exits         3s",
        "  ..      restart            waits up to 11s, or until the unit exits         4s",
        "  ..      restart            waits up to 10s, or until the unit exits         5s",
    ]
    assert why in " ".join(" ".join(run.screen.lines()[1:]).split())
    run.clock.time += 300
    assert "waits up to 0s, or until the unit exits" in run.screen.lines()[0]


def test_a_wait_for_a_lock_counts_down_until_the_run_begins() -> None:
    run = Run()
    wait = Waiting(name="lock", reason="gw.service is locked by run x (PID 74)", seconds=15.0, left=45.0)
    run(wait)
    run.clock.time += 2
    assert run.screen.lines() == [
        "  ..    lock                 gw.service is locked by run x (PID 74);         17s",
        "                             43s left",
    ]
    run(RunStarted(name="x"))
    assert run.screen.block is None


def test_a_look_is_shown_after_a_second_without_an_event_until_the_end() -> None:
    run = Run(between="reads the machine")
    assert run.screen.lines() == []
    run.clock.time += 1.5
    assert run.screen.lines() == [f"  ..    look                 reads the machine{'1s':>34}"]
    run(Notice(text="x"))
    assert run.screen.lines() == []
    run.clock.time += 12
    assert run.screen.lines() == [f"  ..    look                 reads the machine{'12s':>34}"]
    run(PlanFinished(status="ok", exit=0, reason="nothing was changed"))
    assert run.screen.block is None


def test_the_step_that_holds_others_is_shown_between_them_and_nothing_at_the_end() -> None:
    run = Run()
    run.begin()
    ended: dict[str, Any] = {**WAIT, "status": "ok", "verdict": None, "reason": "", "attempts": 1, "seconds": 0.0}
    run(StepFinished(**ended, evidence={}))
    assert run.screen.lines() == [f"  ..    remediate            reads the machine{'0s':>34}"]
    run(Notice(text="x"))
    assert run.screen.lines() == [f"  ..    remediate            reads the machine{'0s':>34}"]
    run(RunFinished(status="interrupted", exit=130, reason="x"))
    assert run.screen.block is None
    assert len(run.reported) == 5


def test_an_event_that_was_recorded_a_while_ago_counts_from_then() -> None:
    """`show --follow` begins in the middle of a step."""
    run = Run()
    began = run.clock.now()
    run.clock.time += 90
    run.report(Event.of(began, "run-1", StepStarted(**WAIT, name="wait-ready")))
    run.report(Event.of(began + 80, "run-1", waiting(reason="x", seconds=80.0, left=40.0)))
    assert run.screen.lines() == ["  ..      wait-ready         x; 30s left                                1min 30s"]


def test_an_event_of_another_version_changes_nothing() -> None:
    run = Run()
    run.begin()
    run.report(Event(run.clock.now(), "run-1", "step-waiting", {"id": "remediate.check.wait-ready"}))
    run.report(Event(run.clock.now(), "run-1", "unheard-of", {}))
    assert run.screen.lines() == [f"  ..      wait-ready         reads the machine{'0s':>34}"]


def test_the_page_shows_the_live_view() -> None:
    (page,) = blocks_of_test("test_the_page_shows_the_live_view")
    run = Run()
    run.begin()
    run(waiting(**HEALTHY, left=100.5, facts=FACTS), 19.0)
    assert run.screen.lines() == page.splitlines()[-3:]


def styles(lines: Sequence[Sequence[Piece]]) -> set[str]:
    return {style for line in lines for _, style in line if style}


def test_colour_is_for_the_mark_and_the_time_alone() -> None:
    run = Run()
    run.begin()
    run(waiting(**HEALTHY, facts=FACTS), 5.0)
    assert run.screen.block is not None
    assert styles(run.screen.block(80, 24)) == {"bold", "dim"}
