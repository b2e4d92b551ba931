"""A socket that root created may be passed on by a service without rights: to receive it is no guilt.

Systemd creates the sockets of a .socket unit, and a service may bind as root and go on as another user. What such a
service hands to a process of others (SCM_RIGHTS) has no other creator than what a real orphan inherited.
"""

from __future__ import annotations

import pytest

from tests.machine.machine import until
from tests.machine.ownership.staging import PortCase, Stage, shell
from tests.machine.tree import USER

MAY = r"{made}, but it runs as {user} in {where}, and may have been handed it; kill it by hand if it is not needed"


def passed(unit: str, port: int, made: str, where: str, user: str = "root") -> PortCase:
    """Return the case of a holder that was handed a socket of root's: both are named, and no stop is advised."""
    may = MAY.format(made=f"its socket was created by {made}", user=user, where=where)
    return PortCase(unit, str(port), "owner-unknown", where, "refused-to-kill", rf"^(?!.*systemctl stop).*{may}")


CASES = (
    # Of a socket unit: to root in a scope, also once that unit is down; to a service, to a leftover, to another user.
    passed("front-9651", 9651, r"systemd for front-9651\.socket", r"deputy-9651\.scope"),
    passed("idle", 9652, r"systemd for a socket unit that is down", r"deputy-9652\.scope"),
    passed("front-9653", 9653, r"systemd for front-9653\.socket", r"deputy-9653\.service"),
    passed("deputy-9654", 9654, r"systemd for a socket unit that is down", r"deputy-9654\.service"),
    passed("front-9655", 9655, r"systemd for front-9655\.socket", r"deputy-9655\.scope", "nobody"),
    # Of a service that binds as root and goes on as another user, also once it is down.
    passed("drops-9656", 9656, r"root in drops-9656\.service", r"deputy-9656\.scope"),
    passed("idle", 9657, r"root in a cgroup that was removed", r"deputy-9657\.scope"),
    # What a service of this unit left over is ended: its socket unit is up, or down; its parent has exited.
    PortCase("kept-9658", "9658", "leftover-holds-port", r"left over", "leftover-holds-port", "kill PID"),
    PortCase("kept-9659", "9659", "leftover-holds-port", r"left over", "leftover-holds-port", "kill PID"),
    PortCase("forks-9660", "9660", "leftover-holds-port", r"left over", "leftover-holds-port", "kill PID"),
    PortCase("moves-9661", "9661", "orphan-holds-port", r"no unit", "orphan-holds-port", "kill PID"),
    # The parent that has the socket too is the unit's own, and was moved with its worker.
    PortCase("idle", "9662", "orphan-holds-port", r"works-9662\.scope", "orphan-holds-port", "kill PID"),
)


def start_all(stage: Stage) -> None:
    for port in range(9651, 9658):
        verbs = f"await=/run/deputy-{port} send=/run/deputy-{port}"
        if port < 9656:
            stage.write(f"front-{port}.socket", f"[Socket]\nListenStream={port}\n")
            stage.service(f"front-{port}.service", f"adopt {verbs}", User=USER)
        else:
            stage.service(f"drops-{port}.service", f"listen=0.0.0.0:{port} drop=1000 {verbs}")
        receive = f"receive=/run/deputy-{port} touch=/run/has-{port}"
        if port == 9653:
            stage.service(f"deputy-{port}.service", receive)
        elif port == 9654:
            stage.service(f"deputy-{port}.service", shell(f"ACTOR {receive} & exec sleep 1h"), KillMode="process")
        else:
            as_user = ["--uid=nobody"] if port == 9655 else []
            receive = receive.replace("/run/", "/tmp/") if as_user else receive
            stage.scope(receive, f"--unit=deputy-{port}", *as_user)
    for port in (9658, 9659):
        stage.write(f"kept-{port}.socket", f"[Socket]\nListenStream={port}\n")
        adopts = shell(f"ACTOR adopt touch=/run/has-{port} & exec sleep 1h")
        stage.service(f"kept-{port}.service", adopts, KillMode="process")
    stage.service("forks-9660.service", "listen=0.0.0.0:9660 child touch=/run/has-9660", KillMode="process")
    moves = "listen=0.0.0.0:9661 child group=/moved-9661 touch=/run/has-9661"
    stage.service("moves-9661.service", moves, KillMode="process")
    stage.scope("listen=0.0.0.0:9662 child touch=/run/has-9662", "--unit=works-9662")
    stage.service("front-9655.service", "adopt await=/tmp/deputy-9655 send=/tmp/deputy-9655", User=USER)
    stage.start(*(name for name in stage.units if name.endswith(".socket")), *stage.units)
    for port in range(9651, 9663):
        folder = "/tmp" if port == 9655 else "/run"
        until(lambda p=port, f=folder: stage.exists(f"{f}/has-{p}"), f"the holder of {port}")  # type: ignore[misc]
    stop = [f"front-{port}.{kind}" for port in (9652, 9654) for kind in ("socket", "service")]
    stop += ["drops-9657.service", "deputy-9654.service"]
    stop += ["kept-9658.service", "kept-9659.service", "kept-9659.socket", "forks-9660.service", "moves-9661.service"]
    stage.machine.run(["systemctl", "stop", *stop])
    for port, count in ((9651, 3), (9656, 2), (9658, 2), *((port, 1) for port in (9652, 9654, 9657, 9659, 9660, 9661))):
        stage.held(port, count)
    stage.judge(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_verdict_on_what_root_created(stage: Stage, case: PortCase) -> None:
    stage.assert_verdict(case)
