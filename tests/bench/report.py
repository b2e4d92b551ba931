"""Prints the figures of a bench as tables, and whether each requirement holds."""

from __future__ import annotations

import statistics
from collections.abc import Iterable, Mapping, Sequence

Figures = dict[str, list[float]]
"""What each program took, round after round: seconds, or another unit."""

WIDTH = 36


def table(title: str, took: Figures, *, against: Sequence[str], unit: str = "ms", factor: float = 1e3) -> None:
    """Print the median and the extremes of each program, and the ratio to the medians of others.

    A figure times the factor is what is printed, in the unit.
    """
    medians = {name: statistics.median(seconds) for name, seconds in took.items()}
    print(f"\n{title}\n")
    print(f"{unit:{WIDTH}}{'median':>10}{'least':>10}{'most':>10}{'rounds':>8}", end="")
    print("".join(f"{'x ' + other:>24}" for other in against))
    for name, seconds in took.items():
        figures = (medians[name], min(seconds), max(seconds))
        print(f"{name:{WIDTH}}" + "".join(f"{figure * factor:10.2f}" for figure in figures), end="")
        print(f"{len(seconds):8}" + "".join(f"{medians[name] / medians[other]:24.3f}" for other in against))


def growth(title: str, sizes: Mapping[int, Figures]) -> None:
    """Print the medians at each size side by side, and the ratio of the last to the first."""
    print(f"\n{title}\n")
    print(f"{'ms, median':{WIDTH}}" + "".join(f"{size:10}" for size in sizes) + f"{'grows':>10}")
    first, *_, last = sizes.values()
    for name in first:
        medians = [statistics.median(took[name]) for took in sizes.values()]
        grows = statistics.median(last[name]) / statistics.median(first[name])
        print(
            f"{name:{WIDTH}}" + "".join(f"{median * 1e3:10.2f}" for median in medians) + f"{'x' + f'{grows:.1f}':>10}"
        )


def claims(found: Iterable[tuple[str, float, float]]) -> None:
    """Print for each requirement whether it holds, the ratio, the largest ratio allowed, and its description."""
    print("\nWhat is required\n")
    for words, ratio, most in found:
        print(f"{'holds' if ratio <= most else 'DOES NOT HOLD':14} {ratio:7.3f}, at most {most:g}: {words}")
