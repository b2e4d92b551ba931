"""A sample of the attempts of `make attempts`: no wrong kill, no false ready, no false failed, no traceback.

Each commit draws its own sample. The output of a failure has the seed, with which the same scenes are drawn again:

    python -m tests.machine.attempts SEED --count N
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from itertools import islice

import pytest

from tests.machine.attempts.attempts import attempt, lanes, prepare
from tests.machine.attempts.oracle import judge
from tests.machine.attempts.scene import scenes
from tests.machine.cuts.cuts import Lane
from tests.machine.machine import Machine
from tests.machine.tree import CHECKOUT

SIZE = 8


def commit() -> str:
    """Return the commit that is checked out, or a constant where there is none."""
    argv = ["git", "-C", str(CHECKOUT), "rev-parse", "--short=12", "HEAD"]
    return subprocess.run(argv, capture_output=True, text=True, check=False).stdout.strip() or "1"


@pytest.fixture(scope="module")
def open_lanes(machine: Machine) -> Iterator[list[Lane]]:
    prepare(machine)
    with lanes(machine) as made:
        yield made


def test_a_sample(open_lanes: list[Lane], suite: str) -> None:
    seed = f"{commit()} {suite}"
    print(f"seed {seed}")
    wrong = []
    for facts in attempt(open_lanes, list(islice(scenes(seed), SIZE))):
        wrong += [(facts["scene"], facts["port"], *one) for one in judge(facts)]
    assert wrong == [], json.dumps(wrong, indent=1)
