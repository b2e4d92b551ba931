"""Rounds of probes, and whether an answer counts. tests/cases/wait-ready has the situations of a whole step."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from runbook.checks.health import HealthReport
from runbook.checks.prober import (
    PROBE_INTERVAL,
    Prober,
    ProbeRoundState,
    describe_foreign_answer,
    judge_extra_port,
    port_covers,
)
from runbook.checks.probes import Probe
from runbook.host.holders import Listener, PortOwnership
from runbook.host.queries import Answer
from runbook.model import Finding, FindingState, Port, Verdict
from runbook.spec.state import RunState
from tests.unit.fake_machine import FakeMachine, listen, process, unit

TCP = Probe.model_validate({"tcp": {"port": 81}})
CONNECTED = Answer[None](True, "connected", reached_port=Port(81, address="127.0.0.1"))
COMMAND = Probe.model_validate({"run": {"run": "look"}})


class Rounds:
    """A healthy unit, and the state of its probes from one check to the next."""

    def __init__(self, *probes: Probe, secret: bool = False) -> None:
        self.machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
        listen(self.machine, 100, "127.0.0.1:81")
        self.run = RunState("run-1", Path("/srv"))
        self.state = ProbeRoundState()
        self.probes = probes
        self.secret = secret

    def check(self, after: float = 0.0) -> Finding:
        self.machine.clock.time += after
        report = HealthReport(self.machine.units["gw.service"], (), Verdict.READY, "it runs")
        prober = Prober(self.machine, report, self.probes, self.run, self.state, secret=self.secret)
        return prober.check(self.machine.clock.monotonic())


def test_no_probes() -> None:
    assert Rounds().check().state is FindingState.HOLDS


def test_a_failure_is_repeated_after_the_interval() -> None:
    rounds = Rounds(TCP)
    refused = Answer[None](False, "connection refused")
    rounds.machine.answers = {"tcp 127.0.0.1:81": [refused, CONNECTED]}
    assert rounds.check().reason == "tcp 127.0.0.1:81: connection refused"
    assert rounds.check(PROBE_INTERVAL / 2).verdict is Verdict.PROBE_FAILED
    assert rounds.run.query_count == 1
    rounds.check(PROBE_INTERVAL / 2)
    found = rounds.check()
    assert found.verdict is Verdict.READY
    assert found.evidence["probes"] == ["tcp 127.0.0.1:81: connected"]


def test_an_answer_of_an_earlier_invocation_does_not_count() -> None:
    rounds = Rounds(TCP)
    rounds.machine.answers = {"tcp 127.0.0.1:81": [CONNECTED, Answer(False, "connection refused")]}
    assert rounds.check().verdict is Verdict.READY
    rounds.machine.units["gw.service"] = unit(invocation_id="b" * 32)
    assert rounds.check().verdict is Verdict.PROBE_FAILED


def test_an_answer_of_an_orphan_does_not_count() -> None:
    rounds = Rounds(TCP)
    rounds.machine.answers = {"tcp 127.0.0.1:81": [CONNECTED]}
    rounds.machine.kill(100)
    rounds.machine.processes[200] = process(200, cgroup="/user.slice/user-1000.slice/session-1.scope")
    listen(rounds.machine, 200, "127.0.0.1:81")
    assert rounds.check().reason.startswith("an answer from port 127.0.0.1:81 does not count: ")


def test_a_port_that_only_the_connection_shows_is_judged_before_its_answer_counts() -> None:
    rounds = Rounds(Probe.model_validate({"http": {"url": "http://gateway.test/"}}))
    reached = Answer(True, "answered 200", "page", Port(81, address="127.0.0.1"))
    rounds.machine.answers = {"http http://gateway.test/": [reached]}
    assert rounds.check().reason == "probing gw.service"
    assert rounds.check().verdict is Verdict.READY
    assert rounds.run.query_count == 2


@pytest.mark.parametrize(("secret", "last"), [(False, ": no data"), (True, "")])
def test_the_last_line_of_a_failed_command(secret: bool, last: str) -> None:
    rounds = Rounds(COMMAND, secret=secret)
    rounds.machine.answers = {"look": [Answer(False, "exited with status 1", "looking\nno data\n")]}
    assert rounds.check().reason == f"`look` exited with status 1{last}"


@pytest.mark.parametrize(
    ("body", "secret", "shown"),
    [
        ("1.2\n", False, "; the body is `1.2`"),
        ('{"v":\n "1.2"}\x1b', False, '; the body is `{"v":\\n "1.2"}\\x1b`'),
        ("<p>" + "a" * 90, False, f"; the body is `<p>{'a' * 54}...`"),
        ("", False, ""),
        ("1.2", True, ""),
    ],
)
def test_a_body_without_the_pattern_is_shown(body: str, secret: bool, shown: str) -> None:
    rounds = Rounds(Probe.model_validate({"http": {"url": "http://127.0.0.1:81/", "body": "1.3"}}), secret=secret)
    wrong = Answer(False, "answered 200, without `1.3` in it", body, is_wrong=True)
    rounds.machine.answers = {"http http://127.0.0.1:81/": [wrong]}
    assert rounds.check().reason == f"http://127.0.0.1:81/: answered 200, without `1.3` in it{shown}"


@pytest.mark.parametrize(
    ("own", "probed", "covered"),
    [
        (Port(80), Port(80), True),
        (Port(80), Port(80, address="127.0.0.1"), True),
        (Port(80), Port(80, address="127.0.0.2"), False),
        (Port(80, address="127.0.0.1"), Port(80, address="127.0.0.1"), True),
        (Port(80, address="127.0.0.1"), Port(80, address="192.0.2.1"), False),
        (Port(80, address="127.0.0.1"), Port(80), False),
        (Port(80), Port(81), False),
        (Port(80, "udp"), Port(80), False),
    ],
)
def test_which_port_covers_which(own: Port, probed: Port, covered: bool) -> None:
    ownership = PortOwnership(own, Verdict.OWNED, "", apart=(Listener("tcp", "127.0.0.2", 80, 1),))
    assert port_covers(ownership, probed) is covered


def test_only_a_port_that_the_unit_need_not_own_is_judged() -> None:
    rounds = Rounds()
    service = rounds.machine.units["gw.service"]
    owned = rounds.machine.judge_port(service, Port(81))
    report = HealthReport(service, (owned,), Verdict.READY, "it runs")
    assert judge_extra_port(rounds.machine, report, None) is None
    assert judge_extra_port(rounds.machine, report, Port(81, address="127.0.0.1")) is None
    other = judge_extra_port(rounds.machine, report, Port(82))
    assert other is not None
    assert describe_foreign_answer(other) == ""
    assert "does not count" in describe_foreign_answer(replace(other, verdict=Verdict.ORPHAN_HOLDS_PORT))
