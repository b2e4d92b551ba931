"""Carries out attempts on both suites at once, and counts what is wrong.

    python -m tests.machine.attempts [SEED] [--count N] [--suite SUITE] [--only HOLDER] [--facts FILE]

It prints the seed of its random numbers, each attempt with a wrong outcome, and a table by holder. With the same seed
and suites it draws the same scenes.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from itertools import islice
from pathlib import Path

from tests.machine.attempts.attempts import LANES, attempt, lanes, prepare
from tests.machine.attempts.oracle import CLASSES, judge
from tests.machine.attempts.scene import HOLDERS, Scene, scenes
from tests.machine.cuts.cuts import Facts
from tests.machine.machine import Machine
from tests.machine.tree import SUITES

OF_A_MACHINE = 100
"""Attempts in one machine. Then the next one boots, so that the journal and the failed units do not grow."""


def _drawn(seed: str, suite: str, count: int, only: Sequence[str]) -> list[Scene]:
    return list(islice((scene for scene in scenes(f"{seed} {suite}") if not only or scene.holder in only), count))


def _on(suite: str, drawn: Sequence[Scene], count: int) -> Iterator[Facts]:
    """Carry out scenes in one machine after the other."""
    for begin in range(0, len(drawn), OF_A_MACHINE):
        with Machine(suite) as machine:
            prepare(machine)
            with lanes(machine, count) as made:
                for facts in attempt(made, drawn[begin : begin + OF_A_MACHINE]):
                    yield {**facts, "suite": suite}


def _table(counts: dict[str, Counter[str]]) -> Iterator[str]:
    yield f"{'holder':<20}{'attempts':>9}" + "".join(f"{name:>14}" for name in CLASSES)
    total: Counter[str] = Counter()
    for holder in HOLDERS:
        if counts[holder]:
            total.update(counts[holder])
            yield _row(holder, counts[holder])
    yield _row("all", total)


def _row(name: str, counted: Counter[str]) -> str:
    return f"{name:<20}{counted['attempts']:>9}" + "".join(f"{counted[one]:>14}" for one in CLASSES)


def _count(came: Iterable[Facts], counts: dict[str, Counter[str]], facts_file: Path | None) -> None:
    for facts in came:
        holder = facts["scene"]["holder"]
        counts[holder]["attempts"] += 1
        wrong = judge(facts)
        counts[holder].update({name for name, _ in wrong})
        counts[holder].update(f"ended {facts['last']['status']}" for _ in [0] if "last" in facts)
        for name, what in wrong:
            print(f"{name}, {facts['suite']}: {what}\n  {json.dumps(facts['scene'])}", flush=True)
        if facts_file:
            with facts_file.open("a") as out:
                out.write(json.dumps({**facts, "wrong": wrong}) + "\n")


def main() -> int:
    """Carry out the attempts. Return 1 if one had a wrong outcome."""
    parser = argparse.ArgumentParser(prog="make attempts")
    parser.add_argument("seed", nargs="?", default=str(int(time.time())))
    parser.add_argument("--count", type=int, default=1000, help="the number of attempts on all suites")
    parser.add_argument("--suite", action="append", choices=SUITES, help="only this suite")
    parser.add_argument("--only", action="append", choices=HOLDERS, default=[], help="only this holder")
    parser.add_argument("--lanes", type=int, default=LANES, help="attempts at a time in each machine")
    parser.add_argument("--facts", type=Path, help="append the facts of each attempt to this file")
    arguments = parser.parse_args()
    suites = arguments.suite or SUITES
    print(f"seed {arguments.seed}", flush=True)
    began = time.monotonic()
    counts: dict[str, Counter[str]] = defaultdict(Counter)

    def on(suite: str) -> None:
        drawn = _drawn(arguments.seed, suite, arguments.count // len(suites), arguments.only)
        _count(_on(suite, drawn, arguments.lanes), counts, arguments.facts)

    with ThreadPoolExecutor(len(suites)) as threads:
        list(threads.map(on, suites))
    for line in _table(counts):
        print(line)
    print(f"\nseed {arguments.seed}, {time.monotonic() - began:.0f} s")
    return 1 if any(counted[name] for counted in counts.values() for name in CLASSES) else 0


if __name__ == "__main__":
    sys.exit(main())
