"""Diagnoses one unit: reads what systemd, the kernel and the journal have of it, and puts the judgements together."""

from __future__ import annotations

import time
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import TypeVar

from runbook.checks.exit_reason import describe_exit
from runbook.checks.health import HealthChecker
from runbook.checks.previous_exit import PreviousExitLookup
from runbook.checks.start_limit import StartBudget, has_start_limit, query_start_budget
from runbook.doctor.causes import find_causes
from runbook.doctor.facts import UnitFacts
from runbook.doctor.findings import Severity, UnitDiagnosis, worst
from runbook.doctor.ports import FoundPort, Recorded, find_ports
from runbook.doctor.remedies import find_advice, find_commands
from runbook.errors import NoSuchUnit
from runbook.host.facts import DOWN, LoadState, Unit
from runbook.host.holders import NEEDS_ROOT, PortOwnership, address_of
from runbook.host.interface import HostView, Waiter
from runbook.host.queries import Answer, JournalLine, JournalTailQuery, Query
from runbook.model import Deadline, Port, Verdict, Wake
from runbook.spec.state import RunState
from runbook.util.timespan import format_span

T = TypeVar("T")

JOURNAL_TIMEOUT = 2.0  # seconds for all reads of the journal together
SYSTEMD_LINES = 3  # lines of systemd that are shown
UNIT_LINES = 3  # lines of the unit's own log
LOOP_SECONDS = 600.0  # seconds for which a restart by systemd counts as recent
JOURNAL_SLACK = 1.0  # seconds by which a busy journald may date a line before the start of its unit

_NOT_BROKEN = (Verdict.STILL_STARTING, Verdict.OWNER_UNKNOWN)  # verdicts by which a unit may be healthy yet


class Doctor:
    """Diagnoses units of one machine, for the user `uid`."""

    def __init__(self, view: HostView, waiter: Waiter, uid: int) -> None:
        self._view = view
        self._waiter = waiter
        self._uid = uid
        self._run = RunState("doctor", Path("/"))

    def diagnose(self, name: str, named: Iterable[Port] = (), recorded: Recorded = lambda: ()) -> UnitDiagnosis:
        """Return the diagnosis of a unit. Raises NoSuchUnit and HostError.

        `named` are ports that the operator names; `recorded` returns those that earlier runs recorded.
        """
        unit = self._view.unit(name)
        if unit.load_state is LoadState.NOT_FOUND and not unit.is_running:
            raise NoSuchUnit(unit.describe_not_found(self._view.find_similar_unit(unit.name)))
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
            advice=find_advice(facts),
            systemd_lines=facts.systemd_lines,
            journal=facts.journal,
            unseen=tuple(_find_unseen(facts)),
        )

    def _read_facts(self, unit: Unit, found: tuple[FoundPort, ...]) -> UnitFacts:
        """Read what the kernel and the journal have of a unit. The journal is not read for one that is healthy."""
        judged = {one: self._view.judge_port(unit, one.port) for one in found}
        mine = [one for one in found if _counts(unit, one, judged[one])]
        health = HealthChecker(self._view, unit, [one.port for one in mine], None, 0, once=True).check()
        ports = tuple(judged.values())
        facts = UnitFacts(self._view, unit, self._uid, tuple(judged), ports, health)
        if health.healthy and not is_restarted(facts):
            return facts
        deadline = Deadline.after(self._view.clock, JOURNAL_TIMEOUT)
        by_manager, own = self._read_lines(unit, deadline)
        return replace(
            facts,
            last_exit=self._read_last_exit(unit, deadline),
            budget=self._read_budget(unit, deadline),
            systemd_lines=by_manager,
            journal=tuple(line for line in own if line not in by_manager),
        )

    def _read_lines(self, unit: Unit, deadline: Deadline) -> tuple[tuple[str, ...], tuple[str, ...]]:
        """Return the last lines of systemd about a unit, and those of its processes."""
        since = max(0.0, unit.inactive_exit / 1e6 - (LOOP_SECONDS if unit.n_restarts else JOURNAL_SLACK))
        manager = JournalTailQuery(unit.name, since, lines=SYSTEMD_LINES, of_user=unit.of_user, of_manager=True)
        tails = (manager, JournalTailQuery(unit.name, since, lines=UNIT_LINES, of_user=unit.of_user))
        queries = [Query(tail, self._run.next_query_id(), JOURNAL_TIMEOUT) for tail in tails]
        first, second = (self._await(query, deadline) for query in queries)
        return _texts(first), _texts(second)

    def _await(self, query: Query[T], deadline: Deadline) -> Answer[T] | None:
        while (answer := self._view.query(query)) is None and not deadline.expired:
            self._waiter.wait(Wake(within=0.05, pending=True), deadline)
        return answer

    def _read_last_exit(self, unit: Unit, deadline: Deadline) -> str:
        """Return how the last invocation ended: by systemd's properties, or if it has begun another, by the journal."""
        if unit.exec_main_code or unit.failed_command or unit.result not in ("", "success"):
            return describe_exit(unit)
        if not unit.n_restarts:
            return ""
        lookup = PreviousExitLookup()
        while (found := lookup.poll(self._view, unit, self._run)) is None and not deadline.expired:
            self._waiter.wait(Wake(within=0.05, pending=True), deadline)
        return found.text if found else ""

    def _read_budget(self, unit: Unit, deadline: Deadline) -> StartBudget | None:
        if not has_start_limit(unit):
            return None
        asked, number = self._view.clock.now(), self._run.next_query_id()
        while (answer := query_start_budget(self._view, unit, number, asked, self._run)) is None:
            if deadline.expired:
                return None
            self._waiter.wait(Wake(within=0.05, pending=True), deadline)
        return answer.value


def _texts(answer: Answer[tuple[JournalLine, ...]] | None) -> tuple[str, ...]:
    return tuple(line.text for line in answer.value or ()) if answer is not None else ()


def _counts(unit: Unit, found: FoundPort, owner: PortOwnership) -> bool:
    """True if the unit must have a port to be healthy.

    A port that only its configuration names may be that of another service. If a process that may be killed holds it,
    or if the unit does not stay up, it is the unit's.
    """
    if found.is_certain:
        return True
    is_stable = unit.is_running and not unit.n_restarts
    return any(holder.may_be_killed or not is_stable for holder in owner.foreign_holders)


def is_restarted(facts: UnitFacts) -> bool:
    """True if systemd restarted a unit by itself a short time ago."""
    unit = facts.unit
    age = facts.view.clock.monotonic() - unit.exec_main_start_monotonic / 1e6
    return unit.is_service and unit.n_restarts > 0 and age < LOOP_SECONDS


def _judge_health(facts: UnitFacts) -> Severity:
    unit, verdict = facts.unit, facts.health.verdict
    if verdict is Verdict.READY:
        return Severity.WARNING if is_restarted(facts) else Severity.OK
    if verdict is Verdict.UNIT_EXITED and unit.active_state in DOWN and unit.has_done_its_work:
        return Severity.OK
    return Severity.WARNING if verdict in _NOT_BROKEN else Severity.PROBLEM


def _summarize(facts: UnitFacts) -> str:
    unit, health = facts.unit, facts.health
    if health.healthy and is_restarted(facts):
        times = "once" if unit.n_restarts == 1 else f"{unit.n_restarts} times"
        return f"systemd restarted {unit.name} {times}: {facts.last_exit or 'its main process exited'}"
    return health.reason


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
    if facts.last_exit:
        yield f"last exit: {facts.last_exit}"
    if facts.budget is not None and facts.budget.used and not facts.is_limit_reached:
        yield str(facts.budget)


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
        facts.append(f"{holder.process} of {holder.process.user} since {began}{child}, in {holder.unit}")
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
    if facts.uid and not facts.unit.of_user and not facts.journal and not facts.health.healthy:
        yield f"its journal may be readable for root only; {NEEDS_ROOT}"
