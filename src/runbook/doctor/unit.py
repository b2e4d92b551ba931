"""Diagnoses one unit: reads what systemd, the kernel and the journal have of it, and puts the judgements together."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from shlex import quote

from runbook.checks.health import HealthChecker
from runbook.checks.other_manager import explain_other_manager
from runbook.doctor.causes import find_causes
from runbook.doctor.decisions import find_decision
from runbook.doctor.facts import LOOPS, UnitFacts, is_looping
from runbook.doctor.findings import Severity, UnitDiagnosis, worst
from runbook.doctor.journal import read_journal
from runbook.doctor.ports import FoundPort, Recorded, find_ports, is_required
from runbook.doctor.remedies import find_commands, find_drop_in_commands, find_proved_restart
from runbook.doctor.wording import describe_port, describe_systemd, list_unseen, summarize
from runbook.errors import NoSuchUnit
from runbook.host.facts import LoadState, Unit
from runbook.host.interface import HostView, Waiter
from runbook.model import Port, Verdict

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
            hint = explain_other_manager(self._view, unit.name, command=f"doctor --user {quote(unit.name)}")
            near = "" if hint else self._view.find_similar_unit(unit.name)
            raise NoSuchUnit(unit.describe_not_found(near), hint=hint)
        facts = self._read_facts(unit, find_ports(self._view, unit, named, recorded))
        causes = find_causes(facts)
        severity = _judge_health(facts)
        return UnitDiagnosis(
            unit=unit,
            severity=worst((severity, *(cause.severity for cause in causes))),
            verdict=facts.health.verdict,
            summary=summarize(facts, causes),
            systemd=tuple(describe_systemd(facts)),
            kernel=tuple(describe_port(self._view, unit, one) for one in facts.ports),
            found=facts.found,
            ports=facts.ports,
            causes=causes,
            commands=find_commands(facts),
            proved_restart=find_proved_restart(facts),
            decision=find_decision(facts),
            drop_in_commands=tuple(
                tuple(find_drop_in_commands(facts, cause.drop_in)) for cause in causes if cause.drop_in is not None
            ),
            systemd_lines=facts.journal.systemd_lines,
            journal=facts.journal.lines,
            unseen=tuple(list_unseen(facts)),
        )

    def _read_facts(self, unit: Unit, found: tuple[FoundPort, ...]) -> UnitFacts:
        """Read what the kernel and the journal have of a unit. The journal is not read for one that is healthy."""
        judged = {one: self._view.judge_port(unit, one.port) for one in found}
        required = [one for one in found if is_required(unit, one, judged[one])]
        # Without a baseline a single check counts no restart.
        baseline = 0 if is_looping(unit, self._view.clock.monotonic()) else None
        health = HealthChecker(self._view, unit, [one.port for one in required], baseline, LOOPS - 1, once=True).check()
        # The health was judged by a later look, with which the rest of the diagnosis must agree.
        judged |= dict(zip(required, health.ports, strict=True))
        # A port that another service has, and that only the configuration names, is that service's.
        kept = [one for one, owner in judged.items() if one in required or not owner.foreign_holders]
        # Unless this one listens nowhere: it may try again and again, without an exit.
        listens = any(one.listening for one in found)
        taken = [owner for one, owner in judged.items() if one not in kept and not listens and unit.is_running]
        ports = tuple(judged[one] for one in kept)
        facts = UnitFacts(self._view, unit, self._uid, tuple(kept), ports, health, taken=tuple(taken))
        if health.healthy and not facts.is_restarted and not taken:
            return facts
        return replace(facts, journal=read_journal(self._view, self._waiter, unit))


def _judge_health(facts: UnitFacts) -> Severity:
    unit, verdict = facts.unit, facts.health.verdict
    if verdict is Verdict.READY:
        return Severity.WARNING if facts.is_restarted else Severity.OK
    if verdict is Verdict.UNIT_EXITED and facts.is_down_in_order and (unit.has_done_its_work or facts.activator):
        return Severity.OK
    return Severity.WARNING if verdict in _NOT_BROKEN or facts.may_start_yet else Severity.PROBLEM
