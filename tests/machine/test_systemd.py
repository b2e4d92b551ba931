"""The adapter with a real systemd 252 and 257: their answers, and the results that the adapter returns."""

from __future__ import annotations

import json
import signal
import subprocess
import time
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from runbook.host.systemd.transient import STOP_LIMIT
from tests.machine.adapter import ODD, PATIENCE
from tests.machine.conftest import InstallUnit, StartService
from tests.machine.machine import Machine, least, until
from tests.machine.tree import PROJECT, UID, USER, VENV

Found = dict[str, Any]

SLEEPER = "[Service]\nExecStart=/bin/sleep infinity\n"


def program(*words: str, scope: str = "system") -> list[str]:
    return [f"{VENV}/bin/python3", "-m", "tests.machine.adapter", scope, *words]


ENVIRONMENT = {"PYTHONPATH": str(PROJECT), "PYTHONDONTWRITEBYTECODE": "1"}


def adapter(machine: Machine, *words: str, scope: str = "system", user: str | None = None, **env: str) -> list[Found]:
    """Run a scenario to its end, and return its results."""
    done = machine.run(program(*words, scope=scope), env=ENVIRONMENT | env, user=user)
    return [json.loads(line) for line in done.stdout.splitlines()]


def found(machine: Machine, *words: str, **options: Any) -> Found:
    """Run a scenario to its end, and return its only result."""
    [only] = adapter(machine, *words, **options)
    return only


@pytest.fixture
def begun(machine: Machine) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Return a function that starts a scenario in which the test acts."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = machine.popen(program(*words), env=ENVIRONMENT, stdin=subprocess.PIPE, stderr=None)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def next_line(process: subprocess.Popen[str]) -> Found:
    assert process.stdout is not None
    line: Found = json.loads(process.stdout.readline())
    return line


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


# -- units and jobs


def test_a_restart_makes_a_new_invocation(machine: Machine, service: StartService) -> None:
    seen = found(machine, "job", "restart", service("web.service", SLEEPER))
    assert (seen["result"], seen["state"], seen["new"]) == ("done", "active", True)
    assert seen["seconds"] < PATIENCE / 2


def test_an_alias_is_followed(machine: Machine, service: StartService) -> None:
    service("web.service", SLEEPER)
    machine.run(["sh", "-c", "ln -s web.service /etc/systemd/system/www.service && systemctl daemon-reload"])
    seen = found(machine, "job", "restart", "www.service")
    machine.run(["rm", "/etc/systemd/system/www.service"])
    assert (seen["name"], seen["result"], seen["new"]) == ("web.service", "done", True)


def test_a_failed_start_has_the_exit_status(machine: Machine, unit: InstallUnit) -> None:
    seen = found(machine, "job", "start", unit("web.service", "[Service]\nType=notify\nExecStart=/bin/false\n"))
    assert (seen["result"], seen["state"], seen["unit_result"], seen["status"]) == ("failed", "failed", "exit-code", 1)


def test_a_simple_service_that_exits_has_a_job_that_is_done(machine: Machine, unit: InstallUnit) -> None:
    """The job is done once the process is forked, so it proves nothing."""
    seen = found(machine, "job", "start", unit("web.service", "[Service]\nExecStart=/bin/false\n"))
    assert seen["result"] == "done"


def test_a_condition_that_does_not_hold_is_read_after_the_job(machine: Machine, unit: InstallUnit) -> None:
    """The job is done, too. Without a reference systemd would unload the unit at once, with its ConditionResult."""
    name = unit("web.service", f"[Unit]\nConditionPathExists=/nowhere\n{SLEEPER}")
    seen = found(machine, "job", "start", name)
    assert (seen["result"], seen["state"], seen["condition"], seen["new"]) == ("done", "inactive", False, False)


def test_an_assertion_that_does_not_hold_is_a_job_result(machine: Machine, unit: InstallUnit) -> None:
    seen = found(machine, "job", "start", unit("web.service", f"[Unit]\nAssertPathExists=/nowhere\n{SLEEPER}"))
    assert (seen["result"], seen["assertion"]) == ("assert", False)


def test_a_failed_dependency_is_a_job_result(machine: Machine, unit: InstallUnit) -> None:
    unit("db.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n")
    name = unit("web.service", f"[Unit]\nRequires=db.service\nAfter=db.service\n{SLEEPER}")
    assert found(machine, "job", "start", name)["result"] == "dependency"


def test_a_masked_unit_is_an_error(machine: Machine, unit: InstallUnit) -> None:
    machine.run(["systemctl", "mask", "web.service"])
    assert found(machine, "look", "web.service")["load"] == "masked"
    seen = found(machine, "job", "start", "web.service")
    machine.run(["systemctl", "unmask", "web.service"])
    assert (seen["error"], seen["message"][:26]) == ("UnitMasked", "cannot start web.service: ")


def test_a_missing_unit_is_not_found(machine: Machine) -> None:
    assert found(machine, "look", "nowhere.service") == {
        "name": "nowhere.service",
        "load": "not-found",
        "state": "inactive",
        "live": None,
    }
    assert found(machine, "job", "restart", "nowhere.service")["error"] == "NoSuchUnit"


@pytest.mark.parametrize("name", ["web", "a/b.service", "x.nosuchtype"])
def test_an_invalid_unit_name_is_an_error(machine: Machine, name: str) -> None:
    seen = found(machine, "look", name)
    assert seen["error"] == "HostError"
    assert seen["message"].startswith(f"cannot read {name}: ")


def test_a_crash_ends_a_wait(machine: Machine, service: StartService) -> None:
    service("web.service", f"{SLEEPER}Restart=always\nRestartSec=0.2\n")
    seen = found(machine, "crash", "web.service")
    # Without the signal the wait would last until its deadline.
    assert 0.2 <= seen["seconds"] < PATIENCE / 2
    assert seen["restarts"] == 1


# -- commands


def test_a_command_has_its_environment_output_and_result(machine: Machine) -> None:
    seen = found(machine, "command", 'echo "$HOME $USER $LOGNAME $SHELL"; echo "$GREETING %n $$" | tr -d 0-9; pwd >&2')
    assert seen == {
        "job": "done",
        "result": "success",
        "status": 0,
        "output": "/root root root /bin/bash\na  b $HOME %n \n/tmp\n",
        "mode": "0o600",
        "left": "success exited 0\n",
        "still": None,
        "files": ["adapter.out", "adapter.out.result"],
    }


def test_a_command_of_another_user_has_the_variables_of_a_login(machine: Machine) -> None:
    seen = found(machine, "command", 'id -un; echo "$HOME $USER $SHELL"; echo "$PATH"', f"user={USER}", "cwd=/")
    path = next(
        word.removeprefix("PATH=")
        for word in machine.run(["systemctl", "show-environment"]).stdout.splitlines()
        if word.startswith("PATH=")
    )
    assert seen["output"] == f"{USER}\n/home/{USER} {USER} /bin/bash\n{path}\n"
    assert (seen["mode"], seen["left"]) == ("0o600", "success exited 0\n")


@pytest.mark.parametrize(
    ("script", "options", "result", "status", "left"),
    [
        ("exit 3", [], "exit-code", 3, "exit-code exited 3\n"),
        ("kill -9 $$", [], "signal", 9, "signal killed KILL\n"),
        ("/nowhere/at/all", ["argv=1"], "exit-code", 127, "exit-code exited 127\n"),
        ("nowhere", ["argv=1"], "exit-code", 127, "exit-code exited 127\n"),
        ("true", ["cwd=/nowhere"], "exit-code", 200, "exit-code exited 200\n"),
        # systemd's limit is the time-out and five seconds, as the program itself should stop the command first.
        ("sleep 60", ["timeout=-4.5"], "timeout", 15, "timeout killed TERM\n"),
    ],
)
def test_a_failed_command_has_its_result_and_status(
    machine: Machine, script: str, options: list[str], result: str, status: int, left: str
) -> None:
    seen = found(machine, "command", script, *options)
    assert (seen["job"], seen["result"], seen["status"], seen["left"]) == ("failed", result, status, left)
    assert seen["still"] is None


def test_words_arrive_unchanged(machine: Machine) -> None:
    seen = found(machine, "command", "printf,%s|,$HOME,${HOME},%n,a b,;", "argv=1")
    assert seen["output"] == "$HOME|${HOME}|%n|a b|;|"


def test_a_variable_arrives_unchanged(machine: Machine) -> None:
    seen = found(machine, "command", 'printf "%s" "$GREETING"; echo "$SHELL $USER"', "odd=1")
    assert seen["output"] == f"{ODD}/else root\n"


def test_other_users_cannot_read_a_commands_environment(
    machine: Machine, begun: Callable[..., subprocess.Popen[str]]
) -> None:
    """Each user who may call systemd may read a unit's Environment=."""
    waits = "until test -e /root/knows.go; do sleep 0.05; done"
    process = begun("begin", "knows", f"echo $TOKEN; {waits}", "/root/knows.out")
    ref = next_line(process)
    assert machine.run(["stat", "--format=%a", "/root/knows.out.start"]).stdout == "600\n"
    shown = machine.run(["systemctl", "show", ref["unit"]], user=USER).stdout
    assert "SHELL=" in shown
    assert "sesame" not in shown
    _kill(machine, process)
    machine.run(["touch", "/root/knows.go"])
    seen = found(machine, "resume", ref["path"], ref["unit"], "/root/knows.out")
    assert seen["output"] == "open sesame\n"
    assert machine.run(["ls", "/root/knows.out.start"], check=False).returncode != 0
    machine.run(["journalctl", "--sync"])
    journal = machine.run(["journalctl", "--no-pager", "--unit", ref["unit"]]).stdout
    assert "runbook: knows" in journal
    assert "sleep" not in journal


def test_a_command_has_a_unit_of_its_own(machine: Machine) -> None:
    assert found(machine, "command", "cat /proc/self/cgroup")["output"].endswith(
        "/system.slice/runbook-adapter.service\n"
    )


def test_a_name_can_be_used_again_without_reading_the_first_result(machine: Machine) -> None:
    assert found(machine, "twice") == {"result": "success", "output": "second\n"}


def test_a_running_command_of_a_killed_program_can_be_waited_for(
    machine: Machine, begun: Callable[..., subprocess.Popen[str]]
) -> None:
    process = begun("begin", "long", "sleep 1; echo done", "/tmp/long.out")
    ref = next_line(process)
    _kill(machine, process)
    seen = found(machine, "resume", ref["path"], ref["unit"], "/tmp/long.out")
    assert (seen["result"], seen["output"]) == ("success", "done\n")


def test_the_result_of_a_command_of_a_killed_program_is_on_disk(
    machine: Machine, begun: Callable[..., subprocess.Popen[str]]
) -> None:
    """systemd has unloaded the command's unit."""
    process = begun("begin", "short", "sleep 0.5; echo done; exit 7", "/tmp/short.out")
    ref = next_line(process)
    _kill(machine, process)
    until(lambda: machine.show(ref["unit"], "LoadState")["LoadState"] == "not-found", "the unit to be forgotten")
    assert found(machine, "resume", ref["path"], ref["unit"], "/tmp/short.out") == {
        "job": "gone",
        "result": "exit-code",
        "status": 7,
        "output": "done\n",
    }


def test_a_running_command_is_not_started_again(machine: Machine, begun: Callable[..., subprocess.Popen[str]]) -> None:
    """A program that is killed before systemd answers has no record that the command began."""
    waits = "until test -e /tmp/once.go; do sleep 0.05; done"
    process = begun("begin", "once", f"echo one >> /tmp/count; {waits}; cat /tmp/count", "/tmp/once.out")
    next_line(process)
    _kill(machine, process)
    other = begun("again", "once", "echo another", "/tmp/once.out")
    next_line(other)
    machine.run(["touch", "/tmp/once.go"])
    go_on(other)
    seen = next_line(other)
    assert (seen["job"], seen["output"]) == ("done", "one\n")


def test_stopping_a_command_kills_all_its_processes(machine: Machine) -> None:
    """One ignores TERM, one has left the session, and one has lost its parent."""
    script = (
        "trap '' TERM; setsid sleep 60 & a=$!; (sleep 60 & echo $! >&3) 3>/tmp/b; echo $$ $a $(cat /tmp/b); sleep 60"
    )
    seen = found(machine, "stop", script, "0.5")
    assert (seen["pids"], seen["left"]) == (3, [])
    assert 0.5 <= seen["seconds"] < STOP_LIMIT
    assert (seen["job"], seen["result"]) == ("canceled", "canceled")


def test_a_stopped_command_that_exits_with_0_is_canceled(machine: Machine) -> None:
    seen = found(machine, "stop", "trap 'exit 0' TERM; echo $$; while :; do sleep 0.1; done", "8")
    assert (seen["left"], seen["result"]) == ([], "canceled")
    assert seen["seconds"] < 8, "it exits on TERM, without KILL"


@pytest.mark.parametrize("script", ["sleep 60", "trap '' TERM; sleep 60"])
def test_an_interruption_stops_the_command_within_a_second(
    machine: Machine, begun: Callable[..., subprocess.Popen[str]], script: str
) -> None:
    def interrupt() -> float:
        process = begun("interrupted", script)
        name = next_line(process)["unit"]
        pid = _inside(machine, process)
        machine.run(["kill", "-TERM", str(pid)])
        began = time.monotonic()
        assert next_line(process)["signal"] == signal.SIGTERM
        process.wait(10)
        seconds = time.monotonic() - began
        assert machine.show(name, "ActiveState")["ActiveState"] == "inactive"
        return seconds

    assert least(interrupt, within=1) < 1


# -- rights and managers


def test_a_user_without_the_rights_is_denied(machine: Machine, service: StartService) -> None:
    service("web.service", SLEEPER)
    seen = adapter(machine, "refused", "web.service", user=USER)
    assert [one["error"] for one in seen] == ["AccessDenied"] * 4
    assert seen[0]["message"].startswith("cannot restart web.service: ")
    assert "sudo runbook" in seen[0]["hint"]


def test_a_command_runs_in_the_users_manager(machine: Machine) -> None:
    script, output = 'echo "$HOME $XDG_RUNTIME_DIR"; cat /proc/self/cgroup', f"output=/home/{USER}/out"
    seen = found(machine, "command", script, output, scope="user", user=USER)
    assert (seen["job"], seen["result"]) == ("done", "success")
    assert seen["output"].startswith(f"/home/{USER} /run/user/{UID}\n")
    assert f"user@{UID}.service/app.slice/runbook-adapter.service" in seen["output"]


def test_the_users_manager_is_found_without_xdg_runtime_dir(machine: Machine) -> None:
    seen = found(machine, "look", "dbus.socket", scope="user", user=USER, XDG_RUNTIME_DIR="")
    assert seen.get("state") == "active", seen


def test_a_users_bus_that_starts_on_demand_is_waited_for(machine: Machine) -> None:
    """The manager connects to the bus a moment after the first client."""
    for _ in range(3):
        machine.run(["systemctl", "--user", "stop", "dbus.service"], user=USER)
        seen = found(machine, "look", "dbus.socket", scope="user", user=USER)
        assert seen.get("state") == "active", seen


def test_root_does_not_act_on_a_users_manager(machine: Machine) -> None:
    seen = found(machine, "look", "dbus.service", scope="user", SUDO_UID=str(UID))
    assert (seen["error"], seen["message"]) == ("BusUnavailable", f"cannot act on the user manager of {USER} as root")
    assert f"sudo -u {USER} XDG_RUNTIME_DIR=/run/user/{UID} runbook" in seen["hint"]


def test_a_user_without_a_manager_gets_a_hint(machine: Machine) -> None:
    seen = found(machine, "look", "dbus.service", scope="user", user="nobody")
    assert seen["error"] == "BusUnavailable"
    assert "loginctl enable-linger nobody" in seen["hint"]


# -- a broken connection

SLOW = (
    "[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/sh -c 'sleep 1; systemd-notify --ready; sleep infinity'\n"
)


@pytest.mark.parametrize(
    "blow", ["systemctl restart dbus.service", "systemctl daemon-reexec", "systemctl daemon-reload"]
)
def test_a_job_survives_a_broken_connection(fresh_machine: Machine, blow: str) -> None:
    fresh_machine.write("/etc/systemd/system/web.service", SLOW)
    fresh_machine.run(["sh", "-c", "systemctl daemon-reload && systemctl start web.service"])
    with fresh_machine.popen(program("across", "web.service"), env=ENVIRONMENT, stdin=subprocess.PIPE) as process:
        assert next_line(process) == {"job": None}
        fresh_machine.run(["sh", "-c", blow])
        go_on(process)
        seen = next_line(process)
        process.communicate(timeout=30)
    assert seen["result"] in ("done", "gone")
    assert (seen["new"], seen["state"], seen["second"]) == (True, "active", "done")
    assert seen["seconds"] < PATIENCE / 2


def test_without_a_bus_root_connects_to_systemd_itself(fresh_machine: Machine) -> None:
    fresh_machine.write("/etc/systemd/system/web.service", SLEEPER)
    fresh_machine.run(["systemctl", "stop", "dbus.socket", "dbus.service"])
    seen = found(fresh_machine, "job", "restart", "web.service")
    assert (seen["result"], seen["state"], seen["new"]) == ("done", "active", True)
    # systemd may lose a first message that comes too early: one of ten on 257.
    assert found(fresh_machine, "often", "50") == {"connections": "50"}
    seen = found(fresh_machine, "command", "echo hello; exit 3")
    assert (seen["result"], seen["status"], seen["output"]) == ("exit-code", 3, "hello\n")
    seen = found(fresh_machine, "look", "web.service", user=USER)
    assert (seen["error"], "nothing answers at" in seen["message"]) == ("BusUnavailable", True)


def _inside(machine: Machine, process: subprocess.Popen[str]) -> int:
    """Return the PID of the scenario inside the machine."""
    [line] = machine.run(["pgrep", "-f", "^/opt/venv/bin/python3 -m tests.machine.adapter"]).stdout.split()
    return int(line)


def _kill(machine: Machine, process: subprocess.Popen[str]) -> None:
    """Kill a scenario with SIGKILL, and wait until it has exited."""
    machine.run(["kill", "-KILL", str(_inside(machine, process))])
    process.wait(10)
