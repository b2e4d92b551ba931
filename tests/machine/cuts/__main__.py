"""Cuts runs short in each way, after each event and between events, on both suites at once.

    python -m tests.machine.cuts [SEED] [--only KIND] [--suite SUITE] [--every N]

It prints the seed of its random numbers, a line for each kind of cut, each run with a wrong outcome, and a table. With
the same seed it cuts at the same moments.
"""

from __future__ import annotations

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tests.machine.cuts.cuts import (
    DISTURBANCES,
    ENDS,
    Facts,
    Order,
    at_once,
    judge,
    lanes,
    length,
    power_cut,
    prepare,
    several,
)
from tests.machine.machine import Machine
from tests.machine.tree import SUITES

LATEST = 0.5
"""The largest number of seconds after an event for a cut between events."""

HURRY = 2.0
"""Seconds within which an interrupted run must exit. One is promised, but here eight runs share two cores."""

Cutter = Callable[[str, list[Order]], Iterator[Facts]]


@dataclass(frozen=True)
class Kind:
    """A way to cut runs short."""

    cut: Cutter
    how: str = ""
    later: bool = False
    alone: bool = False  # the run must continue by itself, without a resume
    whole: bool = True  # runs are cut after their last event, too
    every: int = 1  # runs are cut after every Nth event


@dataclass
class Row:
    """The figures of one kind on one suite."""

    kind: str
    suite: str
    points: int = 0
    right: int = 0
    asked: int = 0
    over: int = 0
    slowest: float = 0.0
    seconds: float = 0.0


def _in_lanes(suite: str, orders: list[Order]) -> Iterator[Facts]:
    with Machine(suite) as machine:
        prepare(machine)
        with lanes(machine) as made:
            yield from several(made, orders)


def _disturbed(argv: Sequence[str], suite: str, orders: list[Order]) -> Iterator[Facts]:
    with Machine(suite) as machine:
        prepare(machine)
        with lanes(machine) as made:
            yield from at_once(made, orders, lambda: machine.popen(argv))


def _without_power(suite: str, orders: list[Order], *, enabled: bool) -> Iterator[Facts]:
    with tempfile.TemporaryDirectory() as disk:
        yield from power_cut(suite, Path(disk), orders, enabled=enabled)


KINDS: dict[str, Kind] = {
    "SIGKILL": Kind(_in_lanes, how="kill"),
    "SIGKILL between": Kind(_in_lanes, how="kill", later=True, whole=False),
    "SIGTERM": Kind(_in_lanes, how="term"),
    "SIGINT": Kind(_in_lanes, how="int", every=3),
    "dbus": Kind(partial(_disturbed, DISTURBANCES["dbus"]), alone=True),
    "daemon-reload": Kind(partial(_disturbed, DISTURBANCES["daemon-reload"]), alone=True, every=3),
    "daemon-reexec": Kind(partial(_disturbed, DISTURBANCES["daemon-reexec"]), alone=True, every=3),
    "power": Kind(partial(_without_power, enabled=True), whole=False, every=3),
    "power, not enabled": Kind(partial(_without_power, enabled=False), whole=False, every=3),
}


def _lengths(suite: str) -> dict[str, int]:
    """Return the number of events of each runbook without a cut."""
    with Machine(suite) as machine:
        prepare(machine)
        with lanes(machine) as made:
            return {book: length(made[0], book) for book in ENDS}


def _orders(kind: Kind, lengths: dict[str, int], chance: random.Random, every: int) -> list[Order]:
    return [
        {"book": book, "how": kind.how, "at": at, "later": chance.uniform(0, LATEST) if kind.later else 0.0}
        for book in ENDS
        for at in range(1, lengths[book] + kind.whole, every * kind.every)
    ]


def _wrong(kind: Kind, facts: Facts) -> list[str]:
    wrong = judge(facts)
    if kind.alone and len(facts.get("exits", ())) > 1:
        wrong.append(f"it did not continue by itself: {facts['exits']}")
    if kind.how in ("term", "int") and facts.get("ended-in", 0.0) > HURRY:
        wrong.append(f"it exited only after {facts['ended-in']} s")
    return wrong


def _judged(row: Row, kind: Kind, came: Iterable[Facts]) -> Row:
    """Judge the outcome of each run, and print those that are wrong."""
    began = time.monotonic()
    for facts in came:
        row.points += 1
        row.asked += "asked" in facts
        row.over += not kind.whole and len(facts.get("exits", ())) == kind.later
        row.slowest = max(row.slowest, facts.get("ended-in", 0.0))
        if wrong := _wrong(kind, facts):
            print(f"  wrong: {row.kind}, {row.suite}, {facts.get('book')} at {facts.get('at')}: {wrong}", flush=True)
            print(f"    {json.dumps(facts)}", flush=True)
        row.right += not wrong
    row.seconds = time.monotonic() - began
    print(
        f"{row.suite}, {row.kind}: {row.right} of {row.points} ended right, {row.asked} asked for --rerun, "
        f"{row.seconds:.0f} s",
        flush=True,
    )
    return row


def _round(suite: str, seed: str, kinds: Sequence[str], every: int) -> list[Row]:
    """Cut runs in the given ways on one suite."""
    lengths, rows = _lengths(suite), []
    for name in kinds:
        kind = KINDS[name]
        orders = _orders(kind, lengths, random.Random(f"{seed} {suite} {name}"), every)
        row = Row(name, suite)
        rows.append(row)
        try:
            _judged(row, kind, kind.cut(suite, orders))
        except Exception as error:  # A failure of the machine must not prevent the other kinds.
            row.points = len(orders)
            print(f"  wrong: {name}, {suite}: {type(error).__name__}: {error}", flush=True)
    return rows


def _table(rows: Iterable[Row]) -> Iterator[str]:
    yield f"{'kind':<20}{'suite':<10}{'points':>7}{'right':>7}{'--rerun':>9}{'too late':>10}{'seconds':>9}"
    for row in rows:
        late = row.over or ""
        yield (f"{row.kind:<20}{row.suite:<10}{row.points:>7}{row.right:>7}{row.asked:>9}{late:>10}{row.seconds:>9.0f}")


def main() -> int:
    """Run all cuts. Return 1 if a run had a wrong outcome."""
    parser = argparse.ArgumentParser(prog="make cuts")
    parser.add_argument("seed", nargs="?", default=str(int(time.time())))
    parser.add_argument("--only", action="append", choices=KINDS, help="only this kind")
    parser.add_argument("--suite", action="append", choices=SUITES, help="only this suite")
    parser.add_argument("--every", type=int, default=1, help="cut after every Nth event only")
    arguments = parser.parse_args()
    suites, kinds = arguments.suite or SUITES, arguments.only or list(KINDS)
    print(f"seed {arguments.seed}", flush=True)
    began = time.monotonic()
    with ThreadPoolExecutor(len(suites)) as threads:
        both = threads.map(lambda suite: _round(suite, arguments.seed, kinds, arguments.every), suites)
        rows = sorted((row for rows in both for row in rows), key=lambda row: kinds.index(row.kind))
    print()
    for line in _table(rows):
        print(line)
    points, right = sum(row.points for row in rows), sum(row.right for row in rows)
    print(f"\n{right} of {points} ended right, seed {arguments.seed}, {time.monotonic() - began:.0f} s")
    return 0 if right == points else 1


if __name__ == "__main__":
    sys.exit(main())
