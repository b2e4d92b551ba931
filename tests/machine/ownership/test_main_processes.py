"""Main processes and jobs of live services that nothing of their own shows as such, and a reused PID of one."""

from __future__ import annotations

import time

import pytest

from tests.machine.machine import until
from tests.machine.ownership.staging import ACTOR, PortCase, Stage, ask, assert_verdict
from tests.machine.runs import runbook
from tests.machine.tree import USER

PROC = "/run/proc"
"""A writable /proc: that of a container is partly read-only, and the next PID is set there."""

FORK_LATE = 11
"""Seconds after which a new process is certainly not the one that systemd has recorded."""

TYPED = f"""
import os, pty, time
pid, terminal = pty.fork()
if not pid:
    os.execlp("bash", "bash", "-i")
os.write(terminal, b"{ACTOR} listen=0.0.0.0:9586\\n")
time.sleep(3600)
"""
"""An interactive shell, and a command that is typed into it."""

CONSOLE = f"""
import os, subprocess, time
master, console = os.openpty()
with open("/run/systemd/system/getty@test.service", "w") as file:
    print("[Service]", "ExecStart=-/bin/login -f {USER}", "TTYReset=no", "SendSIGHUP=yes", sep="\\n", file=file)
    print("StandardInput=tty", "StandardOutput=tty", f"TTYPath={{os.ttyname(console)}}", sep="\\n", file=file)
subprocess.run(["systemctl", "daemon-reload"])
subprocess.run(["systemctl", "start", "getty@test.service"])
shown = b""
while b"$ " not in shown:
    shown += os.read(master, 4096)
os.write(master, b"{ACTOR} listen=0.0.0.0:9588\\n")
while True:
    os.read(master, 4096)
"""
"""A console on which a user logs in, and a command that is typed there."""

DEEP = f"if [ $1 = 0 ]; then {ACTOR} listen=0.0.0.0:9587; else sh /opt/deep $(($1 - 1)); fi; true\n"
"""A shell below a shell, and so on, and a program below the last one."""


def other(port: int, unit: str, why: str) -> PortCase:
    """Return the case of a process of a live service that is in no service's cgroup."""
    return PortCase("idle", str(port), "other-unit-holds-port", f"{unit}.*{why}", "refused-to-kill", unit)


CASES = (
    # `su -` has cleared the environment of the daemon, and PAM has moved it to a session: only MainPID shows it.
    other(9581, r"tomcat\.service", r"it is the main process of tomcat\.service, PID \d+"),
    other(9582, r"tomcat2\.service", r"it descends from the main process of tomcat2\.service, PID \d+"),
    # In a cgroup that was made by hand.
    other(9583, r"limited\.service", r"it is the main process of limited\.service, PID \d+"),
    # A shell that reads the script of a job from its standard input, as `gitlab-runner` starts it, and as a service.
    other(9584, r"runner\.service", r"PID \d+ \(\w+\) of runner\.service"),
    other(9585, r"fed\.service", r"PID \d+ \(bash\) of fed\.service"),
    # With a terminal such a shell is a login, and what was started in it is an orphan.
    PortCase("idle", "9586", "orphan-holds-port", r"in typed\.scope", "orphan-holds-port", "kill PID"),
    # A multiplexer that is further above than the ancestors that are read.
    PortCase("idle", "9587", "other-unit-holds-port", r"deep\.scope", "refused-to-kill", "it has 64 ancestors or more"),
)


def start_all(stage: Stage) -> None:
    for name, verbs in (
        ("tomcat", "listen=0.0.0.0:9581 pidfile=/tmp/tomcat.pid"),
        ("tomcat2", "pidfile=/tmp/tomcat2.pid child listen=0.0.0.0:9582"),
    ):
        script = f"""#!/bin/sh
su - {USER} -c '{ACTOR} {verbs} </dev/null >/dev/null 2>&1 &'
until test -s /tmp/{name}.pid; do sleep 0.1; done
cat /tmp/{name}.pid >/run/{name}.pid
"""
        stage.machine.write(f"/opt/{name}", script, 0o755)
        stage.service(f"{name}.service", f"/opt/{name}", Type="forking", PIDFile=f"/run/{name}.pid")
    stage.service("limited.service", f"/usr/bin/env -i {ACTOR} group=/limits listen=0.0.0.0:9583")
    stage.machine.write("/opt/job", f"{ACTOR} listen=0.0.0.0:9584\necho done\n", 0o755)
    stage.service("runner.service", f'/bin/sh -c "su - {USER} </opt/job; true"')
    stage.machine.write("/opt/fed", f"systemd-run --quiet --scope env -i {ACTOR} listen=0.0.0.0:9585\necho done\n")
    stage.service("fed.service", "/bin/bash", StandardInput="file:/opt/fed")
    stage.begin(["systemd-run", "--quiet", "--scope", "--unit=typed", "python3", "-c", TYPED])
    stage.machine.write("/opt/deep", DEEP)
    stage.machine.run(["cp", "/usr/bin/python3", "/opt/tmux"])
    below = "import subprocess; subprocess.run(['sh', '/opt/deep', '80'])"
    stage.begin(["systemd-run", "--quiet", "--scope", "--unit=deep", "/opt/tmux", "-c", below])
    stage.start(*stage.units)
    stage.listening(*(case.port for case in CASES))
    stage.judge(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_verdict_on_the_port(stage: Stage, case: PortCase) -> None:
    stage.assert_verdict(case)


def test_kill_orphan_spares_them(stage: Stage) -> None:
    """The plan of `judge` changes nothing; this is the real step."""
    for case in (one for one in CASES if one.kill == "refused-to-kill"):
        before = stage.machine.run(["ss", "-Hltnp", f"sport = :{case.port}"]).stdout
        run = runbook(stage.machine, "apply", f"steps: [kill-orphan: {{unit: idle, port: {case.port}}}]")
        assert run.last["verdict"] == "refused-to-kill", run.last
        assert stage.machine.run(["ss", "-Hltnp", f"sport = :{case.port}"]).stdout == before != ""


def test_what_was_started_on_a_console_is_killed_and_the_login_is_not(stage: Stage) -> None:
    """The shell descends from the main process of the console's service, and is in a session."""
    stage.begin(["systemd-run", "--quiet", "--scope", "python3", "-c", CONSOLE])
    stage.listening(9588)
    console = stage.machine.show("getty@test.service", "MainPID")["MainPID"]
    run = runbook(stage.machine, "apply", "steps: [kill-orphan: {unit: idle, port: 9588, supervisors: true}]")
    assert (run.exit, run.step("kill-orphan")["verdict"]) == (0, "killed"), run.last
    (holder,) = run.step("kill-orphan")["evidence"]["killed"]
    assert (holder["user"], holder["unit"].partition("-")[0]) == (USER, "session"), holder
    assert stage.machine.show("getty@test.service", "MainPID", "ActiveState") == {
        "MainPID": console,
        "ActiveState": "active",
    }
    assert "bash" in stage.machine.run(["ps", "--ppid", console, "-o", "args="]).stdout


def test_a_reused_pid_of_a_main_process_owns_nothing(stage: Stage) -> None:
    """systemd does not notice the exit of a main process that is not its child: MainPID stays."""
    machine = stage.machine
    machine.run(["mkdir", "-p", PROC])
    machine.run(["mount", "-t", "proc", "proc", PROC])
    daemon = f"{ACTOR} listen=0.0.0.0:9590 pidfile=/run/reused.pid & wait; sleep 1h"
    script = f"""#!/bin/sh
systemd-run --quiet --scope --unit=outer sh -c '{daemon}' </dev/null >/dev/null 2>&1 &
until test -s /run/reused.pid; do sleep 0.1; done
sleep 0.3
"""
    machine.write("/opt/reused", script, 0o755)
    stage.service("reused.service", "/opt/reused", Type="forking", PIDFile="/run/reused.pid", KillMode="process")
    stage.start("reused.service")
    pid = machine.show("reused.service", "MainPID")["MainPID"]
    machine.run(["kill", "-KILL", pid])
    time.sleep(FORK_LATE)
    reuse = f"""
import os
for _ in range(200):
    open("{PROC}/sys/kernel/ns_last_pid", "w").write("{int(pid) - 1}")
    child = os.fork()
    if not child and os.getpid() == {pid}:
        os.execvp("env", ["env", "-i", *"{ACTOR} listen=0.0.0.0:9591".split()])
    if not child:
        os._exit(1)
    if child == {pid}:
        break
    os.wait()
os.wait()
"""
    stage.begin(["systemd-run", "--quiet", "--scope", "python3", "-c", reuse])
    stage.listening(9591)
    shown = machine.show("reused.service", "MainPID", "ActiveState")
    assert shown == {"MainPID": pid, "ActiveState": "active"}
    case = PortCase("reused", "9591", "owner-unknown", f"PID {pid}, which started after .* the PID was reused")
    assert_verdict(ask(machine, "check", "verify-port-owner", [case])[str(case)], case)
    run = runbook(machine, "apply", "steps: [kill-orphan: {unit: reused, port: 9591}]")
    assert run.last["verdict"] == "refused-to-kill", run.last
    assert f"kill it by hand if it is not needed: kill {pid}" in run.last["reason"]
    assert "systemctl stop" not in run.last["reason"]
    machine.run(["kill", "-KILL", pid])
    until(lambda: not machine.run(["ss", "-Hltn", "sport = :9591"]).stdout, "the process to go")
