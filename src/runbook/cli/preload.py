"""Loads what a run may need later, before one of its commands can replace the files of this program.

An upgrade may upgrade `runbook` too: what is loaded after that would be of another version, or missing.
"""

from __future__ import annotations

from importlib import import_module

from runbook.engine.changed_services import runs_command
from runbook.spec.runbook import Runbook
from runbook.steps import registry

LATE_MODULES = (
    "difflib",
    "email.message",
    "email.utils",
    "tenacity",
    "textwrap",
    "traceback",
    "unicodedata",
    "runbook.engine.diagnosis",
    "runbook.engine.notify",
    "runbook.engine.rollback",
    "runbook.host.journal.search",
    "runbook.host.runners.http",
    "runbook.host.runners.websocket",
)
"""The modules that are imported inside functions of a run, because most runs need few of them."""


def load_late_modules(book: Runbook) -> None:
    """Load the modules that are otherwise loaded when they are needed, if a runbook has a command."""
    if any(map(runs_command, book.walk())):
        tuple(registry().values())  # The steps of a rollback are of other types than those of the file.
        for name in LATE_MODULES:
            import_module(name)
