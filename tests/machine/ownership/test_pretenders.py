"""Old and foreign processes that pass for the unit's: by systemd's own mistake, or by the name of a cgroup."""

from __future__ import annotations

import pytest

from tests.machine.machine import until
from tests.machine.ownership.street import ACTOR, House, Street, shell
from tests.machine.runs import runbook

TAKEN = r"left over from an earlier invocation; systemd took it for the main process of {}\.service, but it is older"


def taken(unit: str, port: int) -> House:
    """An old process of the unit, which systemd supervises as the new one."""
    return House(unit, str(port), "leftover-holds-port", TAKEN.format(unit), "leftover-holds-port", "kill PID")


HOUSES = (
    # Type=forking: the new daemon finds the old one and ends well; systemd finds the old one in the cgroup.
    taken("guessed", 9401),
    taken("pidfile", 9402),
    # PIDFile= of root's may name anybody.
    House(
        "stranger",
        "9403",
        "owner-unknown",
        r"which systemd took for the main process.*, in run-\S+\.scope; stop stranger\.service to find out",
        "refused-to-kill",
    ),
    House("thief", "9404", "other-unit-holds-port", r"in victim\.service$", "refused-to-kill", "is a live service"),
    # Names that hold what Python takes for an end of a line, and the kernel for a part of the name.
    House("idle", "9405", "orphan-holds-port", "in no unit of user root", "orphan-holds-port", "kill PID"),
    House("idle", "9406", "orphan-holds-port", "in no unit of user root", "orphan-holds-port", "kill PID"),
    # As of cron: its stop would end cron, and not this.
    House(
        "idle",
        "9408",
        "other-unit-holds-port",
        r"in jobs\.service$",
        "refused-to-kill",
        r"would leave this process running \(KillMode=process\); kill it by hand if it is not needed: kill \d+$",
    ),
    # RestartMode=direct, which 252 does not know: it was never down since its first start.
    House(
        "direct",
        "9407",
        "leftover-holds-port",
        "left over from an earlier invocation",
        "leftover-holds-port",
        "kill PID",
    ),
)


def move_in(street: Street) -> None:
    street.service(
        "guessed.service",
        shell("test -e /run/guessed && exit 0", "touch /run/guessed", "ACTOR listen=0.0.0.0:9401 &"),
        Type="forking",
        KillMode="none",
    )
    street.service(
        "pidfile.service",
        shell(
            "test -e /run/pidfile.old && cp /run/pidfile.old /run/pidfile.pid && exit 0",
            "ACTOR listen=0.0.0.0:9402 & echo $! >/run/pidfile.old",
            "cp /run/pidfile.old /run/pidfile.pid",
        ),
        Type="forking",
        KillMode="none",
        PIDFile="/run/pidfile.pid",
    )
    street.scope("pidfile=/run/stranger.old listen=0.0.0.0:9403")
    street.service("victim.service", "pidfile=/run/victim.pid listen=0.0.0.0:9404")
    for name, whose in (("stranger", "stranger.old"), ("thief", "victim.pid")):
        copy = shell(f"cp /run/{whose} /run/{name}.pid")
        street.service(f"{name}.service", copy, Type="forking", PIDFile=f"/run/{name}.pid")
    for port, group in ((9405, "evil\\0130::/system.slice/idle.service"), (9406, "evil\\013group")):
        enter = f'G="/sys/fs/cgroup/$(printf \'{group}\')"; mkdir -p "$G"; echo $$ >"$G/cgroup.procs"'
        street.begin(["sh", "-c", f"{enter}; exec {ACTOR} listen=0.0.0.0:{port}"])
    # It outlives its invocation by more than the clocks of systemd and the kernel may differ (START_SLACK).
    direct = shell(
        "test -e /run/direct && exec sleep infinity",
        "env -i ACTOR daemon listen=0.0.0.0:9407 touch=/run/direct & while ! test -e /run/direct",
        "do sleep 0.1; done; sleep 0.3; exit 1",
    )
    street.service(
        "direct.service", direct, KillMode="process", Restart="always", RestartMode="direct", RestartSec="100ms"
    )
    street.service("jobs.service", shell("ACTOR daemon listen=0.0.0.0:9408 & exec sleep infinity"), KillMode="process")
    until(lambda: street.exists("/run/stranger.old"), "the stranger")
    street.start("victim.service")
    until(lambda: street.exists("/run/victim.pid"), "the victim")
    street.start(
        "guessed.service", "pidfile.service", "stranger.service", "thief.service", "direct.service", "jobs.service"
    )
    street.listening(*range(9401, 9409))
    until(lambda: street.machine.show("direct.service", "NRestarts")["NRestarts"] == "1", "the restart")
    street.machine.run(["systemctl", "restart", "guessed.service", "pidfile.service"])
    street.judge(HOUSES)


@pytest.mark.parametrize("house", HOUSES, ids=str)
def test_whose_it_is(street: Street, house: House) -> None:
    street.assert_said(house)


def test_systemd_calls_the_old_ones_active(street: Street) -> None:
    """Or there would be nothing to see through."""
    for name in ("guessed", "pidfile", "stranger", "thief"):
        assert street.machine.show(f"{name}.service", "ActiveState", "SubState") == {
            "ActiveState": "active",
            "SubState": "running",
        }


def test_an_old_one_is_not_ready(street: Street) -> None:
    run = runbook(street.machine, "apply", "unit: guessed\nport: 9401\nsteps: [wait-ready: {timeout: 10s}]")
    assert (run.exit, run.step("wait-ready")["verdict"]) == (1, "leftover-holds-port"), run.last
