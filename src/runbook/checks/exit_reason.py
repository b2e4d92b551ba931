"""What systemd's words say of how a unit's processes ended, and whether it will start again by itself."""

from __future__ import annotations

import signal
from collections.abc import Collection

from runbook.host.facts import ActiveState, LoadState, Unit
from runbook.host.interface import HostView
from runbook.host.requesters import describe_requester
from runbook.util.timespan import format_span

NOTIFY_TYPES = ("notify", "notify-reload", "dbus")
"""The kinds of Type= in which the service itself says when it is ready."""

START_LIMIT_RESULTS = ("start-limit-hit", "service-start-limit-hit", "trigger-limit-hit")
"""Results that tell of a limit: the unit's own, and for a socket that of the service behind it, or TriggerLimit*=."""

USEC_INFINITY = 2**64 - 1
"""systemd's `infinity`, in microseconds."""


def is_start_limit_hit(unit: Unit) -> bool:
    """Whether systemd will not start the unit for its start limit.

    Result keeps the first failure, so it mostly does not say start-limit-hit (systemd issue 32203): a unit that
    failed, is to be restarted, and is not, has hit the limit.
    """
    if unit.result in START_LIMIT_RESULTS:
        return True
    return (
        unit.active_state is ActiveState.FAILED
        and unit.start_limit_burst > 0
        and unit.start_limit_interval_usec > 0
        and will_auto_restart(unit)
    )


def will_auto_restart(unit: Unit) -> bool:
    """Whether systemd starts the unit again after the way it ended.

    As service_shall_restart() of systemd's src/core/service.c: what RestartPreventExitStatus= names comes first, then
    RestartForceExitStatus=, then Restart= (systemd.service(5), the table under it). SuccessExitStatus= is in Result.
    """
    if is_restart_prevented(unit):
        return False
    if _exited_with(unit, unit.restart_force_statuses, unit.restart_force_signals):
        return True
    match unit.restart:
        case "always":
            return True
        case "on-success":
            return unit.result == "success"
        case "on-failure":
            return unit.result != "success"
        case "on-abnormal":
            return unit.result not in ("success", "exit-code")
        case "on-abort":
            return unit.result in ("signal", "core-dump")
        case "on-watchdog":
            return unit.result == "watchdog"
    return False


def is_restart_prevented(unit: Unit) -> bool:
    """Whether RestartPreventExitStatus= names the status or the signal that the main process ended with."""
    return _exited_with(unit, unit.restart_prevent_statuses, unit.restart_prevent_signals)


def _exited_with(unit: Unit, statuses: Collection[int], signals: Collection[int]) -> bool:
    match unit.exec_main_code:
        case 1:
            return unit.exec_main_status in statuses
        case 2 | 3:
            return unit.exec_main_status in signals
    return False


def has_start_timed_out(unit: Unit) -> bool:
    """Whether systemd ended the unit because its start took longer than TimeoutStartSec=."""
    return unit.result == "timeout" and unit.active_enter_monotonic < unit.inactive_exit_monotonic


def has_not_notified(unit: Unit) -> bool:
    """Whether that is because the service did not report that it is ready, as its Type= promises.

    It may need longer, or it may never report: systemd ends it either way, and with Restart= for ever.
    """
    return unit.type in NOTIFY_TYPES and has_start_timed_out(unit)


def describe_exit(unit: Unit) -> str:
    """Say how a unit came to its end, first cause first: "its main process ended with status 78"."""
    if has_start_timed_out(unit):
        what = _describe_not_notified(unit) if unit.type in NOTIFY_TYPES else "its start did not end"
        known = unit.timeout_start_usec not in (0, USEC_INFINITY)
        limit = f"the {format_span(unit.timeout_start_usec / 1e6)} of TimeoutStartSec=" if known else "its time"
        missing = f", nobody wrote PIDFile={unit.pid_file}" if unit.type == "forking" and unit.pid_file else ""
        return f"{what} within {limit} (Type={unit.type}){missing}, and systemd ended it"
    if unit.failed_command:
        return f"its {unit.failed_command}"
    match unit.result:
        case "watchdog":
            limit = format_span(unit.watchdog_usec / 1e6)
            return f"it gave no sign of life within the {limit} of WatchdogSec=, and systemd ended it"
        case "oom-kill":
            return "the kernel ended a process of its for want of memory (oom-kill)"
        case "protocol" if not unit.exec_main_code:
            return "its start left no main process behind"
    match unit.exec_main_code:
        case 1:
            return f"its main process ended with status {unit.exec_main_status}"
        case 2 | 3:
            # systemd's own signals have another Result: timeout, watchdog, or success after a stop.
            sender = ", which systemd did not send" if _is_foreign_signal(unit) else ""
            return f"its main process was killed by signal {unit.exec_main_status}{sender}"
    return f"Result is {unit.result}" if unit.result not in ("", "success") else f"it is {unit.describe()}"


def describe_awaited(unit: Unit) -> str:
    """Say what a unit that is being started or reloaded waits for, where its Type= tells; or nothing."""
    if unit.active_state is ActiveState.RELOADING and unit.type == "notify-reload":
        return ": it has not reported the end of its reload yet (Type=notify-reload)"
    if unit.active_state is not ActiveState.ACTIVATING or unit.sub_state != "start":
        return ""
    if unit.type in NOTIFY_TYPES:
        on_bus = f"its name {unit.bus_name} has not come to the bus" if unit.type == "dbus" else ""
        return f": {on_bus or 'it has not reported that it is ready'} yet (Type={unit.type})"
    if unit.type == "forking" and unit.pid_file and not unit.control_pid:
        return f": it waits for PIDFile={unit.pid_file} (Type=forking)"
    return ""


def describe_stop_job(unit: Unit) -> str:
    """Say that a stop or a restart of it is under way which the run did not ask for; or nothing.

    Its processes go on serving until they have ended, and may take as long for that as TimeoutStopSec= lets them.
    """
    verb = {"stop": "stopping", "restart": "restarting", "start": "restarting"}.get(unit.job_type)
    if unit.active_state is not ActiveState.DEACTIVATING or verb is None:
        return ""
    asked = next((one for one in unit.job_requests if one.job == unit.job), None)
    fits = asked is not None and (asked.is_stop if verb == "stopping" else asked.is_start)
    who = describe_requester(asked if fits else None)
    return f"{who} is {verb} {unit.name}, which is {unit.describe()}; it serves until {_describe_stop_end(unit)}"


def _describe_stop_end(unit: Unit) -> str:
    if unit.sub_state.endswith("sigkill"):
        return "its processes have ended, which had KILL already"
    if not unit.send_sigkill:
        return "its processes end by themselves: SendSIGKILL=no spares them KILL"
    if unit.timeout_stop_usec in (0, USEC_INFINITY):
        return "its processes end by themselves: it has no TimeoutStopSec="
    limit = format_span(unit.timeout_stop_usec / 1e6)
    return f"its processes have ended, which get KILL after the {limit} of TimeoutStopSec="


def describe_unit_file(unit: Unit) -> str:
    """Say what is the matter with the file of a unit that runs, and that a later start would come upon; or nothing."""
    if unit.load_state is LoadState.MASKED:
        unmask = unit.systemctl_command("unmask")
        return f"{unit.name} was masked meanwhile: once it stops, it cannot be started ({unmask})"
    if unit.load_state is LoadState.NOT_FOUND:
        return f"the file of {unit.name} is gone: once it stops, it cannot be started"
    if unit.need_daemon_reload:
        reload = f"systemctl{' --user' if unit.of_user else ''} daemon-reload"
        return f"the file of {unit.name} changed since systemd read it: what runs is not what it says ({reload})"
    return ""


def _describe_not_notified(unit: Unit) -> str:
    if unit.type == "dbus":
        return f"its name {unit.bus_name} did not come to the bus"
    return "it did not report that it is ready"


def _is_foreign_signal(unit: Unit) -> bool:
    return unit.result == "signal" and unit.exec_main_status in (signal.SIGKILL, signal.SIGTERM)


def describe_failed_requirement(view: HostView, unit: Unit) -> str:
    """Name what a unit needs and is down, and why; or nothing."""
    down = [other for other in map(view.unit, unit.requires) if other.active_state is ActiveState.FAILED]
    return "; ".join(f"{unit.name} needs {other.name}, which failed: {describe_exit(other)}" for other in down)


def describe_unmet_conditions(unit: Unit, kind: str) -> str:
    """Name the conditions that do not hold, where they are known."""
    return f"{' and '.join(unit.unmet_conditions) if unit.unmet_conditions else kind} of {unit.name}"
