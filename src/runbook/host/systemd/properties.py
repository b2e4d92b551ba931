"""Converts a unit's D-Bus properties to `facts.Unit`."""

from __future__ import annotations

from collections.abc import Iterator

from runbook.host.facts import ActiveState, LoadState, Unit
from runbook.host.systemd.bus import Properties

# Fields of facts.Unit that are systemd's properties as they are.
_PROPERTIES = {
    "name": "Id",
    "names": "Names",
    "description": "Description",
    "sub_state": "SubState",
    "need_daemon_reload": "NeedDaemonReload",
    "can_reload": "CanReload",
    "requires": "Requires",
    "can_stop": "CanStop",
    "triggered_by": "TriggeredBy",
    "triggers": "Triggers",
    "listen": "Listen",
    "fragment_path": "FragmentPath",
    "unit_file_state": "UnitFileState",
    "start_limit_interval_usec": "StartLimitIntervalUSec",
    "start_limit_burst": "StartLimitBurst",
    "inactive_enter_monotonic": "InactiveEnterTimestampMonotonic",
    "inactive_exit": "InactiveExitTimestamp",
    "inactive_exit_monotonic": "InactiveExitTimestampMonotonic",
    "active_enter_monotonic": "ActiveEnterTimestampMonotonic",
    "active_exit_monotonic": "ActiveExitTimestampMonotonic",
    "state_change_monotonic": "StateChangeTimestampMonotonic",
    "control_group": "ControlGroup",
    "control_group_id": "ControlGroupId",
    "main_pid": "MainPID",
    "control_pid": "ControlPID",
    "type": "Type",
    "restart": "Restart",
    "restart_usec": "RestartUSec",
    "remain_after_exit": "RemainAfterExit",
    "result": "Result",
    "reload_result": "ReloadResult",
    "n_restarts": "NRestarts",
    "exec_main_pid": "ExecMainPID",
    "exec_main_code": "ExecMainCode",
    "exec_main_status": "ExecMainStatus",
    "exec_main_start": "ExecMainStartTimestamp",
    "exec_main_start_monotonic": "ExecMainStartTimestampMonotonic",
    "timeout_start_usec": "TimeoutStartUSec",
    "timeout_stop_usec": "TimeoutStopUSec",
    "watchdog_usec": "WatchdogUSec",
    "bus_name": "BusName",
    "pid_file": "PIDFile",
    "kill_mode": "KillMode",
    "send_sigkill": "SendSIGKILL",
    "status_text": "StatusText",
    "stored_fds": "NFileDescriptorStore",
    "private_network": "PrivateNetwork",
    "joins_namespace_of": "JoinsNamespaceOf",
    "network_namespace_path": "NetworkNamespacePath",
}


_PROPAGATES_TO = ("RequiredBy", "BoundBy", "ConsistsOf")
"""Dependencies along which a restart continues to other units (systemd, src/core/unit-dependency-atom.c)."""

_PROPAGATED_FROM = ("Requires", "Requisite", "BindsTo", "PartOf", "StopPropagatedFrom")
"""Dependencies along which a stop or a restart of the other unit continues to this one."""

_START_COMMANDS = ("ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost")
"""Settings of commands that fail a start when they fail, in the order in which they run.

With Type=forking the main process is a child of what ExecStart= runs; with other types it is that process itself.
"""


def make_unit(properties: Properties) -> Unit:
    """Make a unit from its properties. A unit without processes lacks those of a service."""

    def is_met(kind: str) -> bool:
        # A condition that was never checked reads false, too.
        return bool(properties.get(f"{kind}Result")) or not properties.get(f"{kind}TimestampMonotonic")

    facts = {field: properties.get(name) for field, name in _PROPERTIES.items()}
    if (both := properties.get("TimeoutUSec")) is not None:
        # A socket or a mount has one time-out for start and stop.
        facts["timeout_start_usec"] = facts["timeout_stop_usec"] = both
    prevent, force = (
        tuple(map(tuple, properties.get(f"Restart{kind}ExitStatus", ([], [])))) for kind in ("Prevent", "Force")
    )
    facts = {field: tuple(value) if isinstance(value, list) else value for field, value in facts.items()}
    return Unit(
        load_state=LoadState(properties.get("LoadState", "")),
        load_error=properties.get("LoadError", ("", ""))[1],
        active_state=ActiveState(properties.get("ActiveState", "")),
        invocation_id=bytes(properties.get("InvocationID", [])).hex(),
        job=properties.get("Job", (0, "/"))[0],
        condition_result=is_met("Condition"),
        assert_result=is_met("Assert"),
        propagates_to=tuple(name for kind in _PROPAGATES_TO for name in properties.get(kind, [])),
        activation=tuple(map(tuple, properties.get("ActivationDetails", []))),
        propagated_from=tuple(name for kind in _PROPAGATED_FROM for name in properties.get(kind, [])),
        unmet_conditions=tuple(_find_unmet(properties)),
        failed_command=_find_failed_command(properties),
        restart_prevent_statuses=prevent[0],
        restart_prevent_signals=prevent[1],
        restart_force_statuses=force[0],
        restart_force_signals=force[1],
        **{field: value for field, value in facts.items() if value is not None},
    )


def _find_unmet(properties: Properties) -> Iterator[str]:
    """List conditions that were checked and not met, as in the unit file: "ConditionPathExists=/etc/gw"."""
    for name in ("Conditions", "Asserts"):
        for kind, trigger, negated, value, state in properties.get(name, []):
            if state < 0:
                yield f"{kind}={'|' if trigger else ''}{'!' if negated else ''}{value}"


def _find_failed_command(properties: Properties) -> str:
    """Return the command beside the main one that failed first in this invocation: "ExecStartPre=/bin/sh ended with …".

    systemd forgets these results with each start. Empty if the main process exited while the command ran: the command's
    failure is then a consequence.
    """
    main_exit = properties.get("ExecMainExitTimestampMonotonic", 0)
    forks = properties.get("Type") == "forking"
    for setting in _START_COMMANDS if forks else (name for name in _START_COMMANDS if name != "ExecStart"):
        for path, _argv, ignored, _, started, _, exited, _pid, code, status in properties.get(setting, []):
            failed = not ignored and exited and (code != 1 or status)
            if failed and not started <= main_exit < exited:
                how = f"exited with status {status}" if code == 1 else f"was killed by signal {status}"
                return f"{setting}={path} {how}"
    return ""
