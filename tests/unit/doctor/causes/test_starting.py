"""Why a start cannot complete, or is not carried out."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from runbook.doctor.findings import Severity
from runbook.host.facts import ActiveState, LoadState
from runbook.host.queries import Answer, FileText, PreviousExit
from tests.unit.doctor.diagnosed import FAILED, causes, diagnose, only
from tests.unit.fake_machine import INVOCATION, FakeMachine, journal_lines, listen, process, unit


def time_out_before(machine: FakeMachine, restarts: int = 2) -> None:
    """Make the start before this one one that took too long, the last of several by default."""
    exit_ = PreviousExit("timeout", False)
    machine.answers[f"exit before {INVOCATION} of gw.service"] = [Answer(True, "", exit_)]
    machine.units["gw.service"] = replace(machine.units["gw.service"], n_restarts=restarts)


def starting(**changes: Any) -> FakeMachine:
    facts = {"active_state": ActiveState.ACTIVATING, "sub_state": "start", "start_arguments": ("/usr/bin/gateway",)}
    return FakeMachine({"gw.service": unit(**{**facts, **changes})}, {100: process(100)})


def test_a_program_that_could_not_be_executed() -> None:
    down = {**FAILED, "exec_main_status": 217, "exec_main_handoff_monotonic": 0, "fragment_path": "/etc/gw.service"}
    machine = FakeMachine({"gw.service": unit(**down)})
    only(machine, "systemd could not change to User= (status 217/USER)")
    edit = ("systemctl edit --full gw.service",)
    assert diagnose(machine).decision == ("correct the setting by which systemd could not execute it", edit)
    assert "could not" not in str(causes(FakeMachine({"gw.service": unit(**FAILED)})))


def test_a_program_that_does_not_exist() -> None:
    down = {**FAILED, "exec_main_status": 203, "exec_main_handoff_monotonic": 0, "start_arguments": ("/opt/gw",)}
    machine = FakeMachine({"gw.service": unit(**down)})
    found = diagnose(machine)
    assert [cause.sentence for cause in found.causes if cause.source == "ExecStart="] == ["/opt/gw does not exist"]
    assert found.decision.text == "install /opt/gw, or correct ExecStart="
    # The exit is in one sentence, and not in three.
    assert str((found.summary, found.systemd, found.causes)).count("203/EXEC") == 1
    machine.files["/opt/gw"] = FileText("/opt/gw")
    assert "does not exist" not in str(causes(machine))


def test_an_environment_file_that_is_missing() -> None:
    facts = {**FAILED, "result": "resources", "exec_main_code": 0}
    files = (("/etc/gw", False), ("/etc/more", True))
    machine = FakeMachine({"gw.service": unit(**facts, environment_files=files)})
    found = only(machine, "/etc/gw does not exist, and its start reads it")
    assert found.prevention == "write EnvironmentFile=-/etc/gw, with the minus, if it may be missing"
    machine.files["/etc/gw"] = FileText("/etc/gw")
    assert "does not exist" not in str(causes(machine))


def test_a_requirement_that_failed() -> None:
    down = unit(active_state=ActiveState.INACTIVE, main_pid=0, requires=("db.service",), invocation_id="")
    machine = FakeMachine({"gw.service": down, "db.service": unit("db.service", **FAILED)})
    only(machine, "gw.service needs db.service, which failed: its main process exited with status 78")


def test_a_condition() -> None:
    down = unit(
        active_state=ActiveState.INACTIVE,
        main_pid=0,
        condition_result=False,
        unmet_conditions=("ConditionPathExists=/x",),
    )
    machine = FakeMachine({"gw.service": down})
    only(machine, "ConditionPathExists=/x of gw.service does not hold, so systemd did not start it")


def test_a_mask() -> None:
    machine = FakeMachine({"gw.service": unit(load_state=LoadState.MASKED, active_state=ActiveState.INACTIVE)})
    path = "/run/systemd/system/gw.service"
    machine.files[path] = FileText(path, error="it is not a regular file")
    only(machine, f"an operator or a package has masked it: {path} leads to /dev/null")
    assert diagnose(machine).commands == ()
    assert diagnose(machine).decision.commands[0] == "systemctl unmask --runtime gw.service"


def test_a_notification_that_is_late() -> None:
    machine = starting(type="notify", inactive_exit_monotonic=998_000_000)
    found = only(machine, "it has not reported that it is ready, as Type=notify requires (sd_notify)")
    assert (found.severity, found.drop_in) == (Severity.WARNING, None)
    # It listens, but it may still report.
    listen(machine, 100, "127.0.0.1:80")
    assert only(machine, "it has not reported").drop_in is None
    machine.clock.time += 10
    late = "it listens on 127.0.0.1:80 already, and has not reported that it is ready (Type=notify)"
    found = only(machine, late)
    assert (found.severity, found.drop_in) == (Severity.WARNING, None)
    # One start before this one timed out, which a cold cache may do; or one before that was ready.
    for restarts, ready in ((1, 0), (2, 5)):
        machine = starting(type="notify", active_enter_monotonic=ready)
        listen(machine, 100, "127.0.0.1:80")
        time_out_before(machine, restarts)
        assert only(machine, late).drop_in is None
    machine = starting(type="notify")
    listen(machine, 100, "127.0.0.1:80")
    time_out_before(machine)
    found = only(machine, late)
    assert found.drop_in is not None
    assert found.drop_in.text == "[Service]\nType=exec\n"
    # The start in progress goes on.
    assert [line.split()[0] for line in diagnose(machine).drop_in_commands[0]] == ["mkdir", "printf", "systemctl"]


def test_a_notification_that_is_refused() -> None:
    machine = starting(type="notify")
    line = "gw.service: Got notification message from PID 101, but reception only permitted for main PID 100"
    machine.answers["what systemd logged of gw.service"] = [journal_lines(line, pid=1)]
    found = only(machine, "systemd refuses its notification, which comes from PID 101 and not from the main process")
    assert found.drop_in is not None
    assert found.drop_in.text == "[Service]\nNotifyAccess=all\n"


def test_a_start_that_timed_out_without_a_notification() -> None:
    late: dict[str, Any] = {
        **FAILED,
        "result": "timeout",
        "type": "notify",
        "exec_main_code": 2,
        "active_enter_monotonic": 0,
    }
    machine = FakeMachine({"gw.service": unit(**late, timeout_start_usec=20_000_000)})
    found = only(machine, "in the 20s of its last start it did not report that it is ready")
    assert (found.severity, found.drop_in) == (Severity.PROBLEM, None)
    # Another start would fail, too.
    assert diagnose(machine).commands == ()
    assert "it needs Type=exec" in diagnose(machine).decision.text
    assert diagnose(machine).decision.commands == ("systemctl edit gw.service",)
    # In a loop, the window of the start limit is over before it is full.
    looping = {**late, "active_state": ActiveState.ACTIVATING, "sub_state": "auto-restart", "n_restarts": 1}
    machine = FakeMachine({"gw.service": unit(**looping, timeout_start_usec=20_000_000)})
    only(machine, "is never reached, so systemd restarts it without end: once by now")
    assert causes(FakeMachine({"gw.service": unit(type="notify", active_state=ActiveState.INACTIVE, main_pid=0)})) == []


def test_a_forking_service_that_stays_in_the_foreground() -> None:
    machine = starting(
        type="forking", control_pid=100, main_pid=0, pid_file="/run/gw.pid", inactive_exit_monotonic=998_000_000
    )
    listen(machine, 100, "127.0.0.1:80")
    stays = "PID 100 of ExecStart= listens on 127.0.0.1:80 and stays in the foreground"
    # It may have more to do before it goes to the background.
    assert not [one for one in causes(machine) if stays in one]
    machine.clock.time += 10
    assert (only(machine, stays).severity, only(machine, stays).drop_in) == (Severity.WARNING, None)
    time_out_before(machine)
    found = only(machine, stays)
    assert found.drop_in is not None
    assert found.drop_in.text == "[Service]\nType=exec\nPIDFile=\n"


def test_a_pid_file_that_does_not_come() -> None:
    machine = starting(type="forking", main_pid=0, pid_file="/run/gw.pid")
    found = only(machine, "systemd waits for PIDFile=/run/gw.pid: it does not exist, and PID 100 (gateway) runs in")
    assert (found.source, found.drop_in) == ("/run/gw.pid", None)


def test_a_program_that_goes_to_the_background() -> None:
    down: dict[str, Any] = {"active_state": ActiveState.INACTIVE, "main_pid": 0, "exec_main_code": 1, "restart": "no"}
    line = ("/usr/bin/gateway", "--daemonize")
    machine = FakeMachine({"gw.service": unit(**down, start_arguments=line)})
    found = only(machine, "--daemonize sends it to the background, and with Type=simple systemd then kills")
    assert found.drop_in is not None
    assert found.drop_in.text == "[Service]\nType=forking\n"
    assert causes(FakeMachine({"gw.service": unit(**down, start_arguments=line[:1])})) == []
