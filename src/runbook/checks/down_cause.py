"""Find why a unit is down. The cause that systemd itself decided comes first, the exit of a process last."""

from __future__ import annotations

from runbook.checks.exit_reason import (
    describe_exit,
    describe_unmet_conditions,
    has_not_notified,
    is_restart_prevented,
    is_start_limit_hit,
    will_auto_restart,
)
from runbook.checks.requirements import describe_failed_binding, describe_failed_requirements
from runbook.host.facts import ActiveState, Unit
from runbook.host.interface import HostView
from runbook.host.requesters import describe_requester, find_last_stop
from runbook.model import Verdict

DownCause = tuple[Verdict, str]


def find_down_cause(view: HostView, unit: Unit, last_exit: str, *, was_running: bool, was_stopped: bool) -> DownCause:
    """Return why a unit is down, as a verdict and a sentence.

    `last_exit` is how its last process exited. `was_running`: this invocation was found running before;
    `was_stopped`: a job that this run did not request stopped it since.
    """
    if condition := _find_unmet_condition(unit):
        return condition
    if unit.active_state is not ActiveState.INACTIVE:
        return _find_failure(unit)
    if unit.invocation_id and (why := describe_failed_binding(view, unit)):
        return Verdict.JOB_DEPENDENCY, f"{unit.name} is down: {why}"
    # If Restart= would have restarted it after such an exit, and it is down, a stop was requested.
    by_stop = bool(unit.exec_main_code) and unit.restart != "on-success" and will_auto_restart(unit)
    if was_running and (was_stopped or by_stop):
        who = describe_requester(find_last_stop(unit.job_requests))
        return Verdict.UNIT_CHANGED, f"{who} stopped {unit.name} while it was watched"
    if why := describe_failed_requirements(view, unit):
        return Verdict.JOB_DEPENDENCY, f"{unit.name} is down: {why}"
    return Verdict.UNIT_EXITED, f"{unit.name} is down: {last_exit}{_describe_oneshot(unit)}"


def _find_unmet_condition(unit: Unit) -> DownCause | None:
    if unit.result == "exec-condition":
        why = unit.failed_command or "ExecCondition= exited with a status that prevents the start"
        return Verdict.CONDITION_NOT_MET, f"{unit.name} was not started: its {why}"
    if unit.condition_result and unit.assert_result:
        return None
    return Verdict.CONDITION_NOT_MET, f"{describe_unmet_conditions(unit, 'a Condition or Assert')} does not hold"


def _find_failure(unit: Unit) -> DownCause:
    """Return why a unit is `failed`."""
    why = describe_exit(unit)
    if has_not_notified(unit):
        return Verdict.NOT_NOTIFYING, f"{unit.name} failed: {why}"
    if is_start_limit_hit(unit):
        if unit.name.endswith(".socket"):
            often = f"{' and '.join(unit.triggers) or 'the service behind it'} was started too often"
            return Verdict.START_LIMIT_HIT, f"systemd closed {unit.name}, because {often}: {why}"
        limit = f"{unit.start_limit_burst} in {unit.start_limit_interval_usec / 1e6:g}s"
        return Verdict.START_LIMIT_HIT, f"systemd gave {unit.name} up, its starts ({limit}) were used up: {why}"
    down = "; RestartPreventExitStatus= names that, so systemd leaves it down" if is_restart_prevented(unit) else ""
    return Verdict.UNIT_FAILED, f"{unit.name} failed: {why}{down}"


def _describe_oneshot(unit: Unit) -> str:
    """Return that a unit is down once its work is done, so that waiting for it is in vain; empty for any other."""
    if unit.has_done_its_work:
        return "; a Type=oneshot without RemainAfterExit= is down once its work is done, and is not to be waited for"
    return ""
