"""Why a start cannot complete, or is not carried out at all."""

from __future__ import annotations

import re
from collections.abc import Iterator

from runbook.checks.exit_reason import describe_exit, describe_unmet_conditions
from runbook.checks.pid_file import describe_pid_file
from runbook.checks.requirements import describe_failed_requirements
from runbook.doctor.drop_in import make_drop_in
from runbook.doctor.facts import UnitFacts
from runbook.doctor.findings import Cause, DropIn, Severity
from runbook.host.exit_status import describe_exec_failure
from runbook.host.facts import DOWN, ActiveState, LoadState
from runbook.model import Verdict
from runbook.util.timespan import format_span

_REFUSED_NOTIFICATION = re.compile(r"Got notification message from PID (\d+), but reception .*")
NOTIFY_GRACE = 5.0  # seconds from the start within which a program that listens may still report that it is ready
_DAEMON_OPTIONS = ("--daemon", "--daemonize", "--background", "--detach", "--fork")


def find_not_executed(facts: UnitFacts) -> Iterator[Cause]:
    """Yield why systemd could not execute the program: a user, a folder or a file is missing."""
    unit = facts.unit
    if unit.exec_main_code != 1 or not describe_exec_failure(unit.exec_main_status):
        return
    if facts.missing_program:
        yield Cause(f"{facts.missing_program} does not exist", "ExecStart=")
    else:
        yield Cause(describe_exit(unit), "ExecMainStatus")


def find_missing_environment(facts: UnitFacts) -> Iterator[Cause]:
    """Yield which file of EnvironmentFile= is missing: systemd reports only that it lacks resources."""
    if facts.unit.result != "resources":
        return
    for path, optional in facts.unit.environment_files:
        if not optional and not facts.view.read_files(path):
            keep = f"write EnvironmentFile=-{path}, with the minus, if it may be missing"
            yield Cause(f"{path} does not exist, and its start reads it", "EnvironmentFile=", prevention=keep)


def find_failed_requirement(facts: UnitFacts) -> Iterator[Cause]:
    """Yield which required unit failed."""
    if facts.unit.active_state in DOWN and (why := describe_failed_requirements(facts.view, facts.unit)):
        yield Cause(why, "Requires=, Requisite=, BindsTo=")


def find_unmet_condition(facts: UnitFacts) -> Iterator[Cause]:
    """Yield which condition kept systemd from starting the unit."""
    if facts.health.verdict is Verdict.CONDITION_NOT_MET and not facts.unit.is_running:
        unmet = describe_unmet_conditions(facts.unit, "a Condition or Assert")
        yield Cause(
            f"{unmet} does not hold, so systemd did not start it, and reports no failure", "Conditions, Asserts"
        )


def find_mask(facts: UnitFacts) -> Iterator[Cause]:
    """Yield where the unit is masked."""
    unit = facts.unit
    if unit.load_state is LoadState.MASKED:
        places = " and ".join(facts.masks) or "its file"
        yield Cause(f"an operator or a package has masked it: {places} leads to /dev/null", "LoadState")


def find_not_notified(facts: UnitFacts) -> Iterator[Cause]:
    """Yield that systemd waits for a notification that does not come, or that it refuses."""
    unit = facts.unit
    waits = unit.active_state is ActiveState.ACTIVATING and unit.sub_state == "start"
    if unit.type not in ("notify", "notify-reload") or not (waits or facts.has_not_notified):
        return
    refused = _REFUSED_NOTIFICATION.search("\n".join(facts.journal.systemd_lines))
    listening = [socket for found in facts.found for socket in found.listening]
    if refused:
        fix = make_drop_in(facts.view, unit, "notify", "systemd accepts the notification", NotifyAccess="all")
        what = f"systemd refuses its notification, which comes from PID {refused[1]} and not from the main process"
        yield Cause(what, "the journal of systemd, NotifyAccess=", Severity.PROBLEM, *fix)
    elif listening and (facts.has_not_notified or facts.age > NOTIFY_GRACE):
        what = f"it listens on {', '.join(listening)} already, and has not reported that it is ready (Type={unit.type})"
        source = "Type=, SubState, the sockets of its processes"
        if facts.has_not_notified and facts.is_never_ready:
            effect = "if it never reports that: systemd waits for no report, and for nothing that it does at its start"
            yield Cause(what, source, Severity.PROBLEM, *make_drop_in(facts.view, unit, "type", effect, Type="exec"))
        else:
            yield Cause(what, source, Severity.WARNING)
    elif facts.has_not_notified:
        ran = f"in the {format_span(unit.timeout_start_usec / 1e6)} of its last start"
        what = f"{ran} it did not report that it is ready, as Type={unit.type} requires (sd_notify)"
        yield Cause(what, "Type=, TimeoutStartSec=, Result")
    else:
        what = f"it has not reported that it is ready, as Type={unit.type} requires (sd_notify)"
        yield Cause(f"{what}: it needs more time, or it never does", "Type=, SubState, Result", Severity.WARNING)


def find_no_fork(facts: UnitFacts) -> Iterator[Cause]:
    """Yield that a Type=forking service stays in the foreground, or writes no PIDFile=."""
    unit = facts.unit
    if unit.type != "forking" or unit.active_state is not ActiveState.ACTIVATING:
        return
    listening = [socket for found in facts.found for socket in found.listening]
    if unit.control_pid and listening and (facts.has_start_timed_out or facts.age > NOTIFY_GRACE):
        settings = {"Type": "exec", **({"PIDFile": ""} if unit.pid_file else {})}
        effect = "systemd takes the process of ExecStart= as the main process"
        # A program may do much before it goes to the background, so one start in the foreground proves nothing.
        fix: tuple[DropIn | None, str] = (None, "")
        if facts.is_never_ready:
            fix = make_drop_in(facts.view, unit, "type", effect, **settings)
        what = f"PID {unit.control_pid} of ExecStart= listens on {', '.join(listening)} and stays in the foreground"
        severity = Severity.PROBLEM if facts.is_never_ready else Severity.WARNING
        yield Cause(f"{what}, but Type=forking waits for its exit", "Type=, ControlPID", severity, *fix)
    elif content := describe_pid_file(facts.view, unit):
        yield Cause(f"systemd waits for PIDFile={unit.pid_file}: {content}", unit.pid_file)


def find_daemonized(facts: UnitFacts) -> Iterator[Cause]:
    """Yield that a program goes to the background, where systemd expects it in the foreground."""
    unit = facts.unit
    option = next((word for word in unit.start_arguments if word in _DAEMON_OPTIONS), "")
    exited = unit.exec_main_code == 1 and not unit.exec_main_status
    if option and exited and not unit.main_pid and unit.type in ("simple", "exec"):
        fix = make_drop_in(facts.view, unit, "type", "systemd takes the child as the main process", Type="forking")
        what = f"{option} sends it to the background, and with Type={unit.type} systemd then kills what it has started"
        yield Cause(what, "ExecStart=, Type=", Severity.PROBLEM, *fix)
