"""Which of the unit's own processes are of the current invocation, and which an earlier one left in its cgroup."""

from __future__ import annotations

import pytest

from tests.machine.machine import until
from tests.machine.ownership.street import ACTOR, House, Street, ask, assert_said, shell
from tests.machine.runs import runbook

GIVEN = "c" * 32
"""An INVOCATION_ID that a manager inside a unit gave out."""
BARE = f"env -i {ACTOR}"


def current(unit: str, port: int, reason: str = "held only by") -> House:
    return House(unit, str(port), "owned", reason)


def leftover(unit: str, port: int) -> House:
    reason = rf"PID \d+ \(python3\), in {unit}\.service, left over from an earlier invocation"
    return House(unit, str(port), "leftover-holds-port", reason, "leftover-holds-port", "kill PID")


def doubtful(unit: str, port: int, why: str) -> House:
    told = f"owns it is unknown: .*{why}"
    return House(unit, str(port), "owner-unknown", told, "refused-to-kill", f"{why}.*stop {unit}.service to find out")


HOUSES = (
    current("wrapped", 9201),
    current("workers", 9202, r"only by workers\.service \(3 processes\)"),
    current("handed", 9203),
    current("handedbare", 9204),
    current("forking", 9205, r"only by .* \(2 processes\)"),
    # Delegate=: the payload in a sub-group, and a manager there that gives out INVOCATION_IDs of its own.
    current("payload", 9206, r"only by .* \(2 processes\)"),
    current("manager", 9207),
    doubtful("detached", 9208, "an earlier one or one of a manager inside the unit"),
    # It left for a cgroup of no unit. As long as its invocation runs it may be the unit's all the same.
    House(
        "heir",
        "9209",
        "owner-unknown",
        "has the current INVOCATION_ID of heir.service, but left its cgroup",
        "refused-to-kill",
    ),
    House("died", "9210", "orphan-holds-port", "in no unit of user root", "orphan-holds-port", "kill PID"),
    # KillMode=process: what listens only after the restart, or from before it.
    leftover("late", 9211),
    leftover("lateparent", 9212),
    leftover("early", 9213),
    leftover("respawned", 9214),
    doubtful("latebare", 9215, "beside processes that are older"),
    # The socket went on to a child that does not serve it.
    leftover("inherited", 9216),
)

MAIN_PID = (
    House("forking", "9205", "owner-mismatch", r"not by MainPID \d+ alone"),
    House("wrapped", "9201", "owner-mismatch", r"not by MainPID \d+ alone"),
    House("handed", "9203", "owned"),
)


def move_in(street: Street) -> None:
    street.service("wrapped.service", shell("ACTOR listen=0.0.0.0:9201", "true"))
    street.service("workers.service", "listen=0.0.0.0:9202 fork fork")
    for name, port, command in (
        ("handed", 9203, ACTOR),
        ("handedbare", 9204, f"/usr/bin/env -u INVOCATION_ID {ACTOR}"),
    ):
        # A graceful upgrade: the new process takes over the socket, says MAINPID=, and the old one goes.
        verbs = f"listen=0.0.0.0:{port} ready leave=/run/{name} main touch=/run/{name}"
        street.service(f"{name}.service", f"{command} {verbs}", Type="notify", NotifyAccess="all")
    verbs = "leave=/run/forking.pid listen=0.0.0.0:9205 pidfile=/run/forking.pid fork"
    street.service("forking.service", verbs, Type="forking", PIDFile="/run/forking.pid")
    street.service("payload.service", "group=inner listen=0.0.0.0:9206 fork", Delegate="yes")
    manager = shell(f"ACTOR group=inner become={GIVEN} listen=0.0.0.0:9207 & wait")
    street.service("manager.service", manager, Delegate="yes")
    street.service("detached.service", f"daemon group=inner become={GIVEN} listen=0.0.0.0:9208", Delegate="yes")
    street.service("heir.service", "daemon group=/heirs listen=0.0.0.0:9209")
    street.service("died.service", once("died", "exec ACTOR daemon group=/heirs listen=0.0.0.0:9210"))
    left = {
        "late": "ACTOR daemon await=/run/late listen=0.0.0.0:9211 & exec sleep 1h",
        "lateparent": f"{BARE} await=/run/late fork listen=0.0.0.0:9212 & exec sleep 1h",
        "early": f"{BARE} daemon listen=0.0.0.0:9213 & exec sleep 1h",
        "latebare": f"{BARE} await=/run/late daemon listen=0.0.0.0:9215 & exec sleep 1h",
        "inherited": "exec ACTOR listen=0.0.0.0:9216 fork",
    }
    for name, command in left.items():
        street.service(f"{name}.service", once(name, command), KillMode="process")
    # SIGUSR1, as it were: it forks the new one and goes, and systemd starts a rival.
    respawned = once("respawned", "exec ACTOR leave=/run/respawn listen=0.0.0.0:9214 touch=/run/respawn")
    street.service("respawned.service", respawned, KillMode="process", Restart="always", RestartSec="100ms")
    street.start(*street.units)
    street.listening(*(9201 + n for n in range(10)), 9213, 9214, 9216)
    for port, count in ((9202, 3), (9205, 2), (9206, 2), (9216, 2)):
        until(lambda p=port, n=count: street.holders(p) == n, f"the children on {port}")  # type: ignore[misc]
    street.machine.run(["systemctl", "restart", "died.service", *(f"{name}.service" for name in left)])
    until(lambda: street.machine.show("respawned.service", "NRestarts")["NRestarts"] == "1", "the rival")
    for name, port in (("handed", 9203), ("handedbare", 9204)):
        until(lambda f=name: street.exists(f"/run/{f}"), f"the new process of {name}")  # type: ignore[misc]
        until(lambda p=port: street.holders(p) == 1, f"the old process of {name} to go")  # type: ignore[misc]
    street.machine.run(["touch", "/run/late"])
    street.listening(9211, 9212, 9215)
    street.judge(HOUSES)


def once(name: str, command: str) -> str:
    """Make a command that the first start runs; a later one merely waits."""
    return shell(f"test -e /run/once-{name} && exec sleep 1h", f"touch /run/once-{name}", command)


@pytest.mark.parametrize("house", HOUSES, ids=str)
def test_whose_it_is(street: Street, house: House) -> None:
    street.assert_said(house)


def test_nobody_but_the_main_process(street: Street) -> None:
    """`owner: main-pid`."""
    steps = [
        f"- verify-port-owner: {{unit: {h.unit}, port: {h.port}, owner: main-pid, on-failure: continue}}"
        for h in MAIN_PID
    ]
    said = runbook(street.machine, "check", "\n".join(["steps:", *steps])).of("step-finished")
    for one, house in zip(said, MAIN_PID, strict=True):
        assert_said(one, house)


def test_who_is_left_when_the_doubtful_are_asked_to_stop(street: Street) -> None:
    """What the sentence of a doubtful one says to do, does tell."""
    street.machine.run(["systemctl", "stop", "latebare.service"])
    house = leftover("latebare", 9215)
    assert_said(ask(street.machine, "check", "verify-port-owner", [house])[str(house)], house)
