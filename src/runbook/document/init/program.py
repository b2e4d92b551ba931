"""Which file a unit runs: the program of its main process, or the script that an interpreter runs.

The unit's file belongs to its administrator, the process to its user: only the first names a file that may be run.
"""

from __future__ import annotations

import os
import re
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import NamedTuple

from runbook.host.facts import Unit
from runbook.host.holders import Process

_INTERPRETER = re.compile(r"(?:python|perl|ruby|php|node|nodejs|bash|dash|sh|java|deno|bun|lua)[\d.]*")
APP_SERVERS = frozenset(
    ("gunicorn", "uvicorn", "hypercorn", "daphne", "waitress-serve", "uwsgi", "celery", "flask", "puma", "unicorn")
)
"""Programs that only serve an application, which is what is upgraded."""


class Program(NamedTuple):
    """What a unit runs."""

    named: str = ""  # the path in ExecStart=: of the program, or of the script that an interpreter runs
    real: str = ""  # the same, with all links resolved
    exe: str = ""  # the program of the main process, if that is no interpreter and can be read
    interpreter: str = ""  # the path of the interpreter, if there is one
    module: str = ""  # of `python -m MODULE`

    @property
    def name(self) -> str:
        """Its file name, or that of the module."""
        return self.module.partition(".")[0] or PurePosixPath(self.exe or self.named).name

    @property
    def serves_an_app(self) -> bool:
        """True if it is a server for an application of another kind."""
        return self.name in APP_SERVERS or PurePosixPath(self.named).name in APP_SERVERS


def is_interpreter(path: str) -> bool:
    """True if a program runs scripts."""
    return _INTERPRETER.fullmatch(PurePosixPath(path).name) is not None


def find_program(unit: Unit, main: Process | None) -> Program:
    """Return what a unit runs; `main` is its main process, if it has one that can be read."""
    words = unit.start_arguments
    exe = main.exe_path if main is not None else ""
    first = words[0] if words and words[0].startswith("/") else ""
    if exe and not is_interpreter(exe):
        return Program(first, _resolve(first), exe)
    if first and not is_interpreter(first):
        return Program(first, _resolve(first), interpreter=exe)
    script, module = _find_script(words)
    return Program(script, _resolve(script), interpreter=first or exe, module=module)


def _find_script(words: Sequence[str]) -> tuple[str, str]:
    """Return the script and the module that an interpreter is to run; empty for what is not named."""
    for at, word in enumerate(words[1:], 1):
        if word == "-m" and at + 1 < len(words):
            return "", words[at + 1]
        if word.startswith("/") and not is_interpreter(word):
            return word, ""
    return "", ""


def _resolve(path: str) -> str:
    return os.path.realpath(path) if path else ""
