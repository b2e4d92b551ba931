"""A sample of the attempts of `make attempts`: no wrong kill, no false ready, no false failed, no traceback.

Each commit draws its own sample. The output of a failure has the seed, with which the same scenes are drawn again:

    python -m tests.machine.attempts SEED --count N
"""

from __future__ import annotations

import json
import random
import subprocess
from collections.abc import Iterator
from itertools import islice
from typing import Any

import pytest

from tests.machine.attempts.attempts import attempt, lanes, prepare
from tests.machine.attempts.oracle import FALSE_FAILED, FALSE_READY, OTHER, TRACEBACK, WRONG_KILL, judge
from tests.machine.attempts.scene import HOLDERS, NEW, OLD, draw, scenes
from tests.machine.cuts.cuts import Lane
from tests.machine.machine import Machine
from tests.machine.tree import CHECKOUT

SIZE = 6  # attempts on each suite, four at a time

LIVES = {"serves": NEW, "state": "active (running)"}
LOOKED = {"exit": 1, "serves": "", "changed": False, "ended": [], "steps": [], "traceback": False}
HONEST: dict[str, Any] = {
    "wrongly": {}, "down": [], "traceback": False, "stderr": "", "looked": {}, "stable": True, "truth": LIVES,
    "exit": 0, "last": {"event": "run-finished", "status": "changed", "reason": ""},
}  # fmt: skip
SCENE = draw(random.Random("a scene"), "free")


def ended(status: str, exit_status: int, serves: str = "", **changes: Any) -> dict[str, Any]:
    """Return the facts of a run that ended with a status while a version is served."""
    last = {"event": "run-finished", "status": status, "reason": ""}
    return {**HONEST, "exit": exit_status, "last": last, "truth": {**LIVES, "serves": serves}, **changes}


LIES: dict[str, tuple[dict[str, Any], dict[str, Any], str]] = {
    "a kill": ({}, {**HONEST, "wrongly": {"7": ["python3", "/other.service"]}}, WRONG_KILL),
    "a stop": ({}, {**HONEST, "down": ["innocent@1.service"]}, WRONG_KILL),
    "a kill by a dry run": (
        {"first": "dry-run"},
        {**HONEST, "looked": {**LOOKED, "exit": 0, "ended": ["python3"]}},
        WRONG_KILL,
    ),
    "nothing serves": ({}, ended("changed", 0), FALSE_READY),
    "the old version serves": ({}, ended("remediated", 0, OLD), FALSE_READY),
    "it serves no longer": ({}, ended("ok", 0, NEW, stable=False), FALSE_READY),
    "not rolled back": ({"does": "crash"}, ended("rolled-back", 4, NEW), FALSE_READY),
    "a check that passes": ({"first": "check"}, {**HONEST, "looked": {**LOOKED, "exit": 0}}, FALSE_READY),
    "a version that is not right": ({"does": "no-pings"}, ended("changed", 0, NEW), FALSE_READY),
    "it serves": ({"holder": "dying", "book": "plain"}, ended("failed", 1, NEW), FALSE_FAILED),
    "it would serve": ({"does": "serves"}, ended("failed", 1), FALSE_FAILED),
    "it would be rolled back": ({"does": "crash", "rollback": True}, ended("failed", 1), FALSE_FAILED),
    "it may become ready": ({"does": "silent"}, ended("failed", 1), FALSE_FAILED),
    "a traceback": ({}, {**HONEST, "stderr": "Traceback (most recent call last):"}, TRACEBACK),
    "another status": ({}, {**HONEST, "exit": 7}, OTHER),
    "no end": ({}, {**HONEST, "hung": "runbook apply"}, OTHER),
}


@pytest.mark.parametrize("name", LIES)
def test_the_oracle_finds(name: str) -> None:
    changes, facts, expected = LIES[name]
    scene = {**SCENE.facts, "does": "serves", "first": "", **changes}
    assert [found for found, _ in judge({**facts, "scene": scene})] == [expected]


def test_the_oracle_passes_an_honest_run() -> None:
    assert judge({**HONEST, "scene": {**SCENE.facts, "does": "serves", "first": ""}}) == []
    assert judge({**ended("rolled-back", 4, OLD), "scene": {**SCENE.facts, "does": "crash", "first": ""}}) == []
    last = {
        "event": "run-finished",
        "status": "failed",
        "reason": "…; and the rollback is not proved: innocent@2.service …",
    }
    beside = {**ended("failed", 1), "last": last, "port": 1}
    assert judge({**beside, "scene": {**SCENE.facts, "does": "crash", "rollback": True, "first": ""}}) == []
    # Beside a service that shares the port, nothing asks for the version.
    shared = {**SCENE.facts, "does": "serves", "shared": True, "first": "check"}
    assert judge({**HONEST, "scene": shared, "looked": {**LOOKED, "exit": 0, "serves": OLD}}) == []


def test_the_scenes_of_a_seed_are_the_same_and_have_each_holder() -> None:
    first, second = ([*islice(scenes("a seed"), 2 * len(HOLDERS))] for _ in range(2))
    assert first == second
    assert {scene.holder for scene in first[: len(HOLDERS)]} == set(HOLDERS)


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
    seed = commit()
    print(f"seed {seed}")
    wrong = []
    for facts in attempt(open_lanes, list(islice(scenes(f"{seed} {suite}"), SIZE))):
        wrong += [(facts["scene"], facts["port"], *one) for one in judge(facts)]
    assert wrong == [], json.dumps(wrong, indent=1)
