"""Loads what a run may need later, before an upgrade can replace the files of this program.

What is loaded after that would be of another version, or missing. The upgrade may be a command of the run itself, or
one that an administrator or unattended-upgrades starts while the run waits.
"""

from __future__ import annotations

from collections.abc import Callable
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


LOAD_DELAY = 1.0  # seconds after which a run without a command loads them: many restarts are done by then


def load_late_modules(book: Runbook, call_later: Callable[[float, Callable[[], object]], None]) -> None:
    """Load the modules that are otherwise loaded when they are needed: at once if a runbook has a command, else later.

    `call_later` calls a function after so many seconds, while the run waits.
    """
    if any(map(runs_command, book.walk())):
        _load()
    else:
        call_later(LOAD_DELAY, _load)


def _load() -> None:
    tuple(registry().values())  # The steps of a rollback are of other types than those of the file.
    for name in LATE_MODULES:
        import_module(name)
