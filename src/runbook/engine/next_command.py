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
    return f"sudo runbook check {_write_arguments(book, options)} reads every process"


def describe_remediation(book: Runbook, remedy: Remedy, options: Sequence[str]) -> str:
    """Return the command that begins the fix, and first the one that upgrades, if the runbook has an update.

    Before the upgrade, a check of the new version fails although nothing is to be fixed.
    """
    fixes = ", ".join(fix.title for fix in remedy.fixes)
    arguments = _write_arguments(book, options)
    again = f"runbook remediate {arguments} checks again, and fixes only"
    if any(isinstance(step, ReplacesVersion) for step in book.steps):
        return f"runbook apply {arguments} carries out the upgrade; {again} what runs now: {fixes}"
    return f"{again} if a check fails: {fixes}"


def _write_arguments(book: Runbook, options: Sequence[str]) -> str:
    return shlex.join([*options, book.path])
