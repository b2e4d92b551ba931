"""The basic types of the program: verdicts, findings, ports, deadlines and clocks."""

from __future__ import annotations

import copy
import pickle
import time
from collections.abc import Callable
from dataclasses import FrozenInstanceError, asdict, dataclass, field, replace
from typing import Any

import pytest

from runbook.model import (
    Deadline,
    FindingState,
    Port,
    SystemClock,
    Verdict,
    Wake,
    fails,
    frozen,
    holds,
    not_yet,
    to_do,
)
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


@dataclass(frozen=True)
class Generated:
    """What @frozen is compared with."""

    name: str
    size: int = 1
    notes: tuple[str, ...] = field(default=(), compare=False)
    words: dict[str, str] = field(default_factory=dict, hash=False)
    last: bool = field(default=False, kw_only=True)


@frozen
class Shared:
    """The same with @frozen."""

    name: str
    size: int = 1
    notes: tuple[str, ...] = field(default=(), compare=False)
    words: dict[str, str] = field(default_factory=dict, hash=False)
    last: bool = field(default=False, kw_only=True)


@frozen
class Empty:
    """No fields."""


Behaviour = Callable[[Any], Any]
BEHAVIOURS: dict[str, Behaviour] = {
    "positions": lambda kind: asdict(kind("a", 2, ("n",), {"k": "v"})),
    "names": lambda kind: asdict(kind(size=3, name="a", last=True)),
    "defaults": lambda kind: asdict(kind("a")),
    "a default of its own": lambda kind: kind("a").words is kind("a").words,
    "repr": lambda kind: repr(kind("a", last=True)).partition("(")[2],
    "equal": lambda kind: kind("a", notes=("n",)) == kind("a"),
    "not equal": lambda kind: kind("a", words={"k": "v"}) == kind("a"),
    "of another class": lambda kind: kind("a") == "a",
    "hash": lambda kind: hash(kind("a", words={"k": "v"})) == hash(kind("a", notes=("n",))),
    "another hash": lambda kind: hash(kind("a")) == hash(kind("b")),
    "replace": lambda kind: asdict(replace(kind("a"), size=5)),
    "copy": lambda kind: asdict(copy.deepcopy(kind("a", words={"k": "v"}))),
    "pickle": lambda kind: asdict(pickle.loads(pickle.dumps(kind("a", 4)))),
    "match": lambda kind: kind.__match_args__,
}


@pytest.mark.parametrize("behaviour", BEHAVIOURS.values(), ids=BEHAVIOURS)
def test_a_frozen_class_behaves_as_a_frozen_dataclass(behaviour: Behaviour) -> None:
    assert behaviour(Shared) == behaviour(Generated)


MISTAKES: dict[str, tuple[Behaviour, type[Exception]]] = {
    "missing": (lambda kind: kind(size=1), TypeError),
    "unknown": (lambda kind: kind("a", other=1), TypeError),
    "unknown instead of missing": (lambda kind: kind(other=1), TypeError),
    "too many": (lambda kind: kind("a", 1, (), {}, True), TypeError),
    "twice": (lambda kind: kind("a", name="b"), TypeError),
    "change": (lambda kind: setattr(kind("a"), "name", "b"), FrozenInstanceError),
    "another field": (lambda kind: setattr(kind("a"), "other", "b"), FrozenInstanceError),
    "deletion": (lambda kind: delattr(kind("a"), "name"), FrozenInstanceError),
}


@pytest.mark.parametrize(("mistake", "error"), MISTAKES.values(), ids=MISTAKES)
def test_a_frozen_class_refuses_what_a_frozen_dataclass_refuses(mistake: Behaviour, error: type[Exception]) -> None:
    for kind in (Shared, Generated):
        with pytest.raises(error):
            mistake(kind)


def test_a_frozen_class_keeps_the_methods_that_it_defines() -> None:
    @frozen
    class Named:
        name: str

        def __repr__(self) -> str:
            return self.name

    assert repr(Named("a")) == "a"
    assert Empty() == Empty()
    assert hash(Empty()) == hash(Empty())
