"""What the journal has of a unit: its last lines, its starts, its last exit. All are read at the same time."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from runbook.checks.exit_reason import NOTIFY_TYPES, describe_exit
from runbook.checks.previous_exit import UNKNOWN_EXIT, PreviousExitLookup
from runbook.checks.start_limit import StartBudget, has_start_limit, query_start_budget
from runbook.host.facts import UNLOADABLE, ActiveState, Unit
from runbook.host.interface import HostView, Waiter
from runbook.host.queries import Answer, JournalLine, JournalTailQuery, Query
from runbook.model import Deadline, Wake
from runbook.spec.state import RunState

JOURNAL_TIMEOUT = 2.0  # seconds for all reads together
EXIT_TIMEOUT = 0.3  # seconds in which systemd's entries about the last exit must be there
ANSWER_INTERVAL = 0.02  # seconds between two looks for the answers
SYSTEMD_TAIL = 3  # lines of systemd that are read
UNIT_LINES = 3  # lines of the unit's own log
RECENT_RESTART = 600.0  # seconds before the last start of a unit that systemd restarted by itself
DATING_SLACK = 1.0  # seconds by which a busy journald may date a line before the start of its unit

Poll = Callable[[], Answer[Any] | None]
NOTHING: Answer[Any] = Answer(True, "")


class JournalFacts(NamedTuple):
    """What was read. What could not be read is empty."""

    systemd_lines: tuple[str, ...] = ()  # warnings and errors of systemd about the unit
    lines: tuple[str, ...] = ()  # of the unit's own log
    last_exit: str = ""  # how the last invocation ended that ended, in words
    budget: StartBudget | None = None  # the starts in the window of the start limit
    unreadable: str = ""  # why the journal cannot be read; empty if it can


NO_JOURNAL = JournalFacts()


def read_journal(view: HostView, waiter: Waiter, unit: Unit) -> JournalFacts:
    """Read it, for at most JOURNAL_TIMEOUT. Raises HostError and Interrupted."""
    run = RunState("doctor", Path("/"))
    polls: list[Poll] = [
        _poll_lines(view, unit, run, SYSTEMD_TAIL, of_manager=True),
        _poll_lines(view, unit, run, UNIT_LINES, of_manager=False),
        _poll_last_exit(view, unit, run),
        _poll_budget(view, unit, run),
    ]
    by_manager, own, last_exit, budget = _await(view, waiter, polls, JOURNAL_TIMEOUT)
    now = view.clock.now()
    logged = _texts(by_manager, now)
    lines = tuple(line for line in _texts(own, now) if line not in logged)
    unreadable = next((answer.detail for answer in (by_manager, own) if not answer.ok), "")
    return JournalFacts(logged, lines, last_exit.value or "", budget.value, unreadable)


def read_budgets(
    view: HostView, waiter: Waiter, units: Sequence[Unit], seconds: float
) -> tuple[Answer[StartBudget] | None, ...]:
    """Read the starts in the windows of several units' start limits; None for one that takes longer than `seconds`."""
    run = RunState("doctor-budgets", Path("/"))
    return _await(view, waiter, [_poll_budget(view, unit, run) for unit in units], seconds, missing=None)


def _await(
    view: HostView, waiter: Waiter, polls: Sequence[Poll], seconds: float, missing: Answer[Any] | None = NOTHING
) -> tuple[Any, ...]:
    """Return the answers; `missing` for those that do not come in time."""
    deadline = Deadline.after(view.clock, seconds)
    answers = [poll() for poll in polls]
    while None in answers and not deadline.expired:
        waiter.wait(Wake(within=ANSWER_INTERVAL, pending=True), deadline)
        answers = [known or poll() for known, poll in zip(answers, polls, strict=True)]
    return tuple(answer or missing for answer in answers)


def _texts(answer: Answer[tuple[JournalLine, ...]], now: float) -> tuple[str, ...]:
    """Return lines with their times: lines of earlier starts would read like those of the last one."""
    return tuple(f"{format_clock(line.at, now)} {line.text}" if line.at else line.text for line in answer.value or ())


def format_clock(moment: float, now: float) -> str:
    """Return a time of the epoch in local time: "15:43:02", with the date if that is not today."""
    at, today = time.localtime(moment), time.localtime(now)
    day = "" if at[:3] == today[:3] else f"{time.strftime('%Y-%m-%d', at)} "
    return f"{day}{time.strftime('%H:%M:%S', at)}"


def _poll_lines(view: HostView, unit: Unit, run: RunState, lines: int, *, of_manager: bool) -> Poll:
    """Read the end of a log: since the last start, and in a loop since earlier ones.

    Of a unit that was not started since systemd loaded it, only what is wrong with its file matters.
    """
    is_wrong_file = of_manager and unit.load_state in UNLOADABLE
    if not unit.inactive_exit_monotonic and not is_wrong_file:
        return lambda: NOTHING
    since = max(0.0, unit.inactive_exit / 1e6 - (RECENT_RESTART if unit.n_restarts else DATING_SLACK))
    tail = JournalTailQuery(unit.name, since, lines=lines, of_user=unit.of_user, of_manager=of_manager)
    tail = replace(tail, since=0.0, latest=True) if is_wrong_file else tail
    return partial(view.query, Query(tail, run.next_query_id(), JOURNAL_TIMEOUT))


def _poll_last_exit(view: HostView, unit: Unit, run: RunState) -> Poll:
    """Look for the last exit: systemd's properties show it until the next start, and the journal after that."""
    if unit.exec_main_code or unit.failed_command or unit.result not in ("", "success"):
        return lambda: Answer(True, "", describe_exit(unit))
    waits = unit.type in NOTIFY_TYPES and unit.active_state is ActiveState.ACTIVATING
    if not unit.n_restarts and not (waits and unit.previous_end_monotonic):
        return lambda: NOTHING
    lookup = PreviousExitLookup(deadline=view.clock.monotonic() + EXIT_TIMEOUT)

    def poll() -> Answer[str] | None:
        found = lookup.poll(view, unit, run)
        if found is None:
            return None
        return Answer(True, "", "" if found is UNKNOWN_EXIT else found.text)

    return poll


def _poll_budget(view: HostView, unit: Unit, run: RunState) -> Poll:
    if not has_start_limit(unit):
        return lambda: NOTHING
    number, asked = run.next_query_id(), view.clock.now()
    return lambda: query_start_budget(view, unit, number, asked, run)
