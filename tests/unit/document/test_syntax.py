"""Where an error of YAML is reported, for both of PyYAML's loaders; whole files are in tests/cases/document."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
import yaml

from runbook.document import nodes, parse
from runbook.document.syntax import Position, find_lookalikes
from runbook.errors import DocumentError

CASES = sorted((Path(__file__).parents[2] / "cases" / "document").glob("yaml-*.yaml"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_the_loader_in_python_leads_to_the_same_line(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "_LOADER", yaml.SafeLoader)
    text = path.read_text()
    lines = [int(line) for line in re.findall(r"^# (\d+):", text, re.MULTILINE)]
    with pytest.raises(DocumentError) as caught:
        parse(text, environ={})
    assert [problem.line for problem in caught.value.problems] == lines


@pytest.mark.parametrize(
    "text",
    [
        'unit: gw\nname: "upgrade\n  the gateway"\nsteps: [restart]\n',
        "unit: gw\nname: 'a\n\n  b: c'\nsteps: [restart]\n",
        "unit: gw\nsteps: [\n  restart,\n  stop\n]\n",
        "unit: gw\nsteps:\n  - run: {run: echo\n      --force}\n",
        "unit: gw\nsteps:\n  - run:\n      run: |\n        cat <<X\n        \ta: b\n        X\n",
        "unit: gw\nname: L\u2019upgrade\u00a0!\nsteps: [restart]\n",
        "unit: gw\nsteps:\n  - run:\n      run: 'true'\t# a tab\n",
    ],
)
def test_what_only_looks_unusual_is_accepted(text: str) -> None:
    assert parse(text, environ={}).steps


def test_a_lookalike_inside_a_text_is_not_the_cause() -> None:
    problem = (Position(1, 1), "why")
    assert list(find_lookalikes("name: 'a\u00a0b' # \u2013\n", [problem])) == [problem]
    ((place, sentence),) = find_lookalikes("name:\u00a0a\n", [problem])
    assert place == Position(1, 6)
    assert "U+00A0 (no-break space)" in sentence
