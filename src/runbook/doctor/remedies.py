"""The commands that bring a unit back now, in their order, for the user who runs them and for the unit's manager."""

from __future__ import annotations

from collections.abc import Iterator

from runbook.actions.kill_advice import find_refusal
from runbook.checks.exit_reason import is_start_limit_hit
from runbook.checks.log_files import describe_log_command
from runbook.doctor.facts import UnitFacts
from runbook.host.facts import DOWN, UNLOADABLE, ActiveState, LoadState
from runbook.host.holders import Holder
from runbook.model import Verdict

STILL_THERE = "  # if it still runs 10s later: kill -KILL"


def find_commands(facts: UnitFacts) -> tuple[str, ...]:
    """Return the commands; none if an operator has to decide first."""
    unit, verdict = facts.unit, facts.health.verdict
    if unit.load_state is LoadState.MASKED and not unit.is_running:
        return (_systemctl(facts, "unmask"), _systemctl(facts, "start"))
    if (unit.load_state is not LoadState.LOADED or verdict in _DECIDED_BY_OPERATOR) and not facts.strays:
        return _reload(facts)
    if facts.strays:
        return (*_reload(facts), *_replace_strays(facts))
    if verdict is Verdict.READY:
        return _reload(facts)
    return (*_reload(facts), *_start(facts))


_DECIDED_BY_OPERATOR = (
    Verdict.OTHER_UNIT_HOLDS_PORT,
    Verdict.OWNER_UNKNOWN,
    Verdict.STILL_STARTING,
    Verdict.UNIT_FROZEN,
    Verdict.UNIT_CHANGED,
    Verdict.CONDITION_NOT_MET,
    Verdict.JOB_DEPENDENCY,
    Verdict.NOT_LISTENING,
)
"""Verdicts on a unit that no start of it would help."""


def find_decision(facts: UnitFacts) -> str:
    """Return what an operator has to decide or to find out; empty if the commands are enough."""
    unit, verdict = facts.unit, facts.health.verdict
    if unit.load_state in UNLOADABLE:
        user = " --user" if unit.of_user else ""
        return f"systemd-analyze{user} verify {unit.name} shows what is wrong with its file"
    if refusal := find_refusal(unit, facts.ports, lambda _: ""):
        return refusal
    if verdict in (Verdict.UNIT_FAILED, Verdict.CRASH_LOOP, Verdict.START_LIMIT_HIT) and not facts.rivals:
        return f"first find out why it exits: {describe_log_command(facts.view, unit)}"
    if verdict is Verdict.NOT_LISTENING:
        return f"find out what it does instead: {describe_log_command(facts.view, unit)}"
    return ""


def _reload(facts: UnitFacts) -> tuple[str, ...]:
    if not facts.unit.need_daemon_reload:
        return ()
    return (f"{_sudo(facts)}systemctl{' --user' if facts.unit.of_user else ''} daemon-reload",)


def _replace_strays(facts: UnitFacts) -> tuple[str, ...]:
    """Return the commands that kill other processes on the unit's ports, and start the unit in their place."""
    unit = facts.unit
    if unit.active_state is ActiveState.ACTIVE and facts.health.verdict is Verdict.PORT_SHARED and not unit.n_restarts:
        return tuple(_kills(facts))  # The unit listens beside them, and goes on.
    stop = () if unit.active_state in DOWN else (_systemctl(facts, "stop"),)
    return (*stop, *_kills(facts), *_start(facts))


def _kills(facts: UnitFacts) -> Iterator[str]:
    yield from (f"{_sudo_for(facts, one)}kill {one.process.pid}{STILL_THERE} {one.process.pid}" for one in facts.strays)


def _start(facts: UnitFacts) -> tuple[str, ...]:
    """Return the commands that start a unit, however often it was started before."""
    unit = facts.unit
    used_up = facts.journal.budget is not None and facts.journal.budget.used > 0
    is_reset = unit.active_state is ActiveState.FAILED or is_start_limit_hit(unit) or used_up or unit.n_restarts
    verb = "start" if not unit.is_running or facts.strays else "restart"
    return (*((_systemctl(facts, "reset-failed"),) if is_reset else ()), _systemctl(facts, verb))


def _systemctl(facts: UnitFacts, verb: str) -> str:
    return f"{_sudo(facts)}{facts.unit.systemctl_command(verb)}"


def _sudo(facts: UnitFacts) -> str:
    """Return "sudo " before a command about a unit of the system, for a user without rights."""
    return "sudo " if facts.uid and not facts.unit.of_user else ""


def _sudo_for(facts: UnitFacts, holder: Holder) -> str:
    """Return "sudo " before a signal to a process of another user."""
    return "sudo " if facts.uid not in (0, holder.process.uid) else ""
