"""The command that comes next after a check that found a failure, with the options of the check."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from runbook.engine.execution.outcome import Outcome
from runbook.host.holders import NEEDS_ROOT
from runbook.spec.step import Remedy, ReplacesVersion, Runbook


def describe_missing_rights(failures: Iterable[Outcome], book: Runbook, options: Sequence[str]) -> str:
    """Return the check as root, if processes could not be read because only root can; else an empty text."""
    if not any(NEEDS_ROOT in outcome.reason for outcome in failures):
        return ""
    return f"sudo {_write_command('check', book, options)} reads every process"


def describe_remediation(book: Runbook, remedy: Remedy, options: Sequence[str]) -> str:
    """Return the command that begins the fix, and first the one that upgrades, if the runbook has an update.

    Before the upgrade, a check of the new version fails although nothing is to be fixed.
    """
    fixes = ", ".join(fix.title for fix in remedy.fixes)
    command = _write_command("remediate", book, options)
    if any(isinstance(step, ReplacesVersion) for step in book.steps):
        upgrade = f"{_write_command('apply', book, options)} carries out the upgrade"
        return f"{upgrade}; {command} checks again, and fixes only what runs now: {fixes}"
    return f"{command} checks again, and fixes only if a check fails: {fixes}"


def _write_command(verb: str, book: Runbook, options: Sequence[str]) -> str:
    return shlex.join(["runbook", verb, *options, book.path])
