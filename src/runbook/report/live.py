"""The live view: the step that runs, for how long, what it waits for now, and what its command wrote last.

It is a fold over the events. They carry times, from which the view computes its numbers each second.
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Callable, Sequence
from dataclasses import replace

from runbook import events
from runbook.model import Clock, frozen
from runbook.report.layout import Collector, Layout, Piece
from runbook.util.timespan import format_span

MAX_TAIL_LINES = 4  # last lines of a command that are shown
MIN_SHOWN_LOOK = 1.0  # seconds after which it is shown that no step runs, and the machine is looked at
STARTED = "reads the machine"  # what a step does that has reported nothing yet
TIME_COLUMNS = 8  # for the time of a step: "12min 5s"
UNBROKEN = "\N{NO-BREAK SPACE}"  # stands for a space at which no line ends

ReadOutput = Callable[[str, int], Sequence[str]]  # returns the last lines of a file, at most so many


@frozen
class LiveStep:
    """A step that runs. Times are seconds of the monotonic clock."""

    id: str
    name: str
    began: float
    reported: float = 0.0  # when what follows was reported
    text: str = ""  # what it does or waits for
    left: float | None = None  # the seconds that it will wait at most
    healthy: float | None = None  # the seconds for which its unit has been healthy
    healthy_for: float = 0.0  # the seconds for which the unit must be
    opens_in: float | None = None  # the seconds until the start limit of its unit allows a start
    facts: Sequence[str] = ()
    output: str = ""  # the file that its command writes to

    def describe(self, now: float) -> str:
        """Return what it does or waits for, with the numbers of this moment."""
        # All numbers change at the same moments: when the step is a whole number of seconds old.
        passed = self.began + math.floor(now - self.began) - self.reported
        text = self.text
        if self.healthy is not None:
            healthy = min(max(self.healthy, self.healthy + passed), self.healthy_for)
            text = f"healthy {format_span(math.floor(healthy))} of {format_span(self.healthy_for)}"
        if self.opens_in is not None:
            return f"waits up to {_count_down(self.opens_in, passed)}, or until the unit exits"
        if self.left is None:
            return text
        left = f"{_count_down(self.left, passed)} left"
        return f"{text}{'; ' if text == self.text else ', '}{left.replace(' ', UNBROKEN)}"


def _count_down(left: float, passed: float) -> str:
    return format_span(math.ceil(max(0.0, min(left, left - passed))))


def draw_step(
    step: LiveStep, now: float, read_output: ReadOutput, width: int, height: int
) -> Sequence[Sequence[Piece]]:
    """Return the lines that show a step at this moment, at most `height`. The last lines of output yield first."""
    screen = Collector(width)
    page, depth = Layout(screen), len(re.findall(r"\.(?:check|fix)\.", step.id))
    # The width of the time stays, so that its text is not broken into other lines when it has one more digit.
    age = format_span(math.floor(now - step.began)).rjust(TIME_COLUMNS)
    page.entry("..", step.name, step.describe(now), age, depth=depth)
    for fact in step.facts:
        page.detail(fact, depth=depth)
    where = Collector(width)
    if step.output:
        Layout(where).detail(f"output: {step.output}", depth=depth)
        room = height - len(screen.lines) - len(where.lines)
        for line in read_output(step.output, min(room, MAX_TAIL_LINES)) if room > 0 else ():
            page.quote(line, depth=depth, in_one_line=True)
    lines = [*screen.lines, *where.lines][:height]
    return [[(text.replace(UNBROKEN, " "), style) for text, style in line] for line in lines]


class LiveReport:
    """Passes each event to a report, and shows below its lines the step that runs."""

    def __init__(
        self,
        report: Callable[[events.Event], None],
        page: Layout,
        clock: Clock,
        read_output: ReadOutput = lambda *_: (),  # another process cannot mask the secrets in it
        *,
        between: str = "",  # what is done between two events outside of a step, until the last event
    ) -> None:
        self._report = report
        self._page = page
        self._clock = clock
        self._read_output = read_output
        self._steps: dict[str, LiveStep] = {}  # a remediation, and the step in it that runs
        self._between = between
        self._rest()
        self._page.show(self._block())

    def __call__(self, event: events.Event) -> None:
        """Show one event."""
        self._report(event)
        with contextlib.suppress(ValueError):  # The record of another version, which `report` has shown.
            self._follow(event)
        self._page.show(self._block())

    def _block(self) -> Callable[[int, int], Sequence[Sequence[Piece]]] | None:
        if not self._steps:
            return None
        *_, step = self._steps.values()
        return lambda width, height: self._draw(step, width, height)

    def _draw(self, step: LiveStep, width: int, height: int) -> Sequence[Sequence[Piece]]:
        now = self._clock.monotonic()
        if not step.id and now - step.began < MIN_SHOWN_LOOK:
            return ()  # Most looks are so short that the line would only flicker.
        return draw_step(step, now, self._read_output, width, height)

    def _rest(self) -> None:
        """Show from now on what is done outside of a step."""
        if self._between:
            self._steps[""] = LiveStep("", "look", self._clock.monotonic(), text=self._between)

    def _follow(self, event: events.Event) -> None:
        payload = event.payload
        # The event may have been recorded a while ago, and the wall clock may be set at any time.
        at = self._clock.monotonic() - max(0.0, self._clock.now() - event.time)
        self._steps.pop("", None)
        self._rest()
        if isinstance(payload, events.Waiting):
            begun = at - payload.seconds
            self._steps[""] = LiveStep("", payload.name, begun, at, payload.reason, payload.left)
        elif isinstance(payload, events.RunResumed | events.RunFinished | events.PlanFinished):
            self._steps.clear()
        elif isinstance(payload, events.StepStarted):
            self._steps[payload.id] = LiveStep(payload.id, payload.name, at, text=STARTED)
        elif isinstance(payload, events.StepFinished):
            self._steps.pop(payload.id, None)
        elif isinstance(payload, events.StepPayload) and (step := self._steps.get(payload.id)):
            self._steps[payload.id] = _report_to(step, payload, at)


def _report_to(step: LiveStep, payload: events.StepPayload, at: float) -> LiveStep:
    """Return a step as an event reports it."""
    begun = LiveStep(step.id, step.name, step.began, at)
    match payload:
        case events.StepActing(reason=reason):
            return replace(begun, text=reason)
        case events.StepRetrying(attempt=number, pause=pause):
            return replace(begun, text=f"attempt {number + 1} follows", left=pause)
        case events.StepWaiting(reason=reason, left=left, facts=facts, output=output):
            begun = replace(begun, text=reason, left=left, facts=facts, output=output, opens_in=payload.opens_in)
            return replace(begun, healthy=payload.healthy, healthy_for=payload.healthy_for or 0.0)
    return step
