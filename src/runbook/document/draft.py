"""The places of a runbook that its author must complete, as `runbook init` marks them."""

from __future__ import annotations

FILL_IN = "FILL IN"  # marks each place


def count_missing(text: str) -> list[int]:
    """Return the numbers of the lines that are to be filled in, as an editor counts them."""
    return [at for at, line in enumerate(text.splitlines(), 1) if f"# {FILL_IN}:" in line]


def describe_missing(text: str) -> str:
    """Return which lines are to be filled in; empty if none is."""
    missing = count_missing(text)
    lines = ", ".join(map(str, missing))
    are = f"line {lines} is" if len(missing) == 1 else f"lines {lines} are"
    return f"{are} still marked {FILL_IN}" if missing else ""
