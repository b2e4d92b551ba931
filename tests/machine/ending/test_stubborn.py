"""Processes that do not exit, are started again, or are too many to be killed one by one, on a real systemd."""

from __future__ import annotations

import shlex
from collections.abc import Iterator

import pytest

from tests.machine.conftest import StartService
from tests.machine.incident import holders, in_login, remove_unit
from tests.machine.machine import Machine, until
from tests.machine.runs import runbook

from .staging import actor, cleared, down, holding, kill, left_over, listening, process, quick, scope


@pytest.fixture(autouse=True)
def _down(machine: Machine, service: StartService) -> None:
    down(service, machine)


# -- processes that do not exit

SHAPES = {9201: "deaf", 9202: "stopped", 9203: "vforked", 9204: "hung", 9205: "traced", 9206: "server"}
FROZEN = 9206
HELD = (9204, 9205)


@pytest.fixture
def stubborn(machine: Machine) -> Iterator[None]:
    names = [f"{part}.scope" for part in SHAPES.values()]
    with cleared(machine, "disk.scope", *names):
        scope(machine, "disk.scope", actor("disk", 0, "/run/dead"))
        until(lambda: "/run/dead" in machine.read("/proc/mounts"), "the dead file system to be mounted")
        for port, part in SHAPES.items():
            scope(machine, f"{part}.scope", actor(part, port, *(["/run/dead"] if part == "hung" else [])))
        listening(machine, SHAPES)
        until(lambda: _in_place(machine), "each process to be in its state")
        machine.run(["systemctl", "freeze", "server.scope"])
        yield
    machine.run(["umount", "-l", "/run/dead"], check=False)
    machine.run(["rm", "-f", "/run/dead.asked"])


def _in_place(machine: Machine) -> bool:
    """Return True if the processes are stopped, in vfork, traced, and waiting for the disk by now."""
    pids = {port: min((one.pid for one in holding(machine, port)), default=0) for port in (9202, 9203, 9205)}
    if not all(pids.values()) or (_state(machine, pids[9202]), _state(machine, pids[9203])) != ("T", "D"):
        return False
    traced = "TracerPid:\t0\n" not in machine.read(f"/proc/{pids[9205]}/status")
    return traced and not machine.run(["test", "-e", "/run/dead.asked"], check=False).returncode


@pytest.mark.usefixtures("stubborn")
def test_a_process_that_does_not_exit_is_reported_with_its_state(machine: Machine) -> None:
    """Each process gets TERM and, after a short grace, KILL. The time of a step is limited in any case."""
    held = {port: holding(machine, port) for port in SHAPES}
    states = {port: _state(machine, min(one.pid for one in held[port])) for port in (9202, 9203)}
    assert states == {9202: "T", 9203: "D"}
    steps = "".join(
        f"  - kill-orphan: {{port: {port}, id: on-{port}, on-failure: continue, grace: 200ms, timeout: {limit}s}}\n"
        for port, limit in ((port, 5 if port in HELD else 20) for port in SHAPES)
    )
    gentle = "  - kill-orphan: {port: 9202, id: gentle, on-failure: continue, grace: 20s, timeout: 3s}\n"
    run = runbook(machine, "apply", f"unit: gw\nsteps:\n{gentle}{steps}")
    verdicts = {port: run.step(f"on-{port}")["verdict"] for port in SHAPES}
    reasons = {port: run.step(f"on-{port}")["reason"] for port in SHAPES}
    killed = "killed"
    held_still = "port-still-held"
    assert verdicts == {9201: killed, 9202: killed, 9203: killed, 9204: held_still, 9205: held_still, 9206: killed}, (
        reasons
    )
    assert all(run.step(f"on-{port}")["seconds"] < 10 for port in HELD), "a step ends at its time-out"
    assert "is in state D (uninterruptible)" in reasons[9204]
    assert "it waits in the kernel, where no signal reaches it" in reasons[9204]
    assert "is in state t (traced), " in reasons[9205]
    assert "stop that program" in reasons[9205]
    assert "is in state T (stopped)" in run.step("gentle")["reason"]
    assert "and `timeout` left no time for KILL" in run.step("gentle")["reason"]


@pytest.mark.parametrize("ports", ["['udp:9207', 9207]", "9207"])
def test_a_socket_that_a_thread_accepts_on_is_awaited_until_its_process_exits(machine: Machine, ports: str) -> None:
    with cleared(machine, "accepts.scope"):
        scope(machine, "accepts.scope", actor("accepts", 9207))
        listening(machine, {9207})
        until(lambda: ":9207" in machine.run(["ss", "-Hlun"]).stdout, "the UDP port to be held")
        run = runbook(machine, "apply", f"unit: gw\nsteps:\n  - kill-orphan: {{port: {ports}}}\n")
        step = run.step("kill-orphan")
        assert (run.exit, step["verdict"]) == (0, "killed"), step["reason"]
        assert "(python3) exited on TERM; " in step["reason"]
        assert step["seconds"] > 3
        assert not holders(machine, 9207)


def _state(machine: Machine, pid: int) -> str:
    return machine.read(f"/proc/{pid}/stat").rpartition(")")[2].split()[0]


# -- processes that are started again


@pytest.mark.parametrize("how", ["", "shell"], ids=["itself", "through a shell"])
def test_a_supervisor_that_starts_another_holder_is_named(machine: Machine, how: str) -> None:
    """The supervisor is in a login session, and starts another holder at once. Only the first one is killed."""
    login = in_login(machine, actor("again", 9211, how))
    try:
        listening(machine, {9211})
        (supervisor,) = machine.run(["pgrep", "-f", "actors.py again"]).stdout.split()[-1:]
        run = kill(machine, 9211)
        step = run.step("kill-orphan")
        assert (run.exit, step["verdict"]) == (1, "port-still-held"), step["reason"]
        assert f"PID {supervisor} (python3) started it, and runs this command: " in step["reason"]
        assert f"or stop it first (kill {supervisor})" in step["reason"]
        assert len(run.of("step-acting")) == 1
        assert process(machine, int(supervisor))
    finally:
        machine.run(["pkill", "-KILL", "-f", "actors.py"])
        machine.run(["pkill", "-KILL", "perl"], check=False)
        login.communicate(timeout=10)


def test_a_shell_loop_that_starts_another_holder_is_named(machine: Machine) -> None:
    loop = f"while :; do {shlex.join(quick(9212))}; done"
    login = in_login(machine, ["bash", "-c", loop])
    try:
        listening(machine, {9212})
        run = kill(machine, 9212)
        step = run.step("kill-orphan")
        assert (run.exit, step["verdict"]) == (1, "port-still-held"), step["reason"]
        assert "(bash) started it, and runs this command: bash -c while :; do /usr/bin/perl" in step["reason"]
    finally:
        machine.run(["pkill", "-KILL", "bash"], check=False)
        machine.run(["pkill", "-KILL", "perl"], check=False)
        login.communicate(timeout=10)


def test_holders_from_an_unknown_process_are_given_up_after_a_few(machine: Machine) -> None:
    with cleared(machine, "forgets.scope"):
        scope(machine, "forgets.scope", actor("forgets", 9213))
        listening(machine, {9213})
        run = kill(machine, 9213)
        step = run.step("kill-orphan")
        assert (run.exit, step["verdict"]) == (1, "port-still-held"), step["reason"]
        assert "another process starts it again" in step["reason"]
        where = step["reason"].rpartition("see what else runs there: ")[2]
        assert "actors.py forgets" in machine.run(where.split()).stdout


# -- many processes


def test_three_hundred_leftovers_are_killed(machine: Machine) -> None:
    """They hold no port, and the unit is down."""
    try:
        left_over(machine, "many.service", actor("crowd", 0, 300))
        until(lambda: _tasks(machine, "many.service") > 300, "three hundred processes")
        run = kill(machine, 9220, unit="many", leftovers="true")
        step = run.step("kill-orphan")
        assert (run.exit, step["verdict"]) == (0, "killed"), step["reason"]
        assert len(step["evidence"]["killed"]) > 300
        assert _tasks(machine, "many.service") == 0
        print(f"300 leftovers: {step['seconds']} s")
    finally:
        remove_unit(machine, "many.service")


def test_leftovers_that_fork_faster_than_they_are_killed(machine: Machine) -> None:
    """Only systemd can kill them, all at once. That is done only with `leftovers: true`."""
    try:
        left_over(machine, "many.service", actor("guardians", 9221), 9221)
        run = kill(machine, 9221, unit="many", grace="300ms")
        step = run.step("kill-orphan")
        assert (run.exit, step["verdict"]) == (1, "port-still-held"), step["reason"]
        assert "`leftovers: true` does that, or systemctl kill --signal=KILL many.service" in step["reason"]
        assert _tasks(machine, "many.service")
        run = kill(machine, 9221, unit="many", grace="300ms", leftovers="true")
        step = run.step("kill-orphan")
        assert (run.exit, step["verdict"]) == (0, "killed"), step["reason"]
        assert "all processes of many.service got KILL at once" in step["reason"]
        assert _tasks(machine, "many.service") == 0
        assert not holders(machine, 9221)
    finally:
        remove_unit(machine, "many.service")


@pytest.mark.parametrize("port", [9222, 0])
def test_a_leftover_with_another_pid_at_each_reading_is_killed(machine: Machine, port: int) -> None:
    """It is killed by TERM, or with its whole cgroup."""
    try:
        left_over(machine, "many.service", actor("comet", port), port)
        run = kill(machine, port or 9223, unit="many", grace="300ms", leftovers="true")
        assert (run.exit, run.step("kill-orphan")["verdict"]) == (0, "killed"), run.step("kill-orphan")["reason"]
        assert _tasks(machine, "many.service") == 0
        assert not (port and holders(machine, port))
    finally:
        remove_unit(machine, "many.service")


def test_a_holder_that_moves_between_two_cgroups_is_killed(machine: Machine) -> None:
    """It is in another cgroup than at the reading before, as often as not. So nothing is sent, and it is read again."""
    try:
        scope(machine, "flips.scope", actor("flips", 9224))
        listening(machine, {9224})
        run = kill(machine, 9224, grace="300ms")
        step = run.step("kill-orphan")
        assert (run.exit, step["verdict"]) == (0, "killed"), step["reason"]
        assert step["reason"].endswith("(python3) exited on KILL; 9224 is free")
        assert not holders(machine, 9224)
    finally:
        machine.run(["pkill", "-KILL", "-f", "actors.py flips"], check=False)
        remove = ["rmdir", "/sys/fs/cgroup/flips-a", "/sys/fs/cgroup/flips-b"]
        until(lambda: not machine.run(remove, check=False).returncode, "the cgroups to be empty")


def _tasks(machine: Machine, unit: str) -> int:
    """Return the number of processes in a unit's cgroup, from the kernel."""
    return len(machine.run(["cat", f"/sys/fs/cgroup/system.slice/{unit}/cgroup.procs"], check=False).stdout.split())
