"""Why a unit exited or waits, and whether systemd will restart it, from properties as systemd 252 and 257 have them."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runbook.checks.exit_reason import (
    describe_awaited,
    describe_exit,
    describe_stop_job,
    describe_unit_file,
    describe_unmet_conditions,
    has_not_notified,
    has_start_timed_out,
    is_start_limit_hit,
    will_auto_restart,
)
from runbook.host.facts import ActiveState, LoadState, Unit
from runbook.host.requesters import JobRequest, Requester
from tests.unit.fake_machine import unit

FAILED: dict[str, Any] = {"active_state": ActiveState.FAILED, "sub_state": "failed", "result": "exit-code"}
START_TIMED_OUT: dict[str, Any] = {**FAILED, "result": "timeout", "active_enter_monotonic": 1}


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"exec_main_code": 1, "exec_main_status": 78}, "its main process exited with status 78"),
        (
            {"exec_main_code": 1, "exec_main_status": 0, "result": "exit-code"},
            "a command beside its main process failed (Result is exit-code)",
        ),
        (
            {"exec_main_code": 1, "exec_main_status": 0, "result": "protocol"},
            "its main process exited with status 0",
        ),
        ({"exec_main_code": 3, "exec_main_status": 6}, "its main process was killed by signal 6"),
        (
            {"result": "signal", "exec_main_code": 2, "exec_main_status": 9},
            "its main process was killed by signal 9, which systemd did not send",
        ),
        (
            {"result": "watchdog", "watchdog_usec": 500_000, "exec_main_code": 3, "exec_main_status": 6},
            "it sent no keep-alive ping within the 0.5s of WatchdogSec=, and systemd stopped it",
        ),
        ({"result": "oom-kill"}, "the kernel killed one of its processes because memory ran out (oom-kill)"),
        ({"result": "protocol", "type": "forking"}, "its start left no main process"),
        ({"failed_command": "ExecStartPre= exited with status 7"}, "its ExecStartPre= exited with status 7"),
        (
            {**START_TIMED_OUT, "type": "notify"},
            "it did not report that it is ready within the 1min 30s of TimeoutStartSec= (Type=notify), "
            "and systemd stopped it",
        ),
        (
            {**START_TIMED_OUT, "type": "dbus", "bus_name": "org.example.A"},
            "its name org.example.A did not appear on the bus within the 1min 30s of TimeoutStartSec= (Type=dbus), "
            "and systemd stopped it",
        ),
        (
            {**START_TIMED_OUT, "type": "forking", "pid_file": "/run/a.pid", "timeout_start_usec": 0},
            "its start did not complete within its time (Type=forking), "
            "no main process was taken from PIDFile=/run/a.pid, and systemd stopped it",
        ),
        ({"result": "resources"}, "an operation of systemd for it failed (Result is resources)"),
        (
            {"result": "resources", "environment_files": (("/etc/a.env", False), ("/etc/b.env", True))},
            "an operation of systemd for it failed (Result is resources); "
            "its start reads /etc/a.env (EnvironmentFile=)",
        ),
        # systemd 257 reports whether it handed over to the program; 252 does not.
        (
            {"exec_main_code": 1, "exec_main_status": 217, "exec_main_handoff_monotonic": 0},
            "its program was not executed: systemd could not change to User= (status 217/USER)",
        ),
        (
            {"exec_main_code": 1, "exec_main_status": 217},
            "its program was not executed: systemd could not change to User= "
            "(status 217/USER, unless the program itself exits with that)",
        ),
        (
            {"exec_main_code": 1, "exec_main_status": 217, "exec_main_handoff_monotonic": 9},
            "its main process exited with status 217",
        ),
        (
            {"exec_main_code": 1, "exec_main_status": 203, "exec_main_handoff_monotonic": 9},
            "its program was not executed: systemd could not execute the file "
            "(status 203/EXEC, unless the program itself exits with that)",
        ),
        ({"exec_main_code": 1, "exec_main_status": 223}, "its main process exited with status 223"),
        ({"result": "success"}, "it is failed"),
    ],
)
def test_the_reason_of_an_exit(facts: dict[str, Any], text: str) -> None:
    assert describe_exit(unit(**{**FAILED, "main_pid": 0, **facts})) == text


@pytest.mark.parametrize(
    ("restart", "results"),
    [
        ("no", ""),
        ("always", "success exit-code signal core-dump watchdog timeout"),
        ("on-success", "success"),
        ("on-failure", "exit-code signal core-dump watchdog timeout"),
        ("on-abnormal", "signal core-dump watchdog timeout"),
        ("on-abort", "signal core-dump"),
        ("on-watchdog", "watchdog"),
    ],
)
def test_which_exits_systemd_restarts_after(restart: str, results: str) -> None:
    """The table under Restart= in systemd.service(5)."""
    exits = ("success", "exit-code", "signal", "core-dump", "watchdog", "timeout")
    assert [result for result in exits if will_auto_restart(unit(restart=restart, result=result))] == results.split()


def test_exit_statuses_come_before_restart() -> None:
    exited = unit(restart="no", result="exit-code", exec_main_code=1, exec_main_status=9)
    assert will_auto_restart(replace(exited, restart_force_statuses=(9,)))
    assert not will_auto_restart(replace(exited, restart_force_signals=(9,)))
    prevented = replace(exited, restart="always", restart_force_statuses=(9,), restart_prevent_statuses=(9,))
    assert not will_auto_restart(prevented)
    killed = unit(result="signal", exec_main_code=2, exec_main_status=9)
    assert will_auto_restart(killed)
    assert not will_auto_restart(replace(killed, restart_prevent_signals=(9,)))


@pytest.mark.parametrize(
    ("facts", "hit"),
    [
        ({"result": "start-limit-hit"}, True),
        ({"result": "trigger-limit-hit"}, True),
        ({}, True),  # Restart=always, and systemd does not restart it.
        ({"restart": "no"}, False),
        ({"start_limit_burst": 0}, False),
        ({"start_limit_interval_usec": 0}, False),
        ({"active_state": ActiveState.ACTIVATING}, False),
    ],
)
def test_the_start_limit(facts: dict[str, Any], hit: bool) -> None:
    assert is_start_limit_hit(unit(**{**FAILED, **facts})) is hit


def test_a_stop_that_took_too_long_is_not_a_start_that_did() -> None:
    assert has_start_timed_out(unit(**START_TIMED_OUT))
    assert not has_start_timed_out(unit(**{**START_TIMED_OUT, "active_enter_monotonic": 900_000_001}))
    assert has_not_notified(unit(**START_TIMED_OUT, type="notify"))
    assert not has_not_notified(unit(**START_TIMED_OUT, type="forking"))


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({"type": "notify"}, ": it has not reported that it is ready yet (Type=notify)"),
        ({"type": "dbus", "bus_name": "org.example.A"}, ": its name org.example.A is not on the bus yet (Type=dbus)"),
        ({"type": "forking", "pid_file": "/run/a.pid"}, ": systemd waits for PIDFile=/run/a.pid (Type=forking)"),
        ({"type": "forking", "pid_file": "/run/a.pid", "control_pid": 7}, ""),
        ({"type": "notify", "sub_state": "start-pre"}, ""),
        ({"type": "simple"}, ""),
        (
            {"type": "notify-reload", "active_state": ActiveState.RELOADING},
            ": it has not reported the end of its reload yet (Type=notify-reload)",
        ),
    ],
)
def test_what_a_start_waits_for(facts: dict[str, Any], text: str) -> None:
    starting: dict[str, Any] = {"active_state": ActiveState.ACTIVATING, "sub_state": "start"}
    assert describe_awaited(unit(**{**starting, **facts})) == text


STOPPING: dict[str, Any] = {
    "active_state": ActiveState.DEACTIVATING,
    "sub_state": "stop-sigterm",
    "job": 8,
    "job_type": "stop",
}


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        ({}, "have exited; they get KILL after the 1min 30s of TimeoutStopSec="),
        ({"sub_state": "stop-sigkill"}, "have exited: they got KILL already"),
        ({"send_sigkill": False}, "exit by themselves: with SendSIGKILL=no they never get KILL"),
        ({"timeout_stop_usec": 0}, "exit by themselves: it has no TimeoutStopSec="),
    ],
)
def test_a_stop_by_another_program(facts: dict[str, Any], text: str) -> None:
    stopping = unit(**{**STOPPING, **facts})
    found = describe_stop_job(stopping)
    assert f" is stopping gw.service, which is {stopping.describe()}; it serves until its processes {text}" in found
    assert describe_stop_job(replace(stopping, job_type="reload")) == ""
    assert describe_stop_job(replace(stopping, active_state=ActiveState.ACTIVE)) == ""


def test_only_a_request_of_the_same_kind_is_named() -> None:
    def described(verb: str) -> str:
        request = JobRequest(8, (Requester(412, ("systemctl", verb, "gw"), "root"),))
        return describe_stop_job(unit(**STOPPING, job_requests=(request,)))

    assert "(PID 412 `systemctl stop gw` as root) is stopping gw.service" in described("stop")
    assert "systemctl" not in described("start")


@pytest.mark.parametrize(
    ("facts", "text"),
    [
        (
            {"load_state": LoadState.MASKED},
            "gw.service has been masked: once it stops, it cannot be started (systemctl unmask gw.service)",
        ),
        ({"load_state": LoadState.NOT_FOUND}, "the file of gw.service is gone: once it stops, it cannot be started"),
        (
            {"need_daemon_reload": True, "of_user": True},
            "the file of gw.service changed since systemd read it: the unit runs by the old file "
            "(systemctl --user daemon-reload)",
        ),
        ({}, ""),
    ],
)
def test_the_file_of_a_running_unit(facts: dict[str, Any], text: str) -> None:
    assert describe_unit_file(unit(**facts)) == text


def test_conditions_are_named_if_systemd_names_them() -> None:
    assert describe_unmet_conditions(unit(), "a condition") == "a condition of gw.service"
    unmet = Unit("gw.service", unmet_conditions=("ConditionPathExists=/a", "ConditionUser=b"))
    assert describe_unmet_conditions(unmet, "x") == "ConditionPathExists=/a and ConditionUser=b of gw.service"
