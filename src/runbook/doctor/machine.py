"""Diagnoses the whole machine: all managers that can be read, all processes, all ports.

A cheap look at each unit comes first. Only a unit that failed, loops, or whose port a stray has is diagnosed as a
single one is, and only for as long as DIAGNOSES_TIME; after that, the properties of the unit must do.
"""

from __future__ import annotations

import os
from collections.abc import Iterator

from runbook.checks.exit_reason import describe_exit, describe_unit_file, is_start_limit_hit
from runbook.checks.start_limit import has_start_limit
from runbook.doctor.causes.restarts import describe_few_starts
from runbook.doctor.facts import is_looping
from runbook.doctor.findings import FindingKind, MachineDiagnosis, MachineFinding, Severity, UnitDiagnosis
from runbook.doctor.journal import RECENT_RESTART, read_budgets
from runbook.doctor.machine_facts import MachineFacts, UnitId, read_facts
from runbook.doctor.old_code import find_old_units
from runbook.doctor.strays import Stray, describe_strays, describe_taken_port, find_left_processes, find_strays
from runbook.doctor.stuck import find_stuck_units
from runbook.doctor.two_managers import find_double_units
from runbook.doctor.unit import Doctor
from runbook.doctor.wording import JOURNAL_UNSEEN
from runbook.errors import HostError
from runbook.host.facts import DOWN, ActiveState, Unit
from runbook.host.interface import HostView, Waiter
from runbook.util.timespan import format_span

DIAGNOSES_TIME = 0.4  # seconds after which no further unit is diagnosed on its own
BUDGETS_TIME = 0.3  # seconds in which the journal must have the starts of units with a start limit
MAX_BUDGETS = 20  # units whose starts are counted
MAX_CHANGED = 5  # units that one finding names; the others are counted

_OF_JOURNAL = "what systemd logged: root and the group systemd-journal may read all of the journal"


class MachineDoctor:
    """Diagnoses one machine, for the user `uid`."""

    def __init__(self, view: HostView, waiter: Waiter, uid: int) -> None:
        self._view = view
        self._waiter = waiter
        self._uid = uid
        self._end = 0.0  # when no further unit is diagnosed on its own

    def diagnose(self) -> MachineDiagnosis:
        """Return the diagnosis. Raises HostError if the system's manager cannot be read."""
        began = self._view.clock.monotonic()
        facts = read_facts(self._view, self._uid)
        findings = list(self._find(facts))
        findings.sort(key=lambda one: [*Severity].index(one.severity), reverse=True)
        return MachineDiagnosis(
            host=os.uname().nodename,
            services=len(facts.services),
            ports=len({(one.protocol, one.number) for one in facts.scan.listeners}),
            user_managers=len(facts.user_units),
            findings=tuple(findings),
            unseen=tuple(dict.fromkeys(facts.unseen)),
            seconds=self._view.clock.monotonic() - began,
        )

    def _find(self, facts: MachineFacts) -> Iterator[MachineFinding]:
        strays = list(find_strays(facts))
        units = list(self._find_units(facts, strays))
        yield from units
        down = {(one.user, one.subject) for one in units}
        explained = "\n".join(one.reason for one in units)
        yield from describe_strays(facts, [one for one in strays if str(one.process) not in explained])
        for finding in (*find_stuck_units(facts), *find_left_processes(facts), *self._find_few_starts(facts)):
            if (finding.user, finding.subject) not in down:
                yield finding
        # Before the restarts: systemd must have read the files by then.
        yield from _find_changed_files(facts)
        yield from find_old_units(facts)
        yield from find_double_units(facts)

    # Units that do not do their work

    def _find_units(self, facts: MachineFacts, strays: list[Stray]) -> Iterator[MachineFinding]:
        self._end = self._view.clock.monotonic() + DIAGNOSES_TIME
        suspects = {name for stray in strays for name in stray.suspects}
        for user, units in facts.all_units:
            for unit in units.values():
                is_suspect = user is None and unit.name in suspects
                if (finding := self._find_unit(facts, UnitId(unit.name, user), unit, is_suspect)) is not None:
                    yield finding

    def _find_unit(self, facts: MachineFacts, at: UnitId, unit: Unit, is_suspect: bool) -> MachineFinding | None:
        now = self._view.clock.monotonic()
        is_failed, loops = unit.active_state is ActiveState.FAILED, is_looping(unit, now)
        is_broken = is_failed or loops
        found = self._diagnose(facts, at) if is_broken or is_suspect else None
        if not is_broken and (found is None or not any(owner.foreign_holders for owner in found.ports)):
            return _find_restart(facts, at, unit, now)
        severity = Severity.PROBLEM if is_broken or found is None else found.severity
        kind = FindingKind.LOOP if loops else FindingKind.FAILED
        has_time = found is None and self._view.clock.monotonic() <= self._end
        reason = _describe(unit, found, describe_taken_port(facts, at, unit) if has_time else "")
        return MachineFinding(kind, severity, unit.name, reason, facts.command("doctor", at), facts.name_user(at.user))

    def _diagnose(self, facts: MachineFacts, at: UnitId) -> UnitDiagnosis | None:
        """Diagnose a unit of the system as a single one; None if there is no time left for that."""
        if at.user is not None or self._view.clock.monotonic() > self._end:
            return None
        try:
            found = Doctor(self._view, self._waiter, self._uid).diagnose(at.name)
        except HostError as error:
            facts.unseen.append(f"{at.name}: {error.message}")
            return None
        for text in found.unseen:
            facts.unseen.append(_OF_JOURNAL if text.startswith(JOURNAL_UNSEEN) else f"{at.name}: {text}")
        return found

    # Starts that are left

    def _find_few_starts(self, facts: MachineFacts) -> Iterator[MachineFinding]:
        now = self._view.clock.monotonic()
        units = [unit for unit in facts.units.values() if _may_be_near_limit(unit, now)][:MAX_BUDGETS]
        answers = read_budgets(self._view, self._waiter, units, BUDGETS_TIME) if units else ()
        for unit, answer in zip(units, answers, strict=True):
            if answer is None or answer.value is None:
                why = answer.detail if answer is not None else "the journal takes too long"
                facts.unseen.append(f"how many starts are left of {unit.name}: {why}")
            elif few := describe_few_starts(answer.value):
                command = facts.command("doctor", UnitId(unit.name))
                yield MachineFinding(FindingKind.START_LIMIT, Severity.WARNING, unit.name, few, command)


def _describe(unit: Unit, found: UnitDiagnosis | None, taken: str) -> str:
    """Return why a unit does not do its work. `taken` is which of its ports another process has."""
    limit = "; its start limit was reached" if unit.active_state in DOWN and is_start_limit_hit(unit) else ""
    if found is None:
        times = f"systemd restarted it {unit.n_restarts} times: " if unit.n_restarts else ""
        # While a unit that loops runs for a moment, its properties have no exit.
        is_exit_known = unit.result not in ("", "success") or not taken
        why = [describe_exit(unit) or unit.state if is_exit_known else "", taken]
        return f"{times}{'; '.join(filter(None, why))}{limit}"
    held = [clause for clause in found.kernel if " is held by " in clause and unit.active_state in DOWN]
    return f"{held[0]}{limit}" if held else found.summary.removeprefix(f"{unit.name} ")


def _find_restart(facts: MachineFacts, at: UnitId, unit: Unit, now: float) -> MachineFinding | None:
    """Return that systemd restarted a service a short time ago; None if it did not."""
    age = now - unit.exec_main_start_monotonic / 1e6
    if not unit.is_service or not unit.n_restarts or age > RECENT_RESTART:
        return None
    times = "once" if unit.n_restarts == 1 else f"{unit.n_restarts} times"
    reason = f"systemd restarted it {times}, the last time {format_span(max(0, round(age)))} ago"
    command = facts.command("doctor", at)
    return MachineFinding(FindingKind.RESTARTED, Severity.WARNING, unit.name, reason, command, facts.name_user(at.user))


def _may_be_near_limit(unit: Unit, now: float) -> bool:
    """True if a unit that is up was down within the window of its start limit."""
    since = now - unit.start_limit_interval_usec / 1e6
    is_recent = unit.began_monotonic / 1e6 > since and unit.previous_end_monotonic / 1e6 > since
    return has_start_limit(unit) and unit.active_state not in DOWN and is_recent


def _find_changed_files(facts: MachineFacts) -> Iterator[MachineFinding]:
    """Yield the units whose files systemd has not read again: one finding for each manager, and those that are gone."""
    for user, units in facts.all_units:
        changed = [unit.name for unit in units.values() if unit.need_daemon_reload]
        if changed:
            more = f" and {len(changed) - MAX_CHANGED} more" if len(changed) > MAX_CHANGED else ""
            others = f", and so did those of {', '.join(changed[1:MAX_CHANGED])}{more}" if changed[1:] else ""
            reason = f"its file changed since systemd read it{others}"
            yield _make_changed(facts, changed[0], user, reason, facts.systemctl("daemon-reload", user))
        for unit in units.values():
            if unit.is_running and not unit.need_daemon_reload and (why := describe_unit_file(unit)):
                yield _make_changed(facts, unit.name, user, why, facts.command("doctor", UnitId(unit.name, user)))


def _make_changed(facts: MachineFacts, name: str, user: int | None, reason: str, command: str) -> MachineFinding:
    return MachineFinding(FindingKind.CHANGED_FILE, Severity.WARNING, name, reason, command, facts.name_user(user))
