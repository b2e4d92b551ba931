"""Ports that a unit shares with named units, that belong to another unit, or that the kernel itself holds."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

import pytest

from tests.machine.machine import until
from tests.machine.ownership.staging import Stage, shell
from tests.machine.runs import runbook


@dataclass(frozen=True)
class OwnerCase:
    """The fields of a verify-port-owner, and what it finds."""

    fields: str
    verdict: str
    reason: str

    def __str__(self) -> str:
        return self.fields


CASES = (
    OwnerCase("unit: share@1, port: 9301", "port-shared", "in share@2.service"),
    OwnerCase("unit: share@1, port: 9301, shared-with: share@2", "owned", "in share@2.service, listens on"),
    OwnerCase("unit: share@2, port: 9301, shared-with: ['share@*']", "owned", "in share@1.service, listens on"),
    OwnerCase("unit: share@3, port: 9301, shared-with: ['share@*']", "not-listening", "for share@3.service; "),
    OwnerCase("unit: share@1, port: 9301, shared-with: ['idle', 'sh*.socket']", "port-shared", "in share@2.service"),
    # An orphan beside them, and one that was passed the socket of the sharer.
    OwnerCase("unit: mixed@1, port: 9302, shared-with: ['mixed@*']", "port-shared", "of user root"),
    OwnerCase("unit: passes@1, port: 9303, shared-with: ['passes@*']", "port-shared", "of user root"),
    # What a sharer that is down left behind.
    OwnerCase("unit: left@1, port: 9304, shared-with: ['left@*']", "port-shared", "in left@2.service"),
    # A port of another unit.
    OwnerCase("unit: idle, port: [9305, 9306], owner: {9305: names, 9306: waits}", "owned", "names.service: port 9305"),
    OwnerCase("unit: idle, port: 9301, owner: share@1.service", "port-shared", "^share@1.service: "),
    OwnerCase("unit: idle, port: 9305, owner: idle2.service", "unit-not-found", "no unit idle2.service"),
    # A port of the kernel.
    OwnerCase("unit: idle, port: 'udp:4789'", "owner-unknown", "held by the kernel itself"),
    OwnerCase("unit: vx, port: 'udp:4789', owner: kernel", "owned", r"by the kernel itself \(udp:0\.0\.0\.0:4789\)"),
    OwnerCase("unit: vx, port: 9305, owner: kernel", "other-unit-holds-port", "in names.service"),
    OwnerCase("unit: names, port: 9305, owner: kernel", "owner-mismatch", "not by the kernel itself"),
)


def start_all(stage: Stage) -> None:
    stage.machine.run(["ip", "link", "add", "v0", "type", "vxlan", "id", "5", "dstport", "4789", "local", "127.0.0.1"])
    stage.machine.run(["ip", "link", "set", "v0", "up"])
    stage.service("vx.service", "/usr/bin/true", Type="oneshot", RemainAfterExit="yes")
    stage.service("share@.service", "listen=0.0.0.0:9301,reuseport")
    stage.service("mixed@.service", "listen=0.0.0.0:9302,reuseport")
    stage.scope("listen=0.0.0.0:9302,reuseport")
    stage.service("passes@.service", "listen=0.0.0.0:9303,reuseport await=/run/taker-%i send=/run/taker-%i")
    stage.scope("receive=/run/taker-2")
    stage.service("left@.service", shell("ACTOR listen=0.0.0.0:9304,reuseport & exec sleep 1h"), KillMode="process")
    stage.service("names.service", "listen=0.0.0.0:9305")
    stage.write("waits.socket", "[Socket]\nListenStream=9306\n")
    stage.service("waits.service", "adopt")
    twins = [f"{name}@{one}.service" for name in ("share", "mixed", "passes", "left") for one in (1, 2)]
    stage.start("vx.service", "names.service", "waits.socket", "idle.service", *twins)
    stage.listening(*range(9301, 9307), "udp:4789")
    for port, most in ((9301, 2), (9302, 3), (9303, 3), (9304, 2)):
        stage.held(port, most)
    stage.machine.run(["systemctl", "stop", "left@2.service"])


@pytest.fixture(scope="module")
def found(stage: Stage) -> dict[str, dict[str, Any]]:
    """Judge all cases in one run."""
    steps = [f"- verify-port-owner: {{{case.fields}, on-failure: continue}}" for case in CASES]
    run = runbook(stage.machine, "check", "\n".join(["steps:", *steps]))
    events = run.of("step-finished")
    assert len(events) == len(CASES), (run.last, run.stderr)
    return {str(case): event for case, event in zip(CASES, events, strict=True)}


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_verdict_on_the_port(found: dict[str, dict[str, Any]], case: OwnerCase) -> None:
    event = found[str(case)]
    assert event["verdict"] == case.verdict, event
    assert re.search(case.reason, event["reason"]), event["reason"]


def test_a_socket_that_is_being_passed_on_is_not_the_kernel_s(stage: Stage) -> None:
    """As with a port of the kernel, no process has it in its table."""
    stage.scope("listen=0.0.0.0:9307 flight")
    stage.listening(9307)
    until(
        lambda: "pid=" not in stage.machine.run(["ss", "-Hltnp", "sport = :9307"]).stdout, "the socket to be in flight"
    )
    run = runbook(stage.machine, "check", "steps: [{verify-port-owner: {unit: vx, port: 9307, owner: kernel}}]\n")
    assert run.step("verify-port-owner")["verdict"] == "owner-unknown", run.last
    stage.machine.run(["pkill", "-KILL", "-f", "actor.py listen=0.0.0.0:9307"])
    until(lambda: not stage.machine.run(["ss", "-Hltn", "sport = :9307"]).stdout, "the socket to be closed")
