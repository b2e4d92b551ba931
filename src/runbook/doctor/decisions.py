"""What an operator has to decide or to find out before the commands are of use, or instead of them."""

from __future__ import annotations

import math
from collections.abc import Callable
from shlex import quote

from runbook.actions.kill_advice import find_refusal
from runbook.checks.log_files import find_log_commands
from runbook.checks.requirements import find_failed_requirements
from runbook.doctor.disruption import describe_disruption
from runbook.doctor.facts import UnitFacts
from runbook.doctor.findings import Decision
from runbook.doctor.remedies import MAX_AWAITED, find_actions, find_stops, is_decided_by_operator, systemctl
from runbook.host.exit_status import describe_exec_failure
from runbook.host.facts import UNLOADABLE, LoadState, Unit
from runbook.model import Verdict
from runbook.util.timespan import format_span

_NOTIFY_CHOICES = (
    "find out whether it reports that it is ready: if it never does, it needs Type=exec; if another of its processes "
    "does, NotifyAccess=all; if it is only slow, a longer TimeoutStartSec="
)
_EXITED = (Verdict.UNIT_FAILED, Verdict.CRASH_LOOP, Verdict.START_LIMIT_HIT, Verdict.UNIT_EXITED)


def find_decision(facts: UnitFacts) -> Decision:
    """Return what an operator has to decide or to find out; nothing if the commands are enough."""
    return next((found for decide in _DECISIONS if (found := decide(facts))), Decision())


def _decide_about_file(facts: UnitFacts) -> Decision | None:
    unit = facts.unit
    user = " --user" if unit.of_user else ""
    if unit.load_state in UNLOADABLE:
        return Decision("find out what is wrong with its file", (f"systemd-analyze{user} verify {quote(unit.name)}",))
    if unit.load_state is LoadState.MASKED and not unit.is_running:
        return Decision("find out who masked it, and why: to unmask it overrides that", find_actions(facts))
    return None


def _decide_about_holders(facts: UnitFacts) -> Decision | None:
    """A process on the unit's port is not to be killed."""
    if not (refusal := find_refusal(facts.unit, facts.ports, lambda _: "")):
        return None
    stops = find_stops(facts)
    for stop in stops:
        refusal = refusal.replace(f" ({stop})", "")
    return Decision(refusal, stops)


def _decide_about_conflict(facts: UnitFacts) -> Decision | None:
    if not facts.conflicting:
        return None
    others = " and ".join(one.name for one in facts.conflicting)
    return Decision(f"decide which is to run: a start stops {others} (Conflicts=)", (systemctl(facts, "start"),))


def _decide_about_start(facts: UnitFacts) -> Decision | None:
    """A unit that is down without a failure may be meant to be: an operator stopped it, or something starts it."""
    if not facts.is_down_in_order:
        return None
    if facts.strays:
        served = "and if the process on its port is not to serve instead"
        return Decision(f"it did not fail: start it only if it is to run, {served}", find_actions(facts))
    if facts.unit.has_done_its_work or facts.activator:
        return None
    return Decision("it did not fail: start it if it is to run", (systemctl(facts, "start"),))


def _decide_about_actions(facts: UnitFacts) -> Decision | None:
    """A start that may reboot the machine is no fix to paste."""
    if not facts.actions or not is_decided_by_operator(facts):
        return None
    what = f"{' and '.join(facts.actions)} acts on the whole machine if it fails or ends again"
    return Decision(f"{what}: start it only if that may happen", find_actions(facts))


def _decide_about_taken(facts: UnitFacts) -> Decision | None:
    if not facts.taken:
        return None
    return _read_log(facts, "find out whether it is to listen there, or uses that port as a client", facts.unit)


def _decide_about_setting(facts: UnitFacts) -> Decision | None:
    """A condition, the program, or a setting by which systemd could not execute it is to be corrected."""
    unit, verdict = facts.unit, facts.health.verdict
    if verdict is Verdict.UNIT_FROZEN:
        return Decision("find out why it does not run before you let it")
    if verdict is Verdict.JOB_DEPENDENCY and (needed := find_failed_requirements(facts.view, unit)):
        return _read_log(facts, f"find out why {needed[0].unit.name} fails", needed[0].unit)
    edit = (systemctl(facts, "edit --full"),) if unit.fragment_path else ()
    if verdict is Verdict.CONDITION_NOT_MET:
        return Decision("make the condition hold, or remove it", edit)
    if facts.missing_program:
        return Decision(f"install {facts.missing_program}, or correct ExecStart=", edit)
    if unit.exec_main_code == 1 and describe_exec_failure(unit.exec_main_status):
        return Decision("correct the setting by which systemd could not execute it", edit)
    return None


def _decide_about_exit(facts: UnitFacts) -> Decision | None:
    unit, verdict = facts.unit, facts.health.verdict
    if facts.never_notifies and not facts.strays:
        return Decision(_NOTIFY_CHOICES, (systemctl(facts, "edit"),))
    has_failed = unit.result not in ("", "success") or verdict is Verdict.CRASH_LOOP
    if verdict in _EXITED and has_failed and not facts.rivals and not facts.is_only_refused:
        return _read_log(facts, "find out why it exits", unit)
    return None


def _decide_about_wait(facts: UnitFacts) -> Decision | None:
    """A restart would throw away what the unit has done since its start."""
    left = facts.start_time_left
    is_waited_for = (facts.health.verdict is Verdict.STILL_STARTING or facts.is_starting) and not facts.rivals
    if is_waited_for and left > 0:
        until = f"systemd ends its start in {format_span(round(left))}" if left < math.inf else "it has no time limit"
        return Decision(f"wait, and look again: {until} (TimeoutStartSec=)")
    if facts.may_start_yet:
        return Decision(f"it began {format_span(round(facts.age))} ago, and may need more time: look again")
    if facts.health.verdict is Verdict.NOT_LISTENING:
        return _read_log(facts, "find out what it does instead", facts.unit)
    return None


def _read_log(facts: UnitFacts, why: str, unit: Unit) -> Decision:
    """Return that the log of a unit is to be read. Where it is may be known only in words."""
    commands, words = find_log_commands(facts.view, unit)
    return Decision(f"{why}: {' or '.join((*commands, *words))}") if words else Decision(why, commands)


def _decide_about_leftovers(facts: UnitFacts) -> Decision | None:
    """A leftover that holds no port may be there on purpose, as a job of cron is."""
    idle = [one.process for one in facts.leftovers if one.may_be_killed and not one.sockets][:MAX_AWAITED]
    if not idle:
        return None
    sudo = "sudo " if any(facts.uid not in (0, one.uid) for one in idle) else ""
    pids = " ".join(str(one.pid) for one in idle)
    return Decision(
        f"if PID {pids.replace(' ', ', ')} {'is' if len(idle) == 1 else 'are'} no longer needed",
        (f"{sudo}kill {pids}",),
    )


def _decide_about_sessions(facts: UnitFacts) -> Decision | None:
    """A restart for new code ends more than the unit."""
    unit = facts.unit
    is_restarted = facts.runs_old_code and facts.health.verdict is Verdict.READY
    is_own = unit.is_service and facts.view.is_inside(unit)
    why = describe_disruption(unit.name, unit, of_user=unit.of_user, is_own=is_own) if is_restarted else ""
    return Decision(why) if why else None


_DECISIONS: tuple[Callable[[UnitFacts], Decision | None], ...] = (
    _decide_about_file,
    _decide_about_holders,
    _decide_about_conflict,
    _decide_about_start,
    _decide_about_actions,
    _decide_about_setting,
    _decide_about_exit,
    _decide_about_wait,
    _decide_about_taken,
    _decide_about_leftovers,
    _decide_about_sessions,
)
"""The first one decides."""
