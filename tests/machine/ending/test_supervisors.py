"""Who starts a holder again: `supervisors: true` ends it first, under the guards that hold for the holder."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterator

import pytest

from tests.machine.conftest import StartService
from tests.machine.incident import holders, in_login
from tests.machine.machine import Machine, until
from tests.machine.runs import runbook, unit_file

from .staging import ACTORS, actor, cleared, down, holding, kill, left_over, listening, process, quick, scope


@pytest.fixture(autouse=True)
def _down(machine: Machine, service: StartService) -> Iterator[None]:
    down(service, machine)
    yield
    machine.run(["pkill", "-KILL", "-f", "actors.py"], check=False)
    machine.run(["pkill", "-KILL", "perl"], check=False)


def running(machine: Machine, pattern: str) -> list[int]:
    """The PIDs of the processes with such a command line, oldest first."""
    return [int(pid) for pid in machine.run(["pgrep", "-f", pattern], check=False).stdout.split()]


def test_a_master_of_the_same_program_is_ended_first(machine: Machine) -> None:
    """As squid that was started by hand: its parent starts another worker."""
    with cleared(machine, "prefork.scope"):
        scope(machine, "prefork.scope", actor("prefork", 9601, "/run/started"))
        listening(machine, {9601})
        master = min(running(machine, "actors.py prefork"))
        run = kill(machine, 9601)
        step = run.step("kill-orphan")
        assert (run.exit, step["verdict"]) == (1, "port-still-held"), step["reason"]
        assert f"or stop it first (kill {master}): `supervisors: true` does that" in step["reason"]
        started = machine.read("/run/started")
        run = runbook(machine, "apply", "unit: gw\nsteps: [kill-orphan: {port: 9601, supervisors: true}]", "--dry-run")
        (plan,) = run.of("step-planned")
        assert re.search(
            rf"would kill PID {master} \(python3\), which would start it again, then PID \d+", plan["reason"]
        )
        run = kill(machine, 9601, supervisors="true")
        step = run.step("kill-orphan")
        assert (run.exit, step["verdict"]) == (0, "killed"), step["reason"]
        assert machine.read("/run/started") == started, "no other worker was started: the master was ended first"
        assert not running(machine, "actors.py prefork")
        assert not holders(machine, 9601)


@pytest.mark.parametrize("how", ["itself", "shell", "loop", "slow loop"])
def test_another_program_is_ended_once_it_has_started_one_again(machine: Machine, how: str) -> None:
    """In a login: by itself, through a shell, and a loop of a shell. The login is not ended."""
    pause = "sleep 4; " if how == "slow loop" else ""
    loop = ["bash", "-c", f"while :; do {shlex.join(quick(9602))}; {pause}done"]
    login = in_login(machine, loop if "loop" in how else actor("again", 9602, how))
    try:
        listening(machine, {9602})
        run = kill(machine, 9602, supervisors="true")
        step = run.step("kill-orphan")
        assert (run.exit, step["verdict"]) == (0, "killed"), step["reason"]
        assert not running(machine, "actors.py again")
        assert not holders(machine, 9602)
    finally:
        login.kill()
        login.communicate(timeout=10)


def test_who_is_not_expected_lives(machine: Machine) -> None:
    with cleared(machine, "again.scope"):
        scope(machine, "again.scope", actor("again", 9603, ""))
        listening(machine, {9603})
        (supervisor,) = running(machine, "actors.py again")
        before = process(machine, supervisor)
        run = kill(machine, 9603, supervisors="true", expect="{exe: /usr/bin/perl}")
        step = run.step("kill-orphan")
        assert (run.exit, step["verdict"]) == (1, "port-still-held"), step["reason"]
        assert f"or stop it first (kill {supervisor})" in step["reason"]
        assert "`supervisors: true` does not, because its executable is /usr/bin/python3" in step["reason"]
        assert process(machine, supervisor) == before


def test_a_launcher_that_starts_nothing_again_lives(machine: Machine) -> None:
    """Both holders descend from it, but a child of it started the second."""
    with cleared(machine, "watched.scope"):
        scope(machine, "watched.scope", actor("watched", 9604))
        listening(machine, {9604})
        launcher = min(running(machine, "actors.py watched"))
        before = process(machine, launcher)
        kill(machine, 9604, supervisors="true")
        assert process(machine, launcher) == before


TYPIST = """
import os, pty, select, time
shell, terminal = pty.fork()
if not shell:
    os.execlp("bash", "bash", "-i")
command = {command!r}.encode() + b"\\n"
os.write(terminal, command)
while True:
    text = os.read(terminal, 4096)
    if b"erminated" in text or b"illed" in text:
        os.write(terminal, command)
"""
"""An interactive shell, into which the command is typed again each time that the shell reports its end."""


def test_an_interactive_shell_lives(machine: Machine) -> None:
    """What is typed into it is started again by a person: to kill the shell would end that person's work."""
    with cleared(machine, "typist.scope"):
        scope(machine, "typist.scope", ["python3", "-c", TYPIST.format(command=shlex.join(quick(9609)))])
        listening(machine, {9609})
        (shell,) = running(machine, "^bash -i")
        before = process(machine, shell)
        run = kill(machine, 9609, supervisors="true")
        step = run.step("kill-orphan")
        assert (run.exit, step["verdict"]) == (1, "port-still-held"), step["reason"]
        assert f"or stop it first (kill {shell})" in step["reason"]
        assert "`supervisors: true` does not, because it is an interactive shell" in step["reason"]
        assert process(machine, shell) == before
        assert running(machine, "^bash -i") == [shell]


def test_what_started_this_program_lives(machine: Machine) -> None:
    """A script that starts the server and then runs the runbook; its loop is no ancestor of the run, and may go."""
    script = (
        "import os, subprocess, sys, time\n"
        "null = {'stdout': subprocess.DEVNULL, 'stderr': subprocess.DEVNULL}\n"
        f"first = subprocess.Popen({quick(9605)!r}, **null)\n"
        "time.sleep(1)\n"
        "with open('/root/run.json', 'w') as out:\n"
        "    run = subprocess.Popen(['runbook', 'apply', '/root/test.yaml', '--output', 'json'], stdout=out)\n"
        "    first.wait()\n"
        f"    second = subprocess.Popen({quick(9605)!r}, **null)\n"
        "    run.wait()\n"
        "print('lives')\n"
    )
    machine.write("/root/ancestor.py", script)
    machine.write("/root/test.yaml", "unit: gw\nsteps: [kill-orphan: {port: 9605, supervisors: true}]\n")
    done = machine.run(["setsid", "--wait", "python3", "/root/ancestor.py"], check=False)
    assert done.stdout == "lives\n", done
    said = machine.read("/root/run.json")
    assert '"verdict": "port-still-held"' in said
    assert "this program was started from it" in said


def test_below_what_is_kept_nothing_is_ended(machine: Machine) -> None:
    """A multiplexer that KillMode=process spared, in the unit's own cgroup, and what runs in it."""
    machine.run(["sh", "-ec", "mkdir -p /opt/programs; cp /usr/bin/python3 /opt/programs/tmux"])
    tmux = ["/opt/programs/tmux", ACTORS, "parent", "9607", "tmux:"]
    try:
        left_over(machine, "keeps.service", tmux, 9608)
        before = {port: holding(machine, port) for port in (9607, 9608)}
        run = kill(machine, 9606, unit="keeps", leftovers="true")
        assert run.step("kill-orphan")["verdict"] == "nothing-to-kill", run.last
        run = kill(machine, 9608, unit="keeps", leftovers="true", supervisors="true")
        step = run.step("kill-orphan")
        assert (run.exit, step["verdict"]) == (1, "refused-to-kill"), step
        assert re.search(r"its ancestor PID \d+ \(\S+\) keeps", step["reason"]), step["reason"]
        assert {port: holding(machine, port) for port in (9607, 9608)} == before
    finally:
        machine.run(["systemctl", "kill", "--signal=KILL", "keeps.service"], check=False)


@pytest.mark.parametrize("mode", ["process", "control-group"])
def test_an_advice_that_frees_the_port(machine: Machine, service: StartService, mode: str) -> None:
    """The child of another service's main process, in its cgroup and in a scope: a stop need not end it."""
    command = shlex.join(actor("server", 9609))
    inside = command if mode == "process" else f"systemd-run --quiet --scope --unit=inner env -i {command}"
    service("web.service", unit_file(f"/bin/sh -c 'trap : TERM; {inside} & wait; exit 0'", KillMode=mode))
    listening(machine, {9609})
    said = kill(machine, 9609).step("kill-orphan")["reason"]
    assert "web.service" in said
    stop = re.search(r"\((systemctl stop web\.service)\)", said)
    by_hand = re.search(r"kill it by hand(?: if it is not needed)?: (kill \d+)$", said)
    assert by_hand, said
    if stop:
        machine.run(stop[1].split())
    machine.run(by_hand[1].split(), check=False)
    until(lambda: not holders(machine, 9609), "the port to be free")
