"""Finds units that do nothing although they did not fail: frozen, stopped, or in a start or a stop without an end."""

from __future__ import annotations

from collections.abc import Iterator

from runbook.checks.exit_reason import USEC_INFINITY
from runbook.checks.standstill import STOPPED_STATES, describe_frozen, describe_standstill
from runbook.doctor.facts import LOOPS
from runbook.doctor.findings import FindingKind, MachineFinding, Severity
from runbook.doctor.machine_facts import MachineFacts, UnitId, unit_of
from runbook.host.facts import DOWN, ActiveState, Unit
from runbook.util.timespan import format_span

START_PHASES = 3  # ExecStartPre=, ExecStart= and ExecStartPost=, each of which has TimeoutStartSec=
STOP_PHASES = 6  # ExecStop=, SIGTERM, SIGKILL, ExecStopPost= and two more signals, each of which has TimeoutStopSec=
ENDLESS = 2 * 3600.0  # seconds after which a start or a stop without a time limit is reported


def find_stuck_units(facts: MachineFacts) -> Iterator[MachineFinding]:
    """Yield the services that do nothing, or whose start or stop does not end."""
    now = facts.view.clock.monotonic()
    halted = {unit_of(facts.places[pid]) for pid, one in facts.processes.items() if one.state in STOPPED_STATES}
    for user, units in facts.all_units:
        for unit in units.values():
            at = UnitId(unit.name, user)
            if not unit.is_service or unit.active_state in DOWN:
                continue
            if why := describe_frozen(facts.view, unit) or (at in halted and describe_standstill(facts.view, unit, ())):
                yield _make(facts, at, FindingKind.FROZEN, why.removeprefix(f"{unit.name} "), Severity.PROBLEM)
            elif unit.active_state is ActiveState.ACTIVATING and unit.n_restarts >= LOOPS:
                why = f"systemd restarted it {unit.n_restarts} times, and it is {unit.state}"
                yield _make(facts, at, FindingKind.LOOP, why, Severity.PROBLEM)
            elif why := _describe_endless(unit, now):
                # A job may take hours.
                severity = Severity.WARNING if unit.is_umbrella else Severity.PROBLEM
                yield _make(facts, at, FindingKind.STUCK, why, severity)


def _make(facts: MachineFacts, at: UnitId, kind: FindingKind, reason: str, severity: Severity) -> MachineFinding:
    return MachineFinding(kind, severity, at.name, reason, facts.command("doctor", at), facts.name_user(at.user))


def _describe_endless(unit: Unit, now: float) -> str:
    """Return that a start or a stop takes longer than all time limits of it together; empty if it does not."""
    if unit.active_state is ActiveState.ACTIVATING and unit.is_running:
        limit, phases, setting = unit.timeout_start_usec, START_PHASES, "TimeoutStartSec="
    elif unit.active_state is ActiveState.DEACTIVATING:
        limit, phases, setting = unit.timeout_stop_usec, STOP_PHASES, "TimeoutStopSec="
    else:
        return ""
    has_limit, age = limit not in (0, USEC_INFINITY), now - unit.state_change_monotonic / 1e6
    if not unit.state_change_monotonic or age <= (phases * limit / 1e6 if has_limit else ENDLESS):
        return ""
    allowed = f"{setting} is {format_span(limit / 1e6)}" if has_limit else f"it has no time limit ({setting})"
    return f"it has been {unit.state} for {format_span(round(age))}, and {allowed}"
