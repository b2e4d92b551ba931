"""The adapter against real systemds: what systemd 252 and 257 say, and what the adapter makes of it."""

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
    """Run a scenario to its end, and give what it found."""
    done = machine.run(program(*words, scope=scope), env=ENVIRONMENT | env, user=user)
    return [json.loads(line) for line in done.stdout.splitlines()]


def found(machine: Machine, *words: str, **options: Any) -> Found:
    """The same for a scenario that finds one thing."""
    [only] = adapter(machine, *words, **options)
    return only


@pytest.fixture
def begun(machine: Machine) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Starts a scenario that the test acts in the middle of."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        process = machine.popen(program(*words), env=ENVIRONMENT, stdin=subprocess.PIPE, stderr=None)
        started.append(process)
        return process

    yield start
    for process in started:
        process.kill()
        process.communicate()


def told(process: subprocess.Popen[str]) -> Found:
    assert process.stdout is not None
    said: Found = json.loads(process.stdout.readline())
    return said


def go_on(process: subprocess.Popen[str]) -> None:
    assert process.stdin is not None
    process.stdin.write("\n")
    process.stdin.flush()


# Units and jobs


def test_restart(machine: Machine, service: StartService) -> None:
    seen = found(machine, "job", "restart", service("web.service", SLEEPER))
    assert (seen["result"], seen["state"], seen["new"]) == ("done", "active", True)
    assert seen["seconds"] < PATIENCE / 2


def test_an_alias_is_followed(machine: Machine, service: StartService) -> None:
    service("web.service", SLEEPER)
    machine.run(["sh", "-c", "ln -s web.service /etc/systemd/system/www.service && systemctl daemon-reload"])
    seen = found(machine, "job", "restart", "www.service")
    machine.run(["rm", "/etc/systemd/system/www.service"])
    assert (seen["name"], seen["result"], seen["new"]) == ("web.service", "done", True)


def test_a_start_that_fails(machine: Machine, unit: InstallUnit) -> None:
    seen = found(machine, "job", "start", unit("web.service", "[Service]\nType=notify\nExecStart=/bin/false\n"))
    assert (seen["result"], seen["state"], seen["unit_result"], seen["status"]) == ("failed", "failed", "exit-code", 1)


def test_a_simple_service_without_a_binary_is_done(machine: Machine, unit: InstallUnit) -> None:
    """systemd's word is no proof: the job is done as soon as the process is forked."""
    seen = found(machine, "job", "start", unit("web.service", "[Service]\nExecStart=/bin/false\n"))
    assert seen["result"] == "done"


def test_a_condition_that_does_not_hold(machine: Machine, unit: InstallUnit) -> None:
    """`done` as well. The unit would be forgotten at once, and its ConditionResult with it."""
    name = unit("web.service", f"[Unit]\nConditionPathExists=/nowhere\n{SLEEPER}")
    seen = found(machine, "job", "start", name)
    assert (seen["result"], seen["state"], seen["condition"], seen["new"]) == ("done", "inactive", False, False)


def test_an_assertion_that_does_not_hold(machine: Machine, unit: InstallUnit) -> None:
    seen = found(machine, "job", "start", unit("web.service", f"[Unit]\nAssertPathExists=/nowhere\n{SLEEPER}"))
    assert (seen["result"], seen["assertion"]) == ("assert", False)


def test_a_dependency_that_fails(machine: Machine, unit: InstallUnit) -> None:
    unit("db.service", "[Service]\nType=oneshot\nExecStart=/bin/false\n")
    name = unit("web.service", f"[Unit]\nRequires=db.service\nAfter=db.service\n{SLEEPER}")
    assert found(machine, "job", "start", name)["result"] == "dependency"


def test_a_masked_unit(machine: Machine, unit: InstallUnit) -> None:
    machine.run(["systemctl", "mask", "web.service"])
    assert found(machine, "look", "web.service")["load"] == "masked"
    seen = found(machine, "job", "start", "web.service")
    machine.run(["systemctl", "unmask", "web.service"])
    assert (seen["error"], seen["message"][:26]) == ("UnitMasked", "cannot start web.service: ")


def test_a_unit_that_does_not_exist(machine: Machine) -> None:
    assert found(machine, "look", "nowhere.service") == {
        "name": "nowhere.service",
        "load": "not-found",
        "state": "inactive",
        "live": None,
    }
    assert found(machine, "job", "restart", "nowhere.service")["error"] == "NoSuchUnit"


@pytest.mark.parametrize("name", ["web", "a/b.service", "x.nosuchtype"])
def test_a_name_that_cannot_be_one(machine: Machine, name: str) -> None:
    seen = found(machine, "look", name)
    assert seen["error"] == "HostError"
    assert seen["message"].startswith(f"cannot read {name}: ")


def test_a_crash_is_heard_of(machine: Machine, service: StartService) -> None:
    service("web.service", f"{SLEEPER}Restart=always\nRestartSec=0.2\n")
    seen = found(machine, "crash", "web.service")
    # Whoever did not hear of it would sleep on until its patience is over.
    assert 0.2 <= seen["seconds"] < PATIENCE / 2
    assert seen["restarts"] == 1


# Commands


def test_a_command(machine: Machine) -> None:
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


def test_a_command_of_another_user(machine: Machine) -> None:
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
        # The time-out and five seconds more, for this program is meant to be there first.
        ("sleep 60", ["timeout=-4.5"], "timeout", 15, "timeout killed TERM\n"),
    ],
)
def test_a_command_that_fails(
    machine: Machine, script: str, options: list[str], result: str, status: int, left: str
) -> None:
    seen = found(machine, "command", script, *options)
    assert (seen["job"], seen["result"], seen["status"], seen["left"]) == ("failed", result, status, left)
    assert seen["still"] is None


def test_words_are_taken_as_they_are(machine: Machine) -> None:
    seen = found(machine, "command", "printf,%s|,$HOME,${HOME},%n,a b,;", "argv=1")
    assert seen["output"] == "$HOME|${HOME}|%n|a b|;|"


def test_a_variable_arrives_as_it_is(machine: Machine) -> None:
    seen = found(machine, "command", 'printf "%s" "$GREETING"; echo "$SHELL $USER"', "odd=1")
    assert seen["output"] == f"{ODD}/else root\n"


def test_others_do_not_learn_what_a_command_knows(
    machine: Machine, begun: Callable[..., subprocess.Popen[str]]
) -> None:
    """Whoever may talk to systemd may read a unit's Environment=."""
    waits = "until test -e /root/knows.go; do sleep 0.05; done"
    process = begun("begin", "knows", f"echo $TOKEN; {waits}", "/root/knows.out")
    ref = told(process)
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


def test_a_command_is_in_a_unit_of_its_own(machine: Machine) -> None:
    assert found(machine, "command", "cat /proc/self/cgroup")["output"].endswith(
        "/system.slice/runbook-adapter.service\n"
    )


def test_a_name_whose_first_command_nobody_asked_about(machine: Machine) -> None:
    assert found(machine, "twice") == {"result": "success", "output": "second\n"}


def test_a_command_outlives_the_program(machine: Machine, begun: Callable[..., subprocess.Popen[str]]) -> None:
    """It is joined while it runs."""
    process = begun("begin", "long", "sleep 1; echo done", "/tmp/long.out")
    ref = told(process)
    _kill(machine, process)
    seen = found(machine, "resume", ref["path"], ref["unit"], "/tmp/long.out")
    assert (seen["result"], seen["output"]) == ("success", "done\n")


def test_a_command_that_ended_while_nobody_was_there(
    machine: Machine, begun: Callable[..., subprocess.Popen[str]]
) -> None:
    """systemd has forgotten it; its result is on disk."""
    process = begun("begin", "short", "sleep 0.5; echo done; exit 7", "/tmp/short.out")
    ref = told(process)
    _kill(machine, process)
    until(lambda: machine.show(ref["unit"], "LoadState")["LoadState"] == "not-found", "the unit to be forgotten")
    assert found(machine, "resume", ref["path"], ref["unit"], "/tmp/short.out") == {
        "job": "gone",
        "result": "exit-code",
        "status": 7,
        "output": "done\n",
    }


def test_the_same_command_is_not_started_twice(machine: Machine, begun: Callable[..., subprocess.Popen[str]]) -> None:
    """Whoever was killed before the answer came does not know that it began."""
    waits = "until test -e /tmp/once.go; do sleep 0.05; done"
    process = begun("begin", "once", f"echo one >> /tmp/count; {waits}; cat /tmp/count", "/tmp/once.out")
    told(process)
    _kill(machine, process)
    other = begun("again", "once", "echo another", "/tmp/once.out")
    told(other)
    machine.run(["touch", "/tmp/once.go"])
    go_on(other)
    seen = told(other)
    assert (seen["job"], seen["output"]) == ("done", "one\n")


def test_stopping_a_command_ends_its_whole_tree(machine: Machine) -> None:
    """Whatever ignores TERM, left the session, or lost its parent."""
    script = (
        "trap '' TERM; setsid sleep 60 & a=$!; (sleep 60 & echo $! >&3) 3>/tmp/b; echo $$ $a $(cat /tmp/b); sleep 60"
    )
    seen = found(machine, "stop", script, "0.5")
    assert (seen["pids"], seen["left"]) == (3, [])
    assert 0.5 <= seen["seconds"] < STOP_LIMIT
    assert (seen["job"], seen["result"]) == ("canceled", "canceled")


def test_a_command_that_ends_well_when_it_is_stopped_was_cut_short_all_the_same(machine: Machine) -> None:
    seen = found(machine, "stop", "trap 'exit 0' TERM; echo $$; while :; do sleep 0.1; done", "8")
    assert (seen["left"], seen["result"]) == ([], "canceled")
    assert seen["seconds"] < 8, "it heeded TERM, and got no KILL"


@pytest.mark.parametrize("script", ["sleep 60", "trap '' TERM; sleep 60"])
def test_an_interruption_stops_the_command_within_a_second(
    machine: Machine, begun: Callable[..., subprocess.Popen[str]], script: str
) -> None:
    def interrupt() -> float:
        process = begun("interrupted", script)
        name = told(process)["unit"]
        pid = _inside(machine, process)
        machine.run(["kill", "-TERM", str(pid)])
        began = time.monotonic()
        assert told(process)["signal"] == signal.SIGTERM
        process.wait(10)
        seconds = time.monotonic() - began
        assert machine.show(name, "ActiveState")["ActiveState"] == "inactive"
        return seconds

    assert least(interrupt, within=1) < 1


# Who may, and where


def test_who_may_not(machine: Machine, service: StartService) -> None:
    service("web.service", SLEEPER)
    seen = adapter(machine, "refused", "web.service", user=USER)
    assert [one["error"] for one in seen] == ["AccessDenied"] * 4
    assert seen[0]["message"].startswith("cannot restart web.service: ")
    assert "sudo runbook" in seen[0]["hint"]


def test_a_users_own_manager(machine: Machine) -> None:
    script, output = 'echo "$HOME $XDG_RUNTIME_DIR"; cat /proc/self/cgroup', f"output=/home/{USER}/out"
    seen = found(machine, "command", script, output, scope="user", user=USER)
    assert (seen["job"], seen["result"]) == ("done", "success")
    assert seen["output"].startswith(f"/home/{USER} /run/user/{UID}\n")
    assert f"user@{UID}.service/app.slice/runbook-adapter.service" in seen["output"]


def test_a_users_manager_is_found_without_its_variable(machine: Machine) -> None:
    seen = found(machine, "look", "dbus.socket", scope="user", user=USER, XDG_RUNTIME_DIR="")
    assert seen.get("state") == "active", seen


def test_a_users_bus_that_starts_with_the_first_who_asks(machine: Machine) -> None:
    """The manager comes to it a moment later than its socket's first client."""
    for _ in range(3):
        machine.run(["systemctl", "--user", "stop", "dbus.service"], user=USER)
        seen = found(machine, "look", "dbus.socket", scope="user", user=USER)
        assert seen.get("state") == "active", seen


def test_root_does_not_reach_into_a_users_manager(machine: Machine) -> None:
    seen = found(machine, "look", "dbus.service", scope="user", SUDO_UID=str(UID))
    assert (seen["error"], seen["message"]) == ("BusUnavailable", f"cannot act on the user manager of {USER} as root")
    assert f"sudo -u {USER} XDG_RUNTIME_DIR=/run/user/{UID} runbook" in seen["hint"]


def test_a_user_without_a_manager(machine: Machine) -> None:
    seen = found(machine, "look", "dbus.service", scope="user", user="nobody")
    assert seen["error"] == "BusUnavailable"
    assert "loginctl enable-linger nobody" in seen["hint"]


# The connection breaks

SLOW = (
    "[Service]\nType=notify\nNotifyAccess=all\nExecStart=/bin/sh -c 'sleep 1; systemd-notify --ready; sleep infinity'\n"
)


@pytest.mark.parametrize(
    "blow", ["systemctl restart dbus.service", "systemctl daemon-reexec", "systemctl daemon-reload"]
)
def test_a_job_in_flight_outlives_the_connection(fresh_machine: Machine, blow: str) -> None:
    fresh_machine.write("/etc/systemd/system/web.service", SLOW)
    fresh_machine.run(["sh", "-c", "systemctl daemon-reload && systemctl start web.service"])
    with fresh_machine.popen(program("across", "web.service"), env=ENVIRONMENT, stdin=subprocess.PIPE) as process:
        assert told(process) == {"job": None}
        fresh_machine.run(["sh", "-c", blow])
        go_on(process)
        seen = told(process)
        process.communicate(timeout=30)
    assert seen["result"] in ("done", "gone")
    assert (seen["new"], seen["state"], seen["second"]) == (True, "active", "done")
    assert seen["seconds"] < PATIENCE / 2


def test_without_a_bus_root_talks_to_systemd_itself(fresh_machine: Machine) -> None:
    fresh_machine.write("/etc/systemd/system/web.service", SLEEPER)
    fresh_machine.run(["systemctl", "stop", "dbus.socket", "dbus.service"])
    seen = found(fresh_machine, "job", "restart", "web.service")
    assert (seen["result"], seen["state"], seen["new"]) == ("done", "active", True)
    # systemd overlooks a first message that comes too early: one of ten on 257.
    assert found(fresh_machine, "often", "50") == {"connections": "50"}
    seen = found(fresh_machine, "command", "echo hello; exit 3")
    assert (seen["result"], seen["status"], seen["output"]) == ("exit-code", 3, "hello\n")
    seen = found(fresh_machine, "look", "web.service", user=USER)
    assert (seen["error"], "nothing answers at" in seen["message"]) == ("BusUnavailable", True)


def _inside(machine: Machine, process: subprocess.Popen[str]) -> int:
    """The PID that a scenario has in the machine."""
    [line] = machine.run(["pgrep", "-f", "^/opt/venv/bin/python3 -m tests.machine.adapter"]).stdout.split()
    return int(line)


def _kill(machine: Machine, process: subprocess.Popen[str]) -> None:
    """End a scenario as a power cut would, and wait until it is gone."""
    machine.run(["kill", "-KILL", str(_inside(machine, process))])
    process.wait(10)
