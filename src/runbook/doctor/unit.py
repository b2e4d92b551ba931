"""Diagnoses one unit: reads what systemd, the kernel and the journal have of it, and puts the judgements together."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace

from runbook.checks.health import HealthChecker
from runbook.checks.other_manager import explain_other_manager
from runbook.doctor.causes import find_causes
from runbook.doctor.facts import LOOPS, UnitFacts, is_looping
from runbook.doctor.findings import Severity, UnitDiagnosis, worst
from runbook.doctor.journal import NO_JOURNAL, read_journal
from runbook.doctor.ports import FoundPort, Recorded, find_ports
from runbook.doctor.remedies import find_commands, find_decision, find_proved_restart
from runbook.errors import NoSuchUnit
from runbook.host.facts import DOWN, LoadState, Unit
from runbook.host.holders import PortOwnership, Role, address_of
from runbook.host.interface import HostView, Waiter
from runbook.host.ownership.describe import LEFT_OVER
from runbook.model import Port, Verdict
from runbook.util.timespan import format_span

_NOT_BROKEN = (Verdict.STILL_STARTING, Verdict.OWNER_UNKNOWN)  # verdicts by which a unit may be healthy yet


class Doctor:
    """Diagnoses units of one machine, for the user `uid`."""

    def __init__(self, view: HostView, waiter: Waiter, uid: int) -> None:
        self._view = view
        self._waiter = waiter
        self._uid = uid

    def diagnose(self, name: str, named: Iterable[Port] = (), recorded: Recorded = lambda: ()) -> UnitDiagnosis:
        """Return the diagnosis of a unit. Raises NoSuchUnit and HostError.

        `named` are ports that the operator names; `recorded` returns those that earlier runs recorded.
        """
        unit = self._view.unit(name)
        if unit.load_state is LoadState.NOT_FOUND and not unit.is_running:
            hint = explain_other_manager(self._view, unit.name, command=f"doctor --user {unit.name}")
            near = "" if hint else self._view.find_similar_unit(unit.name)
            raise NoSuchUnit(unit.describe_not_found(near), hint=hint)
        facts = self._read_facts(unit, find_ports(self._view, unit, named, recorded))
        causes = find_causes(facts)
        severity = _judge_health(facts)
        return UnitDiagnosis(
            unit=unit,
            severity=worst((severity, *(cause.severity for cause in causes))),
            verdict=facts.health.verdict,
            summary=_summarize(facts),
            systemd=tuple(describe_systemd(facts)),
            kernel=tuple(describe_port(self._view, unit, one) for one in facts.ports),
            found=facts.found,
            ports=facts.ports,
            causes=causes,
            commands=find_commands(facts),
            proved_restart=find_proved_restart(facts),
            advice=find_decision(facts),
            systemd_lines=facts.journal.systemd_lines,
            journal=facts.journal.lines,
            unseen=tuple(_find_unseen(facts)),
        )

    def _read_facts(self, unit: Unit, found: tuple[FoundPort, ...]) -> UnitFacts:
        """Read what the kernel and the journal have of a unit. The journal is not read for one that is healthy."""
        judged = {one: self._view.judge_port(unit, one.port) for one in found}
        required = [one.port for one in found if _is_required(unit, one, judged[one])]
        # Without a baseline a single check counts no restart.
        baseline = 0 if is_looping(unit, self._view.clock.monotonic()) else None
        health = HealthChecker(self._view, unit, required, baseline, LOOPS - 1, once=True).check()
        # A port that another service has, and that only the configuration names, is that service's.
        kept = [one for one, owner in judged.items() if one.port in required or not owner.foreign_holders]
        facts = UnitFacts(self._view, unit, self._uid, tuple(kept), tuple(judged[one] for one in kept), health)
        if health.healthy and not facts.is_restarted:
            return facts
        return replace(facts, journal=read_journal(self._view, self._waiter, unit))


def _is_required(unit: Unit, found: FoundPort, owner: PortOwnership) -> bool:
    """True if the unit must have a port to be healthy.

    A port that only its configuration names may be that of another service. If a process that may be killed holds it,
    if its holder is unknown, or if the unit does not stay up, it counts as the unit's.
    """
    if found.is_certain or owner.verdict is Verdict.OWNER_UNKNOWN:
        return True
    is_stable = unit.is_running and not unit.n_restarts
    return any(holder.may_be_killed or not is_stable for holder in owner.foreign_holders)


def _judge_health(facts: UnitFacts) -> Severity:
    unit, verdict = facts.unit, facts.health.verdict
    if verdict is Verdict.READY:
        return Severity.WARNING if facts.is_restarted else Severity.OK
    if verdict is Verdict.UNIT_EXITED and unit.active_state in DOWN and unit.has_done_its_work:
        return Severity.OK
    return Severity.WARNING if verdict in _NOT_BROKEN or facts.may_start_yet else Severity.PROBLEM


def _summarize(facts: UnitFacts) -> str:
    unit, health = facts.unit, facts.health
    if health.verdict is Verdict.CRASH_LOOP or (health.healthy and facts.is_restarted):
        times = "once" if unit.n_restarts == 1 else f"{unit.n_restarts} times"
        last_exit = facts.journal.last_exit or "its main process exited"
        return f"systemd restarted {unit.name} {times}: {last_exit}" if unit.n_restarts else health.reason
    if facts.unit.is_service and (answering := [one for one in facts.rivals if one.role in _WRONG_ROLES]):
        return f"{_describe_state(facts)}; what answers on {facts.held_ports(answering[0])} is {answering[0].process}"
    return health.reason


_WRONG_ROLES = (Role.ORPHAN, Role.LEFTOVER, Role.OTHER_UNIT)


def _describe_state(facts: UnitFacts) -> str:
    """Return what systemd reports of a unit, in one clause."""
    unit = facts.unit
    if unit.active_state in DOWN:
        return f"{unit.name} is down"
    beside = ", and it listens too" if facts.health.verdict is Verdict.PORT_SHARED else ""
    return f"systemd reports {unit.name} as {unit.state}{beside}"


def describe_systemd(facts: UnitFacts) -> Iterable[str]:
    """Yield what systemd reports of a unit."""
    unit, now = facts.unit, facts.view.clock
    result = f" ({unit.result})" if unit.active_state in DOWN and unit.result not in ("", "success") else ""
    since = ""
    if unit.state_change_monotonic:
        age = now.monotonic() - unit.state_change_monotonic / 1e6
        since = f" since {format_moment(now.now() - age, now.now())}"
    pid = f", PID {unit.main_pid}" if unit.main_pid else ""
    yield f"{unit.state}{result}{since}{pid}"
    if unit.n_restarts:
        yield f"{unit.n_restarts} restart{'' if unit.n_restarts == 1 else 's'} by systemd"
    if facts.journal.last_exit:
        yield f"last exit: {facts.journal.last_exit}"
    if facts.journal.budget is not None and facts.journal.budget.used and not facts.is_limit_reached:
        yield str(facts.journal.budget)


def describe_port(view: HostView, unit: Unit, owner: PortOwnership) -> str:
    """Return what the kernel reports of a port."""
    addresses = dict.fromkeys(address_of(str(one), one.number) for one in owner.listeners)
    where = f" ({', '.join(filter(None, addresses))})" if owner.listeners else ""
    if not owner.foreign_holders:
        return f"{owner.reason}{where if owner.is_owned else ''}"
    facts = []
    for holder in owner.foreign_holders[:3]:
        began = format_moment(view.find_start_time(holder.process), view.clock.now())
        parent = view.find_process(holder.process.ppid)
        child = f", parent {parent}" if parent is not None else ""
        left = LEFT_OVER if holder.role is Role.LEFTOVER else ""
        facts.append(f"{holder.process} of {holder.process.user} since {began}{child}, in {holder.unit}{left}")
    more = len(owner.foreign_holders) - len(facts)
    beside = f"{unit.name} and by " if owner.verdict is Verdict.PORT_SHARED else ""
    return f"port {owner.port}{where} is held by {beside}{'; '.join(facts)}{f'; and {more} more' if more > 0 else ''}"


def format_moment(moment: float, now: float) -> str:
    """Return a time of the epoch in local time, and how long ago it was: "15:43:02 (2min 3s)"."""
    at, today = time.localtime(moment), time.localtime(now)
    day = "" if at[:3] == today[:3] else f"{time.strftime('%Y-%m-%d', at)} "
    return f"{day}{time.strftime('%H:%M:%S', at)} ({format_span(max(0, round(now - moment)))} ago)"


def _find_unseen(facts: UnitFacts) -> Iterable[str]:
    """Yield what could not be read. None of it counts as healthy."""
    for owner in facts.ports:
        if owner.verdict is Verdict.OWNER_UNKNOWN:
            yield owner.reason
    is_all_readable = facts.unit.of_user or not facts.uid
    if facts.journal.unreadable:
        yield f"the journal: {facts.journal.unreadable}"
    elif facts.journal is not NO_JOURNAL and not facts.journal.systemd_lines and not is_all_readable:
        yield "what systemd logged, perhaps: root and the group systemd-journal may read all of the journal"
