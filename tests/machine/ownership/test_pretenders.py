"""Processes that look like the unit's: systemd took them for its main process, or a cgroup's name is misleading."""

from __future__ import annotations

import pytest

from tests.machine.machine import until
from tests.machine.ownership.staging import ACTOR, PortCase, Stage, shell
from tests.machine.runs import runbook

TAKEN = r"left over from an earlier invocation; systemd took it for the main process of {}\.service, but it is older"


def taken(unit: str, port: int) -> PortCase:
    """Return the case of an old process that systemd took for the new main process."""
    return PortCase(unit, str(port), "leftover-holds-port", TAKEN.format(unit), "leftover-holds-port", "kill PID")


CASES = (
    # Type=forking: the new daemon finds the old one and exits with 0. systemd finds the old one in the cgroup.
    taken("guessed", 9401),
    taken("pidfile", 9402),
    # A PIDFile= that root writes may name any process.
    PortCase(
        "stranger",
        "9403",
        "owner-unknown",
        r"which systemd took for the main process.*, in run-\S+\.scope; stop stranger\.service to find out",
        "refused-to-kill",
    ),
    PortCase("thief", "9404", "other-unit-holds-port", r"in victim\.service$", "refused-to-kill", "is a live service"),
    # Names with characters that end a line for Python, but not for the kernel.
    PortCase("idle", "9405", "orphan-holds-port", "of user root, in no unit", "orphan-holds-port", "kill PID"),
    PortCase("idle", "9406", "orphan-holds-port", "of user root, in no unit", "orphan-holds-port", "kill PID"),
    # As with cron: a stop would stop cron, but not this process.
    PortCase(
        "idle",
        "9408",
        "other-unit-holds-port",
        r"in jobs\.service$",
        "refused-to-kill",
        r"would leave this process running \(KillMode=process\); kill it by hand if it is not needed: kill \d+$",
    ),
    # RestartMode=direct, which 252 does not have: the unit was never down since its first start.
    PortCase(
        "direct",
        "9407",
        "leftover-holds-port",
        "left over from an earlier invocation",
        "leftover-holds-port",
        "kill PID",
    ),
)


def start_all(stage: Stage) -> None:
    stage.service(
        "guessed.service",
        shell("test -e /run/guessed && exit 0", "touch /run/guessed", "ACTOR listen=0.0.0.0:9401 &"),
        Type="forking",
        KillMode="none",
    )
    stage.service(
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
    stage.scope("pidfile=/run/stranger.old listen=0.0.0.0:9403")
    stage.service("victim.service", "pidfile=/run/victim.pid listen=0.0.0.0:9404")
    for name, whose in (("stranger", "stranger.old"), ("thief", "victim.pid")):
        copy = shell(f"cp /run/{whose} /run/{name}.pid")
        stage.service(f"{name}.service", copy, Type="forking", PIDFile=f"/run/{name}.pid")
    for port, group in ((9405, "evil\\0130::/system.slice/idle.service"), (9406, "evil\\013group")):
        enter = f'G="/sys/fs/cgroup/$(printf \'{group}\')"; mkdir -p "$G"; echo $$ >"$G/cgroup.procs"'
        stage.begin(["sh", "-c", f"{enter}; exec {ACTOR} listen=0.0.0.0:{port}"])
    # It runs on after its invocation for longer than the clocks of systemd and the kernel may differ (START_SLACK).
    direct = shell(
        "test -e /run/direct && exec sleep infinity",
        "env -i ACTOR daemon listen=0.0.0.0:9407 touch=/run/direct & while ! test -e /run/direct",
        "do sleep 0.1; done; sleep 0.3; exit 1",
    )
    stage.service(
        "direct.service", direct, KillMode="process", Restart="always", RestartMode="direct", RestartSec="100ms"
    )
    stage.service("jobs.service", shell("ACTOR daemon listen=0.0.0.0:9408 & exec sleep infinity"), KillMode="process")
    until(lambda: stage.exists("/run/stranger.old"), "the stranger")
    stage.start("victim.service")
    until(lambda: stage.exists("/run/victim.pid"), "the victim")
    stage.start(
        "guessed.service", "pidfile.service", "stranger.service", "thief.service", "direct.service", "jobs.service"
    )
    stage.listening(*range(9401, 9409))
    until(lambda: stage.machine.show("direct.service", "NRestarts")["NRestarts"] == "1", "the restart")
    stage.machine.run(["systemctl", "restart", "guessed.service", "pidfile.service"])
    stage.judge(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_verdict_on_the_port(stage: Stage, case: PortCase) -> None:
    stage.assert_verdict(case)


def test_systemd_shows_these_units_as_active(stage: Stage) -> None:
    for name in ("guessed", "pidfile", "stranger", "thief"):
        assert stage.machine.show(f"{name}.service", "ActiveState", "SubState") == {
            "ActiveState": "active",
            "SubState": "running",
        }


def test_a_unit_with_an_old_main_process_is_not_ready(stage: Stage) -> None:
    run = runbook(stage.machine, "apply", "unit: guessed\nport: 9401\nsteps: [wait-ready: {timeout: 10s}]")
    assert (run.exit, run.step("wait-ready")["verdict"]) == (1, "leftover-holds-port"), run.last
