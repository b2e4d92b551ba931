"""Reads a YAML file into a Runbook, or reports every error in it with its position.

nodes.py       YAML into nodes, within limits
syntax.py      YAML's errors: where they were made, and what they are
outline.py     where the steps are, their types and ids
reader.py      the nodes into a Runbook
wording.py     pydantic's errors as sentences with positions
synonyms.py    words of other tools, and what a runbook has in their place
source.py      opens the file; every folder on the way to it
trust.py       whether root may run the file
notifications.py  `notify`, of a runbook and of the machine
reference.py   the JSON Schema, and the tables of fields

Two runbooks are written here, from what is found of a unit; they only read the machine:

restart.py     the runbook that `runbook restart` is; restart_ports.py: the ports that it demands
init/          the first runbook of a unit, for `runbook init`
quoting.py     texts as YAML and the shell read them
"""

from __future__ import annotations

import os
import socket
from collections.abc import Mapping
from pathlib import Path

from runbook.document.nodes import Node, Problems, compose
from runbook.document.reader import Reader
from runbook.document.source import Source, read_source
from runbook.document.synonyms import explain_top_level
from runbook.document.syntax import find_lookalikes
from runbook.document.wording import fields_of
from runbook.errors import DocumentError, Problem
from runbook.spec.runbook import Runbook
from runbook.steps import registry
from runbook.template.namespace import TemplateNamespace
from runbook.util.wording import shorten, split_hint

__all__ = ["Source", "parse", "read_source"]

MAX_PROBLEM_TEXT = 500  # characters of a message, which may quote the file


def parse(
    data: bytes | str,
    name: str = "runbook.yaml",
    *,
    sets: Mapping[str, str] | None = None,
    environ: Mapping[str, str] | None = None,
    host: str | None = None,
    folder: Path | None = None,
) -> Runbook:
    """Return the runbook in a text. `name` is the file for messages; its folder is the default of `folder`, the cwd.

    `sets` override the variables; `environ` is `env` in templates. Raises DocumentError with all errors of the file,
    and UsageError if a variable in `sets` does not exist.
    """
    problems: Problems = []
    book: Runbook | None = None
    root = compose(data, problems)
    if root is not None and not isinstance(root.value, dict):
        problems.append((root.position, _describe_root(root)))
    elif root is not None:
        namespace = TemplateNamespace(
            env=dict(os.environ if environ is None else environ),
            host=socket.gethostname() if host is None else host,
        )
        text = data.decode() if isinstance(data, bytes) else data
        book = Reader(root, registry(), namespace, problems).runbook(sets or {}, name, folder or _folder(name), text)
    if problems or book is None:
        named = find_lookalikes(data if isinstance(data, str) else data.decode(errors="replace"), problems)
        found = {Problem(name, at.line, at.column, *split_hint(shorten(what, MAX_PROBLEM_TEXT))) for at, what in named}
        raise DocumentError(sorted(found))
    return book


def _describe_root(root: Node) -> str:
    """Return what is wrong with a file that is no mapping."""
    how = ""
    if isinstance(root.value, list):
        first = root.value[0].value if root.value else None
        keys = first if isinstance(first, dict) else ()
        is_play = any(key in fields_of(Runbook) or explain_top_level(key) for key in keys)
        how = "; remove the `- ` in front of its keys" if is_play else "; write `steps:` above the list"
    return f"a runbook must be a mapping with keys such as `steps:`{how}"


def _folder(name: str) -> Path:
    """Return where the commands of a file start; those of standard input start in `/`."""
    return Path("/") if name == "-" else Path(name).absolute().parent
