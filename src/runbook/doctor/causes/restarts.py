"""Why a unit is started again and again, or not any more."""

from __future__ import annotations

from collections.abc import Iterator

from runbook.checks.exit_reason import USEC_INFINITY, is_restart_prevented, will_auto_restart
from runbook.checks.start_limit import StartBudget
from runbook.doctor.drop_in import make_drop_in
from runbook.doctor.facts import LOOPS, UnitFacts
from runbook.doctor.findings import Cause, DropIn, Severity
from runbook.doctor.wording import format_moment
from runbook.host.facts import ActiveState, Unit
from runbook.host.requesters import describe_requester
from runbook.util.timespan import format_span

LIMIT_BURST = 10  # starts in an hour after which a drop-in file ends a loop, however long the unit runs in between
HOUR = 3600.0  # seconds
OFTEN = 3  # requested starts in one interval that are worth a warning
FEW_STARTS = 1  # starts left of the start limit from which a warning is due


def find_start_limit(facts: UnitFacts) -> Iterator[Cause]:
    """Yield that the start limit is reached, or nearly."""
    unit, budget = facts.unit, facts.journal.budget
    limit = f"{unit.start_limit_burst} starts in {format_span(unit.start_limit_interval_usec / 1e6)}"
    source = "StartLimitBurst=, StartLimitIntervalSec="
    if facts.is_limit_reached and facts.is_limit_over:
        clock = facts.view.clock
        at = format_moment(clock.now() - clock.monotonic() + unit.state_change_monotonic / 1e6, clock.now())
        over = "that is over, and systemd accepts a start again"
        yield Cause(f"systemd gave it up at {at} because of its start limit ({limit}); {over}", source, is_effect=True)
    elif facts.is_limit_reached:
        why = f"the start limit ({limit}) is reached: systemd refuses to start {unit.name}"
        yield Cause(why, source, is_effect=True)
    elif budget is not None and (few := describe_few_starts(budget)):
        yield Cause(few, f"{source}, the journal", Severity.WARNING)


def describe_few_starts(budget: StartBudget) -> str:
    """Return that hardly any start is left of a start limit; empty if more are."""
    unit = budget.unit
    if budget.used <= 1 or budget.remaining > FEW_STARTS:
        return ""
    limit = f"{unit.start_limit_burst} starts in {format_span(unit.start_limit_interval_usec / 1e6)}"
    next_one = "one more is left" if budget.remaining else "systemd refuses another one"
    over = f" for the next {format_span(max(1, round(budget.expires_in)))}" if budget.expires_in else ""
    sure = "" if budget.certain >= budget.used else ", unless another program has cleared the counter since"
    return f"{budget.count}, and the start limit is {limit}: {next_one}{over}{sure}"


def find_endless_loop(facts: UnitFacts) -> Iterator[Cause]:
    """Yield that no start limit ends a loop."""
    unit, (why, source) = facts.unit, facts.endless_loop
    if not why:
        return
    effect = f"systemd gives it up after {LIMIT_BURST} starts in an hour, and it reads failed"
    times = "once" if unit.n_restarts == 1 else f"{unit.n_restarts} times"
    settings = {"StartLimitIntervalSec": "1h", "StartLimitBurst": str(LIMIT_BURST)}
    fix: tuple[DropIn | None, str] = (None, "")
    if unit.restart_usec / 1e6 * LIMIT_BURST < HOUR and not facts.actions:  # StartLimitAction= may reboot.
        fix = make_drop_in(facts.view, unit, "start-limit", effect, **settings)
    what = f"{why}, so systemd restarts it without end: {times} by now"
    yield Cause(what, source, Severity.PROBLEM, *fix, is_effect=True)


def find_requested_stop(facts: UnitFacts) -> Iterator[Cause]:
    """Yield that a stop was requested, if systemd would have restarted the unit after an exit of its own."""
    unit = facts.unit
    is_stopped = unit.active_state is ActiveState.INACTIVE and bool(unit.exec_main_code)
    is_in_order = unit.has_done_its_work or bool(facts.activator) or unit.restart == "on-success"
    if is_stopped and not is_in_order and will_auto_restart(unit):
        why = f"after an exit of its own, systemd would have restarted it (Restart={unit.restart})"
        yield Cause(f"a stop of {unit.name} was requested: {why}", "Restart=, ExecMainStatus")


def find_quiet_failure(facts: UnitFacts) -> Iterator[Cause]:
    """Yield that systemd leaves a unit down that it restarts after other exits."""
    unit = facts.unit
    if unit.active_state is ActiveState.FAILED and unit.restart not in ("", "no") and is_restart_prevented(unit):
        what = f"RestartPreventExitStatus= names the exit of the main process ({unit.exec_main_status})"
        yield Cause(f"{what}, so systemd does not restart it", "RestartPreventExitStatus=", is_effect=True)


def find_watchdog(facts: UnitFacts) -> Iterator[Cause]:
    """Yield that the watchdog stops the unit again and again."""
    unit = facts.unit
    by_watchdog = unit.result == "watchdog" or "WatchdogSec=" in facts.journal.last_exit
    if not by_watchdog or unit.watchdog_usec in (0, USEC_INFINITY):
        return
    limit = format_span(unit.watchdog_usec / 1e6)
    choice = "if it never sends any, write WatchdogSec=0; if it hangs, that would hide it"
    keep = choice if unit.n_restarts >= LOOPS else ""  # Once it may have hung.
    what = f"it sends no keep-alive ping within the {limit} of WatchdogSec=: it hangs, or it never sends any"
    yield Cause(what, "WatchdogSec=, Result", prevention=keep)


def find_other_starters(facts: UnitFacts) -> Iterator[Cause]:
    """Yield that starts were requested, besides the restarts by systemd."""
    unit, budget = facts.unit, facts.journal.budget
    if trigger := _find_trigger(unit):
        yield Cause(f"{trigger} started its current invocation", "ActivationDetails", Severity.WARNING)
    if unit.job_type in ("stop", "restart"):
        request = next((one for one in unit.job_requests if one.job == unit.job), None)
        who = describe_requester(request)
        yield Cause(f"a {unit.job_type} of it is in progress, which {who} requested", "Job", Severity.WARNING)
    requested = budget.used - budget.by_systemd if budget is not None else 0
    if budget is not None and requested > 1 and (requested >= OFTEN or budget.remaining <= FEW_STARTS):
        which = f"{requested} of its {budget.used}" if budget.by_systemd else f"all of its {requested}"
        effect = (
            "nothing is wrong with the service itself" if facts.is_only_refused else "these count for the limit, too"
        )
        within = format_span(unit.start_limit_interval_usec / 1e6)
        by_systemd = "the others are restarts by systemd" if budget.by_systemd else "systemd restarted it never"
        sentence = f"{which} starts in {within} were requested, and {by_systemd}: {effect}"
        yield Cause(sentence, "the journal", Severity.WARNING)


def _find_trigger(unit: Unit) -> str:
    return unit.find_trigger(None) if unit.n_restarts or unit.active_state is not ActiveState.ACTIVE else ""
