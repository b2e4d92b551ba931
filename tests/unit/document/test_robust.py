"""Whatever stands in a file, it is read or refused in words of our own: never a traceback, never pydantic's text."""

from __future__ import annotations

import json
import random
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import BaseModel

from runbook.document import LONGEST, parse, wording
from runbook.errors import DocumentError, Problem
from runbook.step import Runbook, registry

ROOT = Path(__file__).parents[3]
FOLDERS = (ROOT / "runbooks", ROOT / "tests" / "cases" / "document")
SEEDS = [path.read_text() for folder in FOLDERS for path in sorted(folder.glob("*.yaml"))]

FOREIGN = re.compile(
    r"Input should|valid (?:integer|string|dictionary)|Extra inputs|Field required|Value error|Assertion|pydantic"
    r"|\bNone\b|\bdict\b|\bstr\b|\bint\b|\btuple\b|Traceback|object at 0x|jinja|yaml\.|cannot be read as it stands"
)
"""What no message may hold: the words of libraries, and what is said when no words were found."""

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


def judge(text: str | bytes) -> None:
    """Read a file; if it is refused, look at how."""
    problems = problems_of(text)
    assert problems == sorted(problems)
    lines = len(re.split(r"\r\n|[\n\r\x85\u2028\u2029]", text)) if isinstance(text, str) else 10**9
    for problem in problems:
        assert not FOREIGN.search(re.sub(r"`[^`]*`", "``", problem.message)), problem
        assert problem.message.isprintable()
        assert len(problem.message) <= LONGEST
        assert 1 <= problem.line <= lines + 1
        assert problem.column >= 1


@pytest.mark.parametrize("seed", range(40))
def test_a_file_in_which_something_was_changed(seed: int) -> None:
    chance = random.Random(seed)
    for _ in range(15):
        lines = chance.choice(SEEDS).splitlines()
        for _ in range(chance.randint(1, 4)):
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
            if not lines:
                break
        judge("\n".join(lines))


MODELS: list[type[BaseModel]] = [Runbook, *registry().values()]
KEYS = sorted({*registry(), "tcp", "http", "url", *(key for model in MODELS for key in wording.keys_of(model))})
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


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.sampled_from(KEYS), values, max_size=5), steps)
def test_a_file_of_words_that_belong_elsewhere(head: dict[str, object], body: list[object]) -> None:
    # JSON is YAML, apart from characters that no text file should hold.
    judge(json.dumps({**head, "steps": body}, ensure_ascii=True))


@settings(max_examples=80, deadline=None)
@given(st.text(max_size=200) | st.text(alphabet="steps:-[]{}&*!|>'\"%@#? \n\t,ab", max_size=120))
def test_any_text(text: str) -> None:
    judge(text)


@settings(max_examples=50, deadline=None)
@given(st.binary(max_size=200))
def test_any_bytes(data: bytes) -> None:
    judge(data)
