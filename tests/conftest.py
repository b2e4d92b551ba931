"""The summary line of each tier of the tests, which `make test` prints at its end."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

_STARTED = time.monotonic()


def pytest_addoption(parser: pytest.Parser) -> None:
    """Add `--tally TIER=FILE`."""
    parser.addoption("--tally", metavar="TIER=FILE", help="append a line to FILE: the tier, its tests, its time")


def pytest_terminal_summary(terminalreporter: pytest.TerminalReporter, config: pytest.Config) -> None:
    """Append the line. With several workers, only their controller does so, as it has all results."""
    tally: str | None = config.getoption("--tally")
    if tally is None or hasattr(config, "workerinput"):
        return
    tier, _, path = tally.partition("=")
    stats = terminalreporter.stats
    count = {outcome: len(stats.get(outcome, [])) for outcome in ("passed", "failed", "error", "skipped")}
    others = ", ".join(f"{number} {outcome}" for outcome, number in count.items() if number and outcome != "passed")
    line = tally_line(tier, sum(count.values()), time.monotonic() - _STARTED)
    with Path(path).open("a") as file:
        file.write(f"{line}{others and f' ({others})'}\n")


def tally_line(tier: str, tests: int, seconds: float) -> str:
    """Return a line such as `machine     1138 tests   12 min 31 s`."""
    minutes, rest = divmod(round(seconds), 60)
    return f"{tier:<10} {tests:>5} tests  {minutes:>3} min {rest:>2} s"
