"""Find why systemd, or this program, refuses a job on a unit before it is requested."""

from __future__ import annotations

from runbook.checks.exit_reason import describe_unit_file
from runbook.host.facts import UNLOADABLE, JobVerb, LoadState, Unit
from runbook.host.interface import HostView
from runbook.host.ownership.describe import describe_untracked
from runbook.model import Finding, Verdict, fails

START_VERBS = (JobVerb.START, JobVerb.RESTART)  # the jobs that begin an invocation


def find_job_refusal(view: HostView, unit: Unit, verb: JobVerb) -> Finding | None:
    """Return why no such job may be requested at all: the unit is masked, unknown, or without a file."""
    verdict, why = Verdict.JOB_FAILED, ""
    if unit.load_state is LoadState.MASKED:
        remedy = f"{unit.systemctl_command('unmask')} lifts it"
        verdict, why = Verdict.UNIT_MASKED, f"{unit.name} is masked, and a mask is not overridden; {remedy}"
    elif forbids := _find_manual_refusal(unit, verb):
        why = f"systemd refuses to {verb} {unit.name} by request: its file has {forbids}=yes"
    elif unit.load_state is LoadState.NOT_FOUND and not unit.is_running:
        verdict, why = Verdict.UNIT_NOT_FOUND, unit.describe_not_found(view.find_similar_unit(unit.name))
    elif unit.load_state is LoadState.NOT_FOUND and verb is JobVerb.RESTART:
        # Refused before anything is stopped: the unit still serves.
        problem = f"the file of {unit.name} is gone: systemd cannot start it again, and it still runs"
        verdict, why = Verdict.UNIT_NOT_FOUND, f"{problem} ({unit.describe()})"
    elif unit.is_untracked and verb in START_VERBS:
        start = f"a start would put a second main process beside it, so no job was requested for {unit.name}"
        remedy = "a `kill-orphan` before this step reloads, and then kills that process"
        why = f"{describe_untracked(unit)}; {start}; {remedy}"
    elif unit.load_state in UNLOADABLE and not (unit.need_daemon_reload and verb in START_VERBS):
        why = describe_unloadable(unit)
    return fails(verdict, why, **unit.evidence()) if why else None


def describe_unloadable(unit: Unit) -> str:
    """Return that systemd cannot load a unit, and if it runs, that it should not be stopped."""
    return describe_unit_file(unit) if unit.is_running else unit.describe_unloadable()


def _find_manual_refusal(unit: Unit, verb: JobVerb) -> str:
    """Return the setting because of which systemd refuses this job by request; a restart needs both halves."""
    if unit.refuse_manual_stop and verb in (JobVerb.STOP, JobVerb.RESTART):
        return "RefuseManualStop"
    return "RefuseManualStart" if unit.refuse_manual_start and verb in START_VERBS else ""
