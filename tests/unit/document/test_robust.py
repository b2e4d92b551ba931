"""Every file is read, or refused with messages of this program: never a traceback, never a message of pydantic."""

from __future__ import annotations

import json
import os
import random
import re
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from runbook.document import MAX_PROBLEM_TEXT, parse, wording
from runbook.document.nodes import compose
from runbook.errors import DocumentError, Problem
from runbook.spec.runbook import Runbook
from runbook.steps import registry

ROOT = Path(__file__).parents[3]
FOLDERS = (ROOT / "runbooks", ROOT / "tests" / "cases" / "document")
SEEDS = [path.read_text() for folder in FOLDERS for path in sorted(folder.glob("*.yaml"))]

FOREIGN = re.compile(
    r"Input should|valid (?:integer|string|dictionary)|Extra inputs|Field required|Value error|Assertion|pydantic"
    r"|\bNone\b|\bdict\b|\bstr\b|\bint\b|\btuple\b|Traceback|object at 0x|jinja|yaml\.|cannot be read; see"
)
"""Words that must not be in a message: those of libraries, and those of the message of last resort."""

JUNK = [
    "", "~", "[]", "{}", "[[]]", "{a: b}", "-1", "0", "1.5", "99999999999999999999", "yes", "''", '"a\\nb"',
    "5 parsecs",
    "${{ vars.x }}", "'${{ unit'", "'${{ steps.restart.status }}'", "*a", "&a x", "!!int 5", "latest", "x" * 300,
    "| \n  text", "[restart]", "{restart: }", "'@'", "é", "\\", "null", "[1, [2]]", "{1: {2: 3}}", "? x", "<<: x",
]  # fmt: skip


def problems_of(text: str | bytes) -> list[Problem]:
    try:
        parse(text, "f", environ={})
    except DocumentError as error:
        return error.problems
    return []


def tree_of(text: str) -> Any:
    """Return one of the seeds as lists and mappings; None for a file that is wrong on purpose."""
    root = compose(text, [])
    return root.to_plain() if root is not None else None


def judge(text: str | bytes) -> None:
    """Read a file. If it is refused, check the messages and their positions."""
    problems = problems_of(text)
    assert problems == sorted(problems)
    lines = len(re.split(r"\r\n|[\n\r\x85\u2028\u2029]", text)) if isinstance(text, str) else 10**9
    for problem in problems:
        assert not FOREIGN.search(re.sub(r"`[^`]*`", "``", problem.message)), problem
        assert problem.message.isprintable()
        assert len(problem.message) <= MAX_PROBLEM_TEXT
        assert 1 <= problem.line <= lines + 1
        assert problem.column >= 1


MUTANTS = 10_000
"""The number of mutated files, over all seeds. RUNBOOK_MUTANTS sets another number."""

SEEDED = 40


def line_changed(chance: random.Random, lines: list[str]) -> None:
    """Change a line as a typing mistake would."""
    at = chance.randrange(len(lines))
    match chance.randrange(6):
        case 0:
            del lines[at]
        case 1:
            lines.insert(at, chance.choice(lines))
        case 2:
            lines[at] = " " * chance.randint(0, 6) + lines[at].lstrip()
        case 3:
            lines[at] = re.sub(r"(:\s+|-\s+).*", lambda m: m[1] + chance.choice(JUNK), lines[at], count=1)
        case 4:
            words = lines[at].split(" ")
            words[chance.randrange(len(words))] = chance.choice(JUNK)
            lines[at] = " ".join(words)
        case 5:
            cut = chance.randrange(len(lines[at]) + 1)
            lines[at] = lines[at][:cut] + chance.choice("[]{}:,'\"#&*!|>%@`-? \t\0\x85") + lines[at][cut:]


def text_changed(chance: random.Random) -> str:
    """Return one of the seeds with some lines changed."""
    lines = chance.choice(SEEDS).splitlines()
    for _ in range(chance.randint(1, 4)):
        line_changed(chance, lines)
        if not lines:
            break
    return "\n".join(lines)


ATOMS = [
    "", "~", "-1", "0", "1.5", "1e999", "9" * 40, "99999999999999999999", "yes", "off", "5 parsecs", "10min",
    "infinity", "x" * 300, "a\nb", "\x1b[31m", "\u202e", "../..", "--now", "%n", "*", "$(id)", "(a+)+$", "(",
    "[", "udp:53", "[::1]:80", "[::1%lo]:80", "http://[", "ftp://x", "ws://x:99999", "unix:/x", "latest", "1.0",
    "SIGKILL", "KILL", "root", "é", "\U0001f600", "null",
]  # fmt: skip
NAMES = [
    "vars.x",
    "vars.none",
    "env.HOME",
    "env.NONE",
    "unit",
    "port",
    "host",
    "run.id",
    "to",
    "from",
    "self",
    "1",
    "''",
    "[]",
]
FACTS = ["status", "changed", "verdict", "output", "from", "to", "nothing"]
JOINTS = [" == ", " ~ ", " and ", " or ", " if ", " else ", " in ", " + ", ".", " | ", ", ", " not "]
FILTERS = [
    " | raw",
    " | default('a')",
    " | upper",
    " | first",
    " | join(' ')",
    " | replace('a', 'b')",
    " | nothing",
    "[0]",
    "()",
]


def expression_of(chance: random.Random, ids: list[str]) -> str:
    """Return a random expression, from names and filters that are valid somewhere."""
    made = []
    for _ in range(chance.randint(1, 4)):
        name = f"steps.{chance.choice(ids)}.{chance.choice(FACTS)}" if chance.random() < 0.4 else chance.choice(NAMES)
        made.append(name + (chance.choice(FILTERS) if chance.random() < 0.3 else ""))
    return chance.choice(JOINTS).join(made)


def value_of(chance: random.Random, depth: int = 0) -> Any:
    """Return a random value: a word, a template, steps, or lists and mappings of these."""
    kind = chance.random()
    if kind < 0.45 or depth > 3:
        return chance.choice(ATOMS)
    if kind < 0.65:
        inner = expression_of(chance, IDS)
        return inner if chance.random() < 0.3 else f"a '${{{{ {inner} }}}}\" $(b ${{{{ {chance.choice(NAMES)} }}}})"
    if kind < 0.8:
        return [value_of(chance, depth + 1) for _ in range(chance.randint(0, 3))]
    if kind < 0.9:
        return [step_of(chance, depth + 1) for _ in range(chance.randint(0, 3))]
    return {chance.choice(KEYS): value_of(chance, depth + 1) for _ in range(chance.randint(0, 3))}


def step_of(chance: random.Random, depth: int = 0) -> Any:
    """Return a step of a random type, with fields of this type and of others."""
    kind = chance.choice(sorted(registry()))
    own = list(wording.fields_of(registry()[kind]))
    keys = chance.sample(own, chance.randint(0, min(5, len(own)))) + (
        [chance.choice(KEYS)] if chance.random() < 0.1 else []
    )
    return {kind: {key: value_of(chance, depth + 1) for key in keys}} if keys else kind


def node_changed(chance: random.Random, node: Any) -> Any:
    """Change a file's structure in one place: a value, a key, a step, or the order."""
    if isinstance(node, dict) and node and chance.random() < 0.8:
        key = chance.choice(list(node))
        match chance.randrange(8):
            case 0:
                return {k: v for k, v in node.items() if k != key}
            case 1:
                return {**node, chance.choice(KEYS): value_of(chance)}
            case 2:
                return {chance.choice(KEYS) if k == key else k: v for k, v in node.items()}
        return {**node, key: node_changed(chance, node[key])}
    if isinstance(node, list) and node and chance.random() < 0.8:
        at = chance.randrange(len(node))
        match chance.randrange(6):
            case 0:
                return node[:at] + node[at + 1 :]
            case 1:
                return [*node[:at], step_of(chance), *node[at:]]
            case 2:
                return chance.sample(node, len(node))
        return [*node[:at], node_changed(chance, node[at]), *node[at + 1 :]]
    return value_of(chance)


def structure_changed(chance: random.Random) -> str:
    """Return one of the seeds, changed but well-formed YAML, so that the checks behind the YAML reader are reached."""
    tree = chance.choice(TREES)
    for _ in range(chance.randint(1, 4)):
        tree = node_changed(chance, tree)
    return json.dumps(tree, ensure_ascii=False).replace("\\ud", "ud")


@pytest.mark.parametrize("seed", range(SEEDED))
def test_a_mutated_file(seed: int) -> None:
    chance = random.Random(seed)
    for number in range(int(os.environ.get("RUNBOOK_MUTANTS", MUTANTS)) // SEEDED):
        judge(structure_changed(chance) if number % 2 else text_changed(chance))


MODELS: list[type[BaseModel]] = [Runbook, *registry().values()]
KEYS = sorted({*registry(), "tcp", "http", "url", *(key for model in MODELS for key in wording.fields_of(model))})
IDS = ["restart", "update", "run", "remediate", "remediate.check.wait-ready", "always.run", "none", "x"]
TREES = [tree for tree in map(tree_of, SEEDS) if tree is not None]
scalars = st.sampled_from(JUNK) | st.text(max_size=8) | st.sampled_from(KEYS)
values = st.recursive(
    scalars | st.none() | st.integers() | st.booleans() | st.floats(allow_nan=False, allow_infinity=False),
    lambda inner: (
        st.lists(inner, max_size=4) | st.dictionaries(st.sampled_from(KEYS) | st.text(max_size=4), inner, max_size=4)
    ),
    max_leaves=20,
)
steps = st.lists(
    st.sampled_from(sorted(registry()))
    | st.dictionaries(
        st.sampled_from(sorted(registry())), st.dictionaries(st.sampled_from(KEYS), values, max_size=4), max_size=2
    ),
    max_size=4,
)


@settings(max_examples=80)
@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=5), steps)
def test_a_file_of_misplaced_keys(head: dict[str, object], body: list[object]) -> None:
    # JSON is YAML, apart from characters that no text file should hold.
    judge(json.dumps({**head, "steps": body}, ensure_ascii=True))


@settings(max_examples=80)
@given(st.text(max_size=200) | st.text(alphabet="steps:-[]{}&*!|>'\"%@#? \n\t,ab", max_size=120))
def test_any_text(text: str) -> None:
    judge(text)


@settings(max_examples=50)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    judge(data)
