"""What a run may need is loaded before an upgrade can replace the files of this program."""

from __future__ import annotations

import ast
import json
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

import runbook
from runbook.cli.preload import LATE_MODULES
from runbook.steps import registry

SOURCE = Path(runbook.__file__).parent
OF_A_RUN = ("actions", "checks", "engine", "host", "records", "steps", "util")
LOADED = """\
import json, sys
from runbook.cli.preload import load_late_modules
from runbook import document
later = []
load_late_modules(document.parse(sys.argv[1]), lambda seconds, load: later.append(load))
print(json.dumps(list(sys.modules)))
for load in later:
    load()
print(json.dumps(list(sys.modules)))
"""


def late_imports() -> Iterator[str]:
    """Yield the names of the modules that functions of a run import."""
    for path in (path for folder in OF_A_RUN for path in (SOURCE / folder).rglob("*.py")):
        for function in ast.walk(ast.parse(path.read_text())):
            if isinstance(function, ast.FunctionDef):
                for node in ast.walk(function):
                    if isinstance(node, ast.Import):
                        yield from (alias.name for alias in node.names)
                    elif isinstance(node, ast.ImportFrom):
                        of_modules = (SOURCE.parent / (node.module or "").replace(".", "/")).is_dir()
                        yield from (
                            (f"{node.module}.{alias.name}" for alias in node.names)
                            if of_modules
                            else (str(node.module),)
                        )


def test_each_module_that_a_run_imports_late_is_listed() -> None:
    assert sorted(set(late_imports()) - set(LATE_MODULES)) == []


@pytest.mark.parametrize(
    ("steps", "at_once"),
    [("[restart, wait-ready]", False), ("[run: {run: apt-get upgrade}]", True)],
    ids=["no command", "a command"],
)
def test_they_are_loaded_before_a_command_or_while_the_run_waits(steps: str, at_once: bool) -> None:
    argv = [sys.executable, "-c", LOADED, f"unit: gw\nsteps: {steps}\n"]
    printed = subprocess.run(argv, capture_output=True, text=True, check=True).stdout
    loaded, loaded_later = (set(json.loads(line)) for line in printed.splitlines())
    late = {*LATE_MODULES, *(cls.__module__ for cls in registry().values())}
    assert late.issubset(loaded) is at_once
    assert "runbook.host.runners.websocket" not in loaded or at_once
    assert late.issubset(loaded_later)
