"""The command that comes next after a check that found a failure, with the options of the check."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Sequence

from runbook.engine.execution.outcome import Outcome
from runbook.host.facts import DOWN
from runbook.host.holders import NEEDS_ROOT, Role
from runbook.model import Verdict
from runbook.spec.runbook import Runbook
from runbook.spec.step import Remedy, ReplacesVersion

STRAYS = (Verdict.ORPHAN_HOLDS_PORT, Verdict.LEFTOVER_HOLDS_PORT, Verdict.PORT_SHARED, Verdict.START_LIMIT_HIT)
"""Verdicts of which a process that a fix kills may be the cause."""


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


def describe_fix(outcome: Outcome, command: str, book: Runbook) -> str:
    """Return what a command would fix after a step has failed; empty if it would not help."""
    held = [(port["port"], one) for port in outcome.evidence.get("ports", ()) for one in port["holders"]]
    strays = [(port, one) for port, one in held if one["role"] in (Role.ORPHAN, Role.LEFTOVER)]
    if outcome.verdict in STRAYS and strays:
        if spared := next((one for _, one in strays if "spared" in one), None):
            return f"PID {spared['pid']} would not be killed: {spared['spared']}"
        pids = [*dict.fromkeys(str(one["pid"]) for _, one in strays)]
        ports = [*dict.fromkeys(port for port, _ in strays)]
        kills = f"kills PID {', '.join(pids)} on port {', '.join(ports)}"
        return f"{command} stops {book.unit}, {kills}, and starts it again"
    is_down = outcome.evidence.get("ActiveState") in DOWN
    if outcome.verdict is Verdict.START_LIMIT_HIT and is_down:
        return f"find out why it was started so often; {command} clears the start limit and starts it again"
    return ""


def _write_arguments(book: Runbook, options: Sequence[str]) -> str:
    return shlex.join([*options, book.path])
