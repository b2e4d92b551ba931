"""The basic types of the program: verdicts, findings, ports, deadlines and clocks."""

from __future__ import annotations

import time

import pytest

from runbook.model import Deadline, FindingState, Port, SystemClock, Verdict, Wake, fails, holds, not_yet, to_do
from tests.unit.fake_machine import FakeClock


@pytest.mark.parametrize(
    ("port", "text"),
    [
        (Port(80), "80"),
        (Port(53, "udp"), "udp:53"),
        (Port(80, address="127.0.0.1"), "127.0.0.1:80"),
        (Port(80, address="::1"), "[::1]:80"),
        (Port(53, "udp", "127.0.0.1"), "udp:127.0.0.1:53"),
        (Port(53, "udp", "::1"), "udp:[::1]:53"),
    ],
)
def test_a_port_is_printed_as_in_a_runbook(port: Port, text: str) -> None:
    assert str(port) == text


def test_a_verdict_has_a_meaning() -> None:
    assert Verdict("owned") is Verdict.OWNED
    assert all(verdict.meaning for verdict in Verdict)


def test_each_function_returns_its_kind_of_finding() -> None:
    wake = Wake(within=0.5)
    found = [
        holds(Verdict.OWNED, "a", port=80),
        to_do(Verdict.OWNED, "b"),
        fails(Verdict.OWNED, "c"),
        not_yet(Verdict.OWNED, "d", wake),
    ]
    assert [one.state for one in found] == [
        FindingState.HOLDS, FindingState.TO_DO, FindingState.FAILS, FindingState.NOT_YET
    ]  # fmt: skip
    assert [one.wake for one in found] == [None, None, None, wake]
    assert found[0].evidence == {"port": 80}


def test_an_expired_deadline_has_no_time_left() -> None:
    clock = FakeClock()
    deadline = Deadline.after(clock, 5.0)
    assert (deadline.remaining, deadline.expired) == (5.0, False)
    clock.time += 6.0
    assert (deadline.remaining, deadline.expired) == (0.0, True)


def test_the_system_clock_reads_both_clocks() -> None:
    clock, before = SystemClock(), (time.monotonic(), time.time())
    assert before[0] <= clock.monotonic() <= time.monotonic()
    assert before[1] <= clock.now() <= time.time()
