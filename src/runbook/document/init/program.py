"""Which file a unit runs: the program of its main process, or the script that an interpreter runs.

The unit's file belongs to its administrator, the process to its user: only the first names a file that may be run. A
runbook has the path as it is in ExecStart=: an upgrade may flip a link on it, such as /opt/gw/current.
"""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Sequence
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from runbook.document.source import MAX_FOLLOWED_LINKS
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
    target: str = ""  # the file that `named` leads to, if only its own links are followed, and not those of its folders

    @property
    def name(self) -> str:
        """Its file name, or that of the module."""
        return self.module.partition(".")[0] or PurePosixPath(self.exe or self.named).name

    @property
    def serves_an_app(self) -> bool:
        """True if it is a server for an application of another kind."""
        return self.name in APP_SERVERS or PurePosixPath(self.named).name in APP_SERVERS

    def keep_links(self, path: str) -> str:
        """Return a path as ExecStart= has it, if it is the program's."""
        return self.named if self.named and os.path.realpath(path) == self.real else path


def is_interpreter(path: str) -> bool:
    """True if a program runs scripts."""
    return _INTERPRETER.fullmatch(PurePosixPath(path).name) is not None


def find_program(unit: Unit, main: Process | None) -> Program:
    """Return what a unit runs; `main` is its main process, if it has one that can be read."""
    words = unit.start_arguments
    exe = main.exe_path if main is not None else ""
    first = words[0] if words and words[0].startswith("/") else ""
    if exe and not is_interpreter(exe):
        return _resolve(Program(first, exe=exe))
    if first and not is_interpreter(first):
        return _resolve(Program(first, interpreter=exe))
    script, module = _find_script(words)
    return _resolve(Program(script, interpreter=first or exe, module=module))


def _find_script(words: Sequence[str]) -> tuple[str, str]:
    """Return the script and the module that an interpreter is to run; empty for what is not named."""
    for at, word in enumerate(words[1:], 1):
        if word == "-m" and at + 1 < len(words):
            return "", words[at + 1]
        if word.startswith("/") and not is_interpreter(word):
            return word, ""
    return "", ""


def _resolve(program: Program) -> Program:
    """Return a program with the paths that its links lead to."""
    if not program.named:
        return program
    real, target = os.path.realpath(program.named), Path(program.named)
    with contextlib.suppress(OSError):  # EINVAL: it is no link.
        for _ in range(MAX_FOLLOWED_LINKS):
            target = Path(os.path.normpath(target.parent / target.readlink()))
    # Behind a linked folder, `..` leads elsewhere.
    return program._replace(real=real, target=str(target) if os.path.realpath(target) == real else real)
