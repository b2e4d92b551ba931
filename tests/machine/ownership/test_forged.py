"""What a user without rights can forge leads to no kill, and to no advice to stop what is innocent."""

from __future__ import annotations

import pytest

from tests.machine.machine import until
from tests.machine.ownership.staging import ACTOR, PortCase, Stage, shell
from tests.machine.tree import USER

ID = "3f4f9a1b2c3d4e5f60718293a4b5c6d7e8f90123456789abcdef0123456789ab"
NO_STOP = r"^(?!.*systemctl (--user )?(-M \S+ )?stop)"
BY_HAND = r"kill it by hand if it is not needed: kill \d+$"


def handed(unit: str, port: int, where: str) -> PortCase:
    """Return the case of a holder that got its socket from another user: both are named, and no stop is advised."""
    made = rf"its socket was created by user {USER} in giver-{port}\.scope, but it runs as root in {where}, and may"
    return PortCase(
        unit, str(port), "owner-unknown", made, "refused-to-kill", rf"{NO_STOP}.*{made} have been handed it$"
    )


CASES = (
    # SCM_RIGHTS: to root's process in a scope, to a live service of root's, to what an earlier invocation left.
    handed("idle", 9601, r"deputy\.scope"),
    handed("idle", 9602, r"deputy\.service"),
    handed("gone", 9603, r"gone\.service"),
    handed("idle", 9603, r"gone\.service"),
    # Who binds as root and goes on as a user, or made the socket himself, is not handed one.
    PortCase("idle", "9604", "orphan-holds-port", r"in drops\.scope", "orphan-holds-port", "kill PID"),
    PortCase("idle", "9605", "orphan-holds-port", r"in \S+\.scope", "orphan-holds-port", "kill PID"),
    # The INVOCATION_ID of a service that has nothing to do with it.
    PortCase(
        "idle",
        "9606",
        "owner-unknown",
        r"^port 9606 is held by PID \d+ \(python3\), in \S+\.scope",
        "refused-to-kill",
        rf"{NO_STOP}.*INVOCATION_ID of innocent\.service.*{BY_HAND}",
    ),
    # A message bus, with the socket in its queue.
    PortCase(
        "idle",
        "9607",
        "owner-unknown",
        r"\(dbus-daemon\), in dbus\.service",
        "refused-to-kill",
        rf"{NO_STOP}.*it is a message bus",
    ),
    # The names of another's containers and machines.
    PortCase(
        "idle",
        "9608",
        "other-unit-holds-port",
        "docker-",
        "refused-to-kill",
        rf"\(sudo -u {USER} docker stop {ID[:12]}\)",
    ),
    PortCase("idle", "9609", "other-unit-holds-port", "machine-web", "refused-to-kill", r"^(?!.*machinectl)"),
    PortCase("idle", "9610", "other-unit-holds-port", "PID", "refused-to-kill", rf"sudo -u {USER} docker stop \S+"),
)


def start_all(stage: Stage) -> None:
    stage.users_manager()
    receive = "receive=/run/deputy-{} touch=/run/has-{}"
    stage.scope(receive.format(9601, 9601), "--unit=deputy")
    stage.service("deputy.service", receive.format(9602, 9602))
    stage.service("gone.service", shell(f"ACTOR {receive.format(9603, 9603)} & exec sleep 1h"), KillMode="process")
    stage.service("innocent.service", "/usr/bin/sleep infinity")
    stage.start(*stage.units)
    for port in (9601, 9602, 9603):
        until(lambda p=port: stage.exists(f"/run/deputy-{p}"), "the deputy to wait")  # type: ignore[misc]
        verbs = f"listen=127.0.0.2:{port} send=/run/deputy-{port} close"
        scope = ["systemd-run", "--user", "--quiet", "--scope", f"--unit=giver-{port}"]
        stage.begin([*scope, *ACTOR.split(), *verbs.split()], USER)
    stage.scope("listen=0.0.0.0:9604 drop=1000", "--unit=drops")
    user_scope = ["systemd-run", "--user", "--quiet", "--scope"]
    stage.begin([*user_scope, *ACTOR.split(), "listen=0.0.0.0:9605"], USER)
    invocation = stage.machine.show("innocent.service", "InvocationID")["InvocationID"]
    stage.begin([*user_scope, *ACTOR.split(), f"become={invocation}", "listen=0.0.0.0:9606"], USER)
    stage.begin([*user_scope, *ACTOR.split(), "listen=0.0.0.0:9607", "bus"], USER)
    stage.begin([*user_scope, f"--unit=docker-{ID}", *ACTOR.split(), "listen=0.0.0.0:9608"], USER)
    stage.begin(
        [*user_scope, "--slice=machine.slice", "--unit=machine-web", *ACTOR.split(), "listen=0.0.0.0:9609"], USER
    )
    stage.machine.run(["cp", "/usr/bin/python3", "/opt/containerd-shim-runc-v2"])
    shim = f"import subprocess; subprocess.run('unshare -r --pid --fork {ACTOR} listen=0.0.0.0:9610', shell=True)"
    shim = f"{shim} # "
    stage.begin([*user_scope, "/opt/containerd-shim-runc-v2", "-c", shim, "-namespace", "moby", "-id", ID], USER)
    stage.listening(*range(9601, 9611))
    for port in (9601, 9602, 9603):
        until(lambda p=port: stage.exists(f"/run/has-{p}"), "the deputy to have it")  # type: ignore[misc]
        until(lambda p=port: stage.holders(p) == 1, "the giver to be gone")  # type: ignore[misc]
    until(lambda: "dbus-daemon" in stage.machine.run(["ss", "-Hltnp", "sport = :9607"]).stdout, "the bus to have it")
    until(lambda: stage.holders(9607) == 1, "the bus alone to have it")
    stage.machine.run(["systemctl", "stop", "gone.service"])
    stage.judge(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_what_is_said(stage: Stage, case: PortCase) -> None:
    stage.assert_verdict(case)
