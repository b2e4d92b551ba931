"""Why a unit exited or waits, from systemd's properties, and whether systemd will restart it."""

from __future__ import annotations

import signal
from collections.abc import Collection

from runbook.host.exit_status import EXIT_EXEC, describe_exec_failure
from runbook.host.facts import UNLOADABLE, ActiveState, LoadState, Unit
from runbook.host.requesters import describe_requester
from runbook.util.timespan import format_span

NOTIFY_TYPES = ("notify", "notify-reload", "dbus")  # values of Type= by which the service reports that it is ready

START_LIMIT_RESULTS = ("start-limit-hit", "service-start-limit-hit", "trigger-limit-hit")
"""Results of a unit that has reached a limit: its own, that of the service behind a socket, or TriggerLimit*=."""

# By the value of Restart=: the results after which systemd restarts a unit, and those after which it does not.
_RESTARTS_AFTER = {"on-success": ("success",), "on-abort": ("signal", "core-dump"), "on-watchdog": ("watchdog",)}
_RESTARTS_UNLESS = {"always": (), "on-failure": ("success",), "on-abnormal": ("success", "exit-code")}

USEC_INFINITY = 2**64 - 1  # systemd's `infinity`, in microseconds


def is_start_limit_hit(unit: Unit) -> bool:
    """True if systemd gave the unit up because of its start limit. Once the interval is over, it may be started again.

    Result keeps the first failure, so in most cases it is not start-limit-hit (systemd issue 32203). A unit that
    failed and that Restart= should restart, but that is not restarted, has hit the limit.
    """
    limited = unit.start_limit_burst > 0 and unit.start_limit_interval_usec > 0
    is_left_failed = unit.active_state is ActiveState.FAILED and will_auto_restart(unit)
    return unit.result in START_LIMIT_RESULTS or (limited and is_left_failed)


def will_auto_restart(unit: Unit) -> bool:
    """True if systemd restarts the unit after an exit like its last one.

    As service_shall_restart() of systemd's src/core/service.c: RestartPreventExitStatus= comes first, then
    RestartForceExitStatus=, then Restart= (systemd.service(5), the table under it). SuccessExitStatus= is part of
    Result.
    """
    if is_restart_prevented(unit):
        return False
    if _exited_with(unit, unit.restart_force_statuses, unit.restart_force_signals):
        return True
    if unit.restart in _RESTARTS_UNLESS:
        return unit.result not in _RESTARTS_UNLESS[unit.restart]
    return unit.result in _RESTARTS_AFTER.get(unit.restart, ())


def is_restart_prevented(unit: Unit) -> bool:
    """True if RestartPreventExitStatus= names the status or the signal of the main process's exit."""
    return _exited_with(unit, unit.restart_prevent_statuses, unit.restart_prevent_signals)


def has_exited_by_itself(unit: Unit) -> bool:
    """True if the program was executed and exited with an error status, as one does that finds its port in use."""
    return unit.result == "exit-code" and not (
        unit.exec_main_code == 1 and describe_exec_failure(unit.exec_main_status)
    )


def _exited_with(unit: Unit, statuses: Collection[int], signals: Collection[int]) -> bool:
    # CLD_EXITED, CLD_KILLED, CLD_DUMPED of waitid(2).
    match unit.exec_main_code:
        case 1:
            return unit.exec_main_status in statuses
        case 2 | 3:
            return unit.exec_main_status in signals
    return False


def was_stopped(unit: Unit) -> bool:
    """True if SIGTERM ended the main process, as in a stop, and systemd counts that as a success."""
    by_term = (unit.exec_main_code, unit.exec_main_status) == (2, signal.SIGTERM)  # CLD_KILLED of waitid(2)
    return by_term and unit.result in ("success", *START_LIMIT_RESULTS)


def has_start_timed_out(unit: Unit) -> bool:
    """True if systemd stopped the unit because its start took longer than TimeoutStartSec=."""
    # Result is `timeout` after a stop that took too long as well; but then the unit had become active before.
    return unit.result == "timeout" and unit.active_enter_monotonic < unit.inactive_exit_monotonic


def has_not_notified(unit: Unit) -> bool:
    """True if the start timed out because the service did not report that it is ready, as its Type= requires.

    It may need more time, or it may never report. systemd stops it either way, and with Restart= again and again.
    """
    return unit.type in NOTIFY_TYPES and has_start_timed_out(unit)


def describe_exit(unit: Unit) -> str:
    """Return why a unit exited, by its first failure: "its main process exited with status 78"."""
    if has_start_timed_out(unit):
        return _describe_start_timeout(unit)
    if unit.failed_command:
        return f"its {unit.failed_command}"
    match unit.result:
        case "watchdog":
            limit = format_span(unit.watchdog_usec / 1e6)
            return f"it sent no keep-alive ping within the {limit} of WatchdogSec=, and systemd stopped it"
        case "oom-kill":
            return "the kernel killed one of its processes because memory ran out (oom-kill)"
        case "protocol" if not unit.exec_main_code:
            return "its start left no main process"
        case "resources" if not unit.exec_main_code:
            return _describe_resources(unit)
    match unit.exec_main_code:
        case 1:
            return _describe_main_exit(unit)
        case 2 if was_stopped(unit):
            return "it was stopped (SIGTERM)"
        case 2 | 3:
            # After a signal of systemd's own, Result is another: timeout, watchdog, or success after a stop.
            foreign = unit.result == "signal" and unit.exec_main_status in (signal.SIGKILL, signal.SIGTERM)
            sender = ", which systemd did not send" if foreign else ""
            return f"its main process was killed by signal {unit.exec_main_status}{sender}"
    return f"Result is {unit.result}" if unit.result not in ("", "success") else f"it is {unit.describe()}"


def _describe_main_exit(unit: Unit) -> str:
    """Return how the main process exited, or that systemd did not execute its program."""
    status, handoff = unit.exec_main_status, unit.exec_main_handoff_monotonic
    if not status and unit.result in ("exit-code", "signal", "core-dump"):
        # A daemon-reload makes systemd forget which.
        return f"a command beside its main process failed (Result is {unit.result})"
    # systemd hands over right before execve(2), which may still fail.
    may_have_failed = not handoff or status == EXIT_EXEC
    failure = describe_exec_failure(status, certain=handoff == 0) if may_have_failed else ""
    return f"its program {failure}" if failure else f"its main process exited with status {status}"


def _describe_resources(unit: Unit) -> str:
    """Return that systemd itself failed. It logs why, but not which file of EnvironmentFile= is missing."""
    required = [path for path, optional in unit.environment_files if not optional]
    reads = f"; its start reads {' and '.join(required)} (EnvironmentFile=)" if required else ""
    return f"an operation of systemd for it failed (Result is resources){reads}"


def _describe_start_timeout(unit: Unit) -> str:
    what = "it did not report that it is ready" if unit.type in NOTIFY_TYPES else "its start did not complete"
    if unit.type == "dbus":
        what = f"its name {unit.bus_name} did not appear on the bus"
    known = unit.timeout_start_usec not in (0, USEC_INFINITY)
    limit = f"the {format_span(unit.timeout_start_usec / 1e6)} of TimeoutStartSec=" if known else "its time"
    # systemd has removed the file by now, so what it contained is unknown. If a command of the start was killed, the
    # file was not due.
    awaited = unit.type == "forking" and unit.pid_file and not unit.failed_command
    missing = f", no main process was taken from PIDFile={unit.pid_file}" if awaited else ""
    return f"{what} within {limit} (Type={unit.type}){missing}, and systemd stopped it"


def describe_awaited(unit: Unit) -> str:
    """Return what a unit that is starting or reloading waits for by its Type=; empty if it is unknown."""
    if unit.active_state is ActiveState.RELOADING and unit.type == "notify-reload":
        return ": it has not reported the end of its reload yet (Type=notify-reload)"
    if unit.awaits_pid_file:
        return f": systemd waits for PIDFile={unit.pid_file} (Type={unit.type})"
    # `start-pre` and `start-post` run commands; only `start` waits for the service.
    if unit.active_state is not ActiveState.ACTIVATING or unit.sub_state != "start":
        return ""
    if unit.type in NOTIFY_TYPES:
        no_name = f"its name {unit.bus_name} is not on the bus" if unit.type == "dbus" else ""
        return f": {no_name or 'it has not reported that it is ready'} yet (Type={unit.type})"
    return ""


def describe_stop_job(unit: Unit) -> str:
    """Return which stop or restart of the unit is under way that the run did not request; empty if none is.

    Its processes serve until they have exited, which may take as long as TimeoutStopSec=.
    """
    verb = {"stop": "stopping", "restart": "restarting", "start": "restarting"}.get(unit.job_type)
    if unit.active_state is not ActiveState.DEACTIVATING or verb is None:
        return ""
    request = next((request for request in unit.job_requests if request.job == unit.job), None)
    # A job may change its type after the request (a restart becomes a start), so the request must match.
    matches = request is not None and (request.is_stop if verb == "stopping" else request.is_start)
    who = describe_requester(request if matches else None)
    return f"{who} is {verb} {unit.name}, which is {unit.describe()}; it serves until {_describe_stop_end(unit)}"


def _describe_stop_end(unit: Unit) -> str:
    if unit.sub_state.endswith("sigkill"):
        return "its processes have exited: they got KILL already"
    if not unit.send_sigkill:
        return "its processes exit by themselves: with SendSIGKILL=no they never get KILL"
    if unit.timeout_stop_usec in (0, USEC_INFINITY):
        return "its processes exit by themselves: it has no TimeoutStopSec="
    limit = format_span(unit.timeout_stop_usec / 1e6)
    return f"its processes have exited; they get KILL after the {limit} of TimeoutStopSec="


def describe_unit_file(unit: Unit) -> str:
    """Return what is wrong with the file of a running unit, which a later start would meet; empty if nothing is."""
    if unit.load_state is LoadState.MASKED:
        unmask = unit.systemctl_command("unmask")
        return f"{unit.name} has been masked: once it stops, it cannot be started ({unmask})"
    if unit.load_state is LoadState.NOT_FOUND:
        return f"the file of {unit.name} is gone: once it stops, it cannot be started"
    if unit.load_state in UNLOADABLE:
        return f"{unit.describe_unloadable()}: it still runs, and once it stops, it cannot be started"
    if unit.need_daemon_reload:
        reload = f"systemctl{' --user' if unit.of_user else ''} daemon-reload"
        return f"the file of {unit.name} changed since systemd read it: the unit runs by the old file ({reload})"
    return ""


def describe_unmet_conditions(unit: Unit, kind: str) -> str:
    """Return the conditions that do not hold; all of a kind if systemd does not name them."""
    return f"{' and '.join(unit.unmet_conditions) if unit.unmet_conditions else kind} of {unit.name}"
