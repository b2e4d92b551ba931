"""A YAML file into a Runbook, or every mistake in it with its place.

nodes.py     YAML into nodes, within bounds; the only importer of yaml
outline.py   which steps stand where, and their ids
reader.py    the nodes into a Runbook
wording.py   pydantic's findings in words
"""

from __future__ import annotations

import os
import socket
import stat
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from runbook.document.nodes import MAX_BYTES, Problems, compose
from runbook.document.reader import Reader
from runbook.errors import DocumentError, Problem, UsageError
from runbook.spec.step import Runbook
from runbook.steps import registry
from runbook.template import TemplateScope
from runbook.util.wording import shorten

MAX_MESSAGE = 500
"""Characters of a message, whatever the file makes it quote."""


@dataclass(frozen=True)
class Source:
    """A file as it was read, in one go. `status` tells whose it was then; standard input has none."""

    path: str
    data: bytes
    status: os.stat_result | None


def read_source(path: str, stdin: BinaryIO | None = None) -> Source:
    """Read a file, `-` being standard input. No more is read than a runbook may hold.

    Raises UsageError if it cannot be read.
    """
    try:
        if path == "-":
            return Source(path, (stdin or sys.stdin.buffer).read(MAX_BYTES + 1), None)
        with Path(path).open("rb") as file:
            status = os.fstat(file.fileno())
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError
            return Source(path, file.read(MAX_BYTES + 1), status)
    except (OSError, ValueError) as error:
        raise UsageError(f"cannot read {path}: {_cause(error)}") from error


def load(
    path: str,
    *,
    sets: Mapping[str, str] | None = None,
    stdin: BinaryIO | None = None,
    environ: Mapping[str, str] | None = None,
) -> Runbook:
    """Read a runbook. `sets` override its variables; `environ` is what templates know as `env`.

    Raises DocumentError with all of its problems, UsageError if it cannot be read or has no such variable.
    """
    source = read_source(path, stdin)
    return parse(source.data, path, sets=sets, environ=environ)


def parse(
    data: bytes | str,
    name: str = "runbook.yaml",
    *,
    sets: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    host: str | None = None,
    folder: Path | None = None,
) -> Runbook:
    """Read a runbook from memory. `name` is what messages call it; commands start in `folder`, by default its own."""
    problems: Problems = []
    book: Runbook | None = None
    root = compose(data, problems)
    if root is not None and not isinstance(root.value, dict):
        problems.append((root.position, "a runbook is a mapping of keys to values (`steps:` and more)"))
    elif root is not None:
        scope = TemplateScope(
            env=dict(os.environ if environ is None else environ),
            host=socket.gethostname() if host is None else host,
        )
        text = data.decode() if isinstance(data, bytes) else data
        book = Reader(root, registry(), scope, problems).runbook(sets or {}, name, folder or _folder(name), text)
    if problems or book is None:
        raise DocumentError(
            sorted({Problem(name, p.line, p.column, shorten(said, MAX_MESSAGE)) for p, said in problems})
        )
    return book


def _folder(name: str) -> Path:
    try:
        return Path.cwd() if name == "-" else Path(name).absolute().parent
    except FileNotFoundError:
        raise UsageError(f"cannot read {name}: the folder that this was started in is gone") from None


def _cause(error: Exception) -> str:
    if isinstance(error, FileNotFoundError):
        return "no such file"
    if isinstance(error, PermissionError):
        return "permission denied"
    if isinstance(error, IsADirectoryError):
        return "it is a folder"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return "no such file"


__all__ = ["Source", "load", "parse", "read_source"]
