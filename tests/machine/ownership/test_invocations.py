"""Processes of a unit that belong to the current invocation, and those that an earlier one left in its cgroup."""

from __future__ import annotations

import pytest

from tests.machine.machine import until
from tests.machine.ownership.staging import ACTOR, PortCase, Stage, ask, assert_verdict, shell
from tests.machine.runs import runbook

GIVEN = "c" * 32
"""An INVOCATION_ID from a manager inside a unit."""
BARE = f"env -i {ACTOR}"


def current(unit: str, port: int, reason: str = "held only by") -> PortCase:
    return PortCase(unit, str(port), "owned", reason)


def leftover(unit: str, port: int) -> PortCase:
    reason = rf"PID \d+ \(python3\), in {unit}\.service, left over from an earlier invocation"
    return PortCase(unit, str(port), "leftover-holds-port", reason, "leftover-holds-port", "kill PID")


def shared(unit: str, port: str) -> PortCase:
    old = rf"PID \d+ \(python3\), in {unit}\.service, left over from an earlier invocation"
    reason = rf"port {port} is held by {unit}\.service and by {old}$"
    return PortCase(unit, port, "port-shared", reason, "port-shared", "kill PID")


def doubtful(unit: str, port: int, why: str) -> PortCase:
    reason = f"owns it is unknown: .*{why}"
    return PortCase(
        unit, str(port), "owner-unknown", reason, "refused-to-kill", f"{why}.*stop {unit}.service to find out"
    )


CASES = (
    current("wrapped", 9201),
    current("workers", 9202, r"only by workers\.service \(3 processes\)"),
    current("handed", 9203),
    current("handedbare", 9204),
    current("forking", 9205, r"only by .* \(2 processes\)"),
    # Delegate=: a payload in a sub-cgroup, and a manager there with other INVOCATION_IDs.
    current("payload", 9206, r"only by .* \(2 processes\)"),
    current("manager", 9207),
    doubtful("detached", 9208, "an earlier one or one of a manager inside the unit"),
    # It moved to a cgroup of no unit. While its invocation runs, it may still belong to the unit.
    PortCase(
        "heir",
        "9209",
        "owner-unknown",
        "has the current INVOCATION_ID of heir.service, but left its cgroup",
        "refused-to-kill",
    ),
    PortCase("died", "9210", "orphan-holds-port", "of user root, in no unit", "orphan-holds-port", "kill PID"),
    # KillMode=process: leftovers that listen from before the restart, or only after it.
    leftover("late", 9211),
    leftover("lateparent", 9212),
    leftover("early", 9213),
    leftover("respawned", 9214),
    doubtful("latebare", 9215, "beside processes that are older"),
    # A child that does not serve inherited the socket.
    leftover("inherited", 9216),
    # Beside the new process, which lets others listen there too.
    shared("both", "9217"),
    shared("both", "udp:9217"),
    shared("both", "udp:127.0.0.1:9217"),
)

MAIN_PID = (
    PortCase("forking", "9205", "owner-mismatch", r"not by MainPID \d+ alone"),
    PortCase("wrapped", "9201", "owner-mismatch", r"not by MainPID \d+ alone"),
    PortCase("handed", "9203", "owned"),
)


def start_all(stage: Stage) -> None:
    stage.service("wrapped.service", shell("ACTOR listen=0.0.0.0:9201", "true"))
    stage.service("workers.service", "listen=0.0.0.0:9202 fork fork")
    for name, port, command in (
        ("handed", 9203, ACTOR),
        ("handedbare", 9204, f"/usr/bin/env -u INVOCATION_ID {ACTOR}"),
    ):
        # A graceful upgrade: the new process takes the socket, sends MAINPID=, and the old one exits.
        verbs = f"listen=0.0.0.0:{port} ready leave=/run/{name} main touch=/run/{name}"
        stage.service(f"{name}.service", f"{command} {verbs}", Type="notify", NotifyAccess="all")
    verbs = "leave=/run/forking.pid listen=0.0.0.0:9205 pidfile=/run/forking.pid fork"
    stage.service("forking.service", verbs, Type="forking", PIDFile="/run/forking.pid")
    stage.service("payload.service", "group=inner listen=0.0.0.0:9206 fork", Delegate="yes")
    manager = shell(f"ACTOR group=inner become={GIVEN} listen=0.0.0.0:9207 & wait")
    stage.service("manager.service", manager, Delegate="yes")
    stage.service("detached.service", f"daemon group=inner become={GIVEN} listen=0.0.0.0:9208", Delegate="yes")
    stage.service("heir.service", "daemon group=/heirs listen=0.0.0.0:9209")
    stage.service("died.service", once("died", "exec ACTOR daemon group=/heirs listen=0.0.0.0:9210"))
    left = {
        "late": "ACTOR daemon await=/run/late listen=0.0.0.0:9211 & exec sleep 1h",
        "lateparent": f"{BARE} await=/run/late fork listen=0.0.0.0:9212 & exec sleep 1h",
        "early": f"{BARE} daemon listen=0.0.0.0:9213 & exec sleep 1h",
        "latebare": f"{BARE} await=/run/late daemon listen=0.0.0.0:9215 & exec sleep 1h",
        "inherited": "exec ACTOR listen=0.0.0.0:9216 fork",
    }
    for name, command in left.items():
        stage.service(f"{name}.service", once(name, command), KillMode="process")
    # As on SIGUSR1, the process forks a new one and exits, and systemd starts another one.
    respawned = once("respawned", "exec ACTOR leave=/run/respawn listen=0.0.0.0:9214 touch=/run/respawn")
    stage.service("respawned.service", respawned, KillMode="process", Restart="always", RestartSec="100ms")
    both = "listen=127.0.0.1:9217,reuseport listen=127.0.0.1:9217,udp,reuseport"
    listens = shell(
        "test -e /run/once-both && exec ACTOR BOTH", "touch /run/once-both; ACTOR daemon BOTH; exec sleep 1h"
    )
    stage.service("both.service", listens.replace("BOTH", both), KillMode="process")
    stage.start(*stage.units)
    stage.listening(*(9201 + n for n in range(10)), 9213, 9214, 9216, 9217)
    for port, count in ((9202, 3), (9205, 2), (9206, 2), (9216, 2)):
        until(lambda p=port, n=count: stage.holders(p) == n, f"the children on {port}")  # type: ignore[misc]
    stage.machine.run(["systemctl", "restart", "died.service", "both.service", *(f"{name}.service" for name in left)])
    until(lambda: stage.machine.show("respawned.service", "NRestarts")["NRestarts"] == "1", "the rival")
    for name, port in (("handed", 9203), ("handedbare", 9204)):
        until(lambda f=name: stage.exists(f"/run/{f}"), f"the new process of {name}")  # type: ignore[misc]
        until(lambda p=port: stage.holders(p) == 1, f"the old process of {name} to go")  # type: ignore[misc]
    stage.machine.run(["touch", "/run/late"])
    stage.listening(9211, 9212, 9215)
    stage.held(9217, 2)
    stage.judge(CASES)


def once(name: str, command: str) -> str:
    """Return a command that only the first start runs. Later starts sleep."""
    return shell(f"test -e /run/once-{name} && exec sleep 1h", f"touch /run/once-{name}", command)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_verdict_on_the_port(stage: Stage, case: PortCase) -> None:
    stage.assert_verdict(case)


def test_owner_main_pid_accepts_only_the_main_process(stage: Stage) -> None:
    steps = [
        f"- verify-port-owner: {{unit: {h.unit}, port: {h.port}, owner: main-pid, on-failure: continue}}"
        for h in MAIN_PID
    ]
    found = runbook(stage.machine, "check", "\n".join(["steps:", *steps])).of("step-finished")
    for one, case in zip(found, MAIN_PID, strict=True):
        assert_verdict(one, case)


def test_a_stop_of_the_unit_resolves_a_doubt(stage: Stage) -> None:
    """The reason for an unknown owner advises to stop the unit. After that the process is known to be a leftover."""
    stage.machine.run(["systemctl", "stop", "latebare.service"])
    case = leftover("latebare", 9215)
    assert_verdict(ask(stage.machine, "check", "verify-port-owner", [case])[str(case)], case)
