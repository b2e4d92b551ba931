"""A unit's D-Bus properties become one `Unit`."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.host.facts import ActiveState, LoadState, Unit
from runbook.host.systemd.bus import Properties, variant
from runbook.host.systemd.properties import make_unit, property_name

PROPERTIES = {
    "name": "Id",
    "names": "Names",
    "description": "Description",
    "sub_state": "SubState",
    "need_daemon_reload": "NeedDaemonReload",
    "can_reload": "CanReload",
    "requires": "Requires",
    "requisite": "Requisite",
    "can_stop": "CanStop",
    "triggered_by": "TriggeredBy",
    "triggers": "Triggers",
    "listen": "Listen",
    "start_limit_interval_usec": "StartLimitIntervalUSec",
    "start_limit_burst": "StartLimitBurst",
    "state_change_monotonic": "StateChangeTimestampMonotonic",
    "inactive_enter_monotonic": "InactiveEnterTimestampMonotonic",
    "inactive_exit": "InactiveExitTimestamp",
    "inactive_exit_monotonic": "InactiveExitTimestampMonotonic",
    "active_enter_monotonic": "ActiveEnterTimestampMonotonic",
    "active_exit_monotonic": "ActiveExitTimestampMonotonic",
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


def look(**values: tuple[str, Any]) -> Unit:
    return make_unit(Properties(variant("a{sv}", {name: variant(*value) for name, value in values.items()})))


@pytest.mark.parametrize(("field", "name"), PROPERTIES.items())
def test_a_field_is_named_for_its_property(field: str, name: str) -> None:
    assert property_name(field) == name


def test_a_service() -> None:
    unit = look(
        Id=("s", "web.service"),
        Names=("as", ["web.service", "www.service"]),
        LoadState=("s", "loaded"),
        ActiveState=("s", "active"),
        SubState=("s", "running"),
        InvocationID=("ay", bytes.fromhex("00ff10ab") * 4),
        Job=("(uo)", (7, "/org/freedesktop/systemd1/job/7")),
        ConditionResult=("b", True),
        ConditionTimestampMonotonic=("t", 5),
        MainPID=("u", 315),
        ControlGroupId=("t", 2**40),
        RestartPreventExitStatus=("(aiai)", ([78, 2], [6])),
        RestartForceExitStatus=("(aiai)", ([], [9])),
        TimeoutStartUSec=("t", 2**64 - 1),
        LoadError=("(ss)", ("", "")),
    )
    assert unit == Unit(
        "web.service",
        names=("web.service", "www.service"),
        active_state=ActiveState.ACTIVE,
        sub_state="running",
        invocation_id="00ff10ab" * 4,
        job=7,
        main_pid=315,
        control_group_id=2**40,
        restart_prevent_statuses=(78, 2),
        restart_prevent_signals=(6,),
        restart_force_signals=(9,),
        timeout_start_usec=2**64 - 1,
    )


def test_a_socket_has_one_time_out_for_both_ways() -> None:
    unit = look(Id=("s", "web.socket"), LoadState=("s", "loaded"), TimeoutUSec=("t", 90_000_000))
    assert (unit.timeout_start_usec, unit.timeout_stop_usec) == (90_000_000, 90_000_000)


def test_a_socket_unit_that_was_never_started() -> None:
    unit = look(
        Id=("s", "web.socket"),
        LoadState=("s", "not-found"),
        LoadError=("(ss)", ("org.freedesktop.systemd1.NoSuchUnit", "Unit web.socket not found.")),
        ActiveState=("s", "inactive"),
        InvocationID=("ay", b""),
        Job=("(uo)", (0, "/")),
    )
    assert (unit.load_state, unit.load_error) == (LoadState.NOT_FOUND, "Unit web.socket not found.")
    assert (unit.invocation_id, unit.job, unit.main_pid) == ("", 0, 0)


@pytest.mark.parametrize(("checked", "held"), [(0, True), (5, False)])
def test_a_condition_that_was_never_checked_counts_as_met(checked: int, held: bool) -> None:
    unit = look(
        Id=("s", "web.service"),
        ConditionResult=("b", False),
        ConditionTimestampMonotonic=("t", checked),
        AssertResult=("b", False),
        AssertTimestampMonotonic=("t", checked),
    )
    assert (unit.condition_result, unit.assert_result) == (held, held)


COMMAND = "a(sasbttttuii)"


@pytest.mark.parametrize(
    ("setting", "started", "exited", "code", "status", "main_exit", "said"),
    [
        ("ExecStartPre", 5, 9, 1, 7, 0, "ExecStartPre=/bin/sh exited with status 7"),
        ("ExecStartPre", 5, 9, 1, 7, 3, "ExecStartPre=/bin/sh exited with status 7"),
        ("ExecStartPost", 5, 9, 2, 15, 7, ""),  # The main process exited first.
        ("ExecStartPost", 5, 9, 3, 11, 12, "ExecStartPost=/bin/sh was killed by signal 11"),
        ("ExecStartPre", 5, 0, 0, 0, 0, ""),  # It is still running.
        ("ExecStartPre", 5, 9, 1, 0, 0, ""),
    ],
)
def test_a_failed_command_beside_the_main_process(
    setting: str, started: int, exited: int, code: int, status: int, main_exit: int, said: str
) -> None:
    ran = ("/bin/sh", ["/bin/sh", "-c", "exit 7"], False, 1, started, 1, exited, 70, code, status)
    unit = look(
        Id=("s", "web.service"),
        ExecMainExitTimestampMonotonic=("t", main_exit),
        **{setting: (COMMAND, [ran])},
    )
    assert unit.failed_command == said


@pytest.mark.parametrize(("kind", "said"), [("forking", "ExecStart=/bin/sh exited with status 7"), ("simple", "")])
def test_with_type_forking_the_command_of_exec_start_is_not_the_main_process(kind: str, said: str) -> None:
    ran = ("/bin/sh", ["/bin/sh", "-c", "exit 7"], False, 1, 5, 1, 9, 70, 1, 7)
    assert look(Id=("s", "web.service"), Type=("s", kind), ExecStart=(COMMAND, [ran])).failed_command == said


def test_a_condition_is_named() -> None:
    conditions = [("ConditionPathExists", False, True, "/etc/gw", -1), ("ConditionHost", False, False, "a", 1)]
    assert look(Id=("s", "web.service"), Conditions=("a(sbbsi)", conditions)).unmet_conditions == (
        "ConditionPathExists=!/etc/gw",
    )


def test_a_state_of_a_later_systemd_is_kept_as_it_is() -> None:
    assert look(Id=("s", "web.service"), ActiveState=("s", "hibernating")).active_state == "hibernating"


@pytest.mark.parametrize(
    ("kind", "exits", "at"),
    [
        ("forking", {"ExecStart": (5,)}, 5),
        ("forking", {"ExecStart": (5,), "ExecStartPost": (0, 7)}, 7),
        ("simple", {"ExecStart": (5,)}, 0),
        ("simple", {"ExecStart": (5,), "ExecStartPost": (9,)}, 9),
    ],
)
def test_when_systemd_begins_to_wait_for_the_pid_file(kind: str, exits: dict[str, tuple[int, ...]], at: int) -> None:
    commands = {
        name: ("a(sasbttttuii)", [("/bin/x", ["x"], False, 1, 1, 2, one, 77, 1, 0) for one in times])
        for name, times in exits.items()
    }
    assert look(Id=("s", "web.service"), Type=("s", kind), **commands).control_exit_monotonic == at
