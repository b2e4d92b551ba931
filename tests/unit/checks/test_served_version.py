"""Which version is being served, by the answer of the service and by the age of its processes."""

from __future__ import annotations

import pytest

from runbook.checks.health import HealthReport
from runbook.checks.served_version import await_answer, judge_answer, judge_code_age
from runbook.checks.versions import VERSION
from runbook.host.facts import Unit
from runbook.host.holders import PortOwnership
from runbook.host.queries import Answer
from runbook.model import Port, Verdict
from tests.unit.fake_machine import FakeMachine, unit


@pytest.mark.parametrize(
    ("answer", "verdict"),
    [
        (Answer(True, "", "version 1.1.0"), "version-ok"),
        (Answer(True, "", "version 1.0.0"), "version-mismatch"),
        (Answer(True, "", "hello"), "version-mismatch"),
        (Answer[str](False, "timed out"), "probe-failed"),
    ],
)
def test_an_answer_must_contain_the_wanted_version(answer: Answer[str], verdict: str) -> None:
    assert judge_answer("http://x/", answer, VERSION, "1.1.0", {}).verdict == verdict


@pytest.mark.parametrize(
    ("of", "verdict", "reason"),
    [
        (unit(main_pid=0), "version-mismatch", "no process of gw.service is known to serve"),
        (unit("gw.socket", main_pid=0), "version-ok", "the next connection starts a new process"),
    ],
)
def test_without_a_process_there_is_no_age(of: Unit, verdict: str, reason: str) -> None:
    owned = (PortOwnership(Port(80), Verdict.OWNED, ""),)
    report = HealthReport(of, owned, Verdict.READY, "")
    found = judge_code_age(FakeMachine(), report, ("/opt/app",), 1, 60.0, {})
    assert found.verdict == verdict
    assert reason in found.reason


def test_an_answer_that_is_awaited_is_pending() -> None:
    wake = await_answer("asking it").wake
    assert wake is not None
    assert wake.pending
