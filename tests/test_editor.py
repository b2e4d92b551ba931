"""The JSON Schema in an editor: the real yaml-language-server completes, explains and underlines a runbook."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runbook.document.reference import make_schema
from runbook.steps import registry

ASK = Path(__file__).parent / "validators" / "ask_server.cjs"
NODE_MODULES = Path(sys.prefix) / "node" / "node_modules"
# The first line of docs/how-to/write-a-runbook.md; `|` stands where the cursor is.
MODELINE = "# yaml-language-server: $schema=runbook.schema.json\n"
NEW_STEP = "unit: gateway\nsteps:\n  - |\n"
NEW_KEY = "unit: gateway\nsteps:\n  - verify-port-owner:\n      sha|\n"
NEW_VALUE = "unit: gateway\nsteps:\n  - wait-ready:\n      on-timeout: |\n"
ON_STEP = "unit: gateway\nsteps:\n  - kill-o|rphan:\n      grace: 5s\n"
ON_KEY = "unit: gateway\nsteps:\n  - wait-ready:\n      healthy|-for: 30s\n"
ON_PROBE = (
    "unit: gateway\nsteps:\n  - wait-ready:\n      probes:\n        - ht|tp:\n            url: http://localhost/\n"
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("editor")
    (made / "runbook.schema.json").write_text(json.dumps(make_schema()))
    return made


def ask(folder: Path, text: str, request: str = "hover") -> tuple[Any, list[dict[str, Any]]]:
    """Return the server's answer at the cursor, and its diagnostics of the file."""
    before, _, after = text.partition("|")
    file = folder / "gateway.yaml"
    file.write_text(MODELINE + before + after)
    place = [f"textDocument/{request}", before.count("\n") + 1, len(before.rpartition("\n")[2])]
    done = subprocess.run(
        ["node", ASK, file, json.dumps([place])],
        capture_output=True,
        text=True,
        check=True,
        timeout=120,
        env={**os.environ, "NODE_PATH": str(NODE_MODULES)},
    )
    result = json.loads(done.stdout)
    return result["answers"][0], result["diagnostics"]


def complete(folder: Path, text: str) -> dict[str, str]:
    """Return what the server offers at the cursor: the texts that it would insert, by label."""
    answer, _ = ask(folder, text, "completion")
    return {item["label"]: item["insertText"] for item in answer["items"]}


def test_a_new_step_is_completed_with_the_keys_that_it_needs(folder: Path) -> None:
    offered = complete(folder, NEW_STEP)
    assert set(offered) >= set(registry())
    assert re.findall(r"\$\{\d:(\w+)\}:", offered["update"]) == ["run", "to", "version"]


def test_a_key_is_completed(folder: Path) -> None:
    assert "shared-with" in complete(folder, NEW_KEY)


def test_a_value_is_completed(folder: Path) -> None:
    assert list(complete(folder, NEW_VALUE)) == ["leave", "fail"]


@pytest.mark.parametrize(
    ("text", "description", "example"),
    [
        (ON_STEP, "Kill the orphans and leftovers that hold the port", "unit: nginx.service"),
        (ON_KEY, "How long it must be healthy without interruption", "30s"),
        (ON_PROBE, "Sends a GET request to an HTTP server", "url: http://127.0.0.1:8080/health"),
    ],
)
def test_a_key_under_the_cursor_is_explained(folder: Path, text: str, description: str, example: str) -> None:
    answer, diagnostics = ask(folder, text)
    shown = answer["contents"]["value"].replace("\\", "")
    assert description in shown
    assert example in shown
    assert diagnostics == []


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ("unit: gateway\nsteps:\n  - restrat|\n", 'Valid values: "daemon-reload"', (3, 4)),
        ("unit: gateway\nsteps:\n  - start:\n      timout|: 3s\n", "Property timout is not allowed", (4, 6)),
        ("unit: gateway\nstpes|:\n  - start\n", "Property stpes is not allowed", (2, 0)),
        ("unit: gateway\nsteps:\n  - update|: {run: apt, version: app}\n", 'Missing property "to"', (3, 4)),
    ],
)
def test_a_mistake_is_underlined(folder: Path, text: str, message: str, place: tuple[int, int]) -> None:
    _, diagnostics = ask(folder, text)
    found = {(d["range"]["start"]["line"], d["range"]["start"]["character"]): d["message"] for d in diagnostics}
    assert message in found[place], found
