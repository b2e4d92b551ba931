"""What systemd and the kernel report of a unit, and what that means, in words."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from runbook.doctor.facts import UnitFacts
from runbook.doctor.findings import Cause, Severity
from runbook.doctor.journal import NO_JOURNAL, format_clock
from runbook.host.facts import DOWN, Unit
from runbook.host.holders import PortOwnership, Role, address_of
from runbook.host.interface import HostView
from runbook.host.ownership.describe import LEFT_OVER
from runbook.host.requesters import describe_requester, find_last_stop
from runbook.model import Verdict
from runbook.util.timespan import format_span

MAX_DESCRIBED = 3  # processes on a port that are described; the others are counted
JOURNAL_UNSEEN = ("the journal", "part of the journal")  # the beginnings of what could not be read of the journal
_WRONG_ROLES = (Role.ORPHAN, Role.LEFTOVER, Role.OTHER_UNIT)  # roles of a process that answers in the unit's place


def summarize(facts: UnitFacts, causes: Sequence[Cause] = ()) -> str:
    """Return the finding in one sentence: where systemd and the kernel differ, what answers on the port.

    Of a unit that does its work, the worst of what is wrong all the same.
    """
    unit, health = facts.unit, facts.health
    if health.verdict is Verdict.CRASH_LOOP or (health.healthy and facts.is_restarted):
        times = "once" if unit.n_restarts == 1 else f"{unit.n_restarts} times"
        last_exit = facts.journal.last_exit or "its main process exited"
        return f"systemd restarted {unit.name} {times}: {last_exit}" if unit.n_restarts else health.reason
    if health.healthy and causes:
        return max(causes, key=lambda cause: [*Severity].index(cause.severity)).sentence
    if facts.unit.is_service and (answering := [one for one in facts.rivals if one.role in _WRONG_ROLES]):
        return f"{_describe_state(facts)}; what answers on {facts.held_ports(answering[0])} is {answering[0].process}"
    return health.reason


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
    if facts.activator:
        yield f"{facts.activator} starts it on demand"
    if facts.is_down_in_order:
        if request := find_last_stop(unit.job_requests):
            yield f"{describe_requester(request)} stopped it"
        if unit.unit_file_state in ("enabled", "disabled"):
            yield f"{unit.unit_file_state}: {'a' if unit.unit_file_state == 'enabled' else 'no'} boot starts it"
    if unit.n_restarts:
        yield f"{unit.n_restarts} restart{'' if unit.n_restarts == 1 else 's'} by systemd"
    if facts.journal.last_exit and facts.journal.last_exit not in summarize(facts):
        yield f"last exit: {facts.journal.last_exit}"
    is_counted = facts.journal.budget is not None and facts.journal.budget.used > 0
    if is_counted and not facts.is_limit_reached and not facts.endless_loop[0]:
        yield str(facts.journal.budget)


def describe_port(view: HostView, unit: Unit, owner: PortOwnership) -> str:
    """Return what the kernel reports of a port."""
    addresses = dict.fromkeys(address_of(str(one), one.number) for one in owner.listeners)
    where = f" ({', '.join(filter(None, addresses))})" if owner.listeners else ""
    if not owner.foreign_holders:
        return f"{owner.reason}{where if owner.is_owned else ''}"
    facts = []
    for holder in owner.foreign_holders[:MAX_DESCRIBED]:
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
    return f"{format_clock(moment, now)} ({format_span(max(0, round(now - moment)))} ago)"


def list_unseen(facts: UnitFacts) -> Iterable[str]:
    """Yield what could not be read. None of it counts as healthy."""
    for owner in facts.ports:
        if owner.verdict is Verdict.OWNER_UNKNOWN:
            yield owner.reason
    is_all_readable = facts.unit.of_user or not facts.uid
    if facts.journal.unreadable:
        yield f"{JOURNAL_UNSEEN[0]}: {facts.journal.unreadable}"
    elif facts.journal is not NO_JOURNAL and not facts.journal.systemd_lines and not is_all_readable:
        yield f"{JOURNAL_UNSEEN[1]} may be hidden from you: run it as root, or in the group systemd-journal, to see all"
