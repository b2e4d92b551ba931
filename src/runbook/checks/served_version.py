"""Judge which version is being served: by the age of the processes, and by an answer of the running service."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from runbook.checks.health import HealthReport
from runbook.checks.versions import change_evidence, describe_new_code, describe_old_code, find_servers, find_version
from runbook.host.interface import HostView
from runbook.host.queries import Answer, LatestChangeQuery, Query
from runbook.model import Finding, Verdict, Wake, fails, holds, not_yet

Evidence = Mapping[str, Any]


def judge_code_age(
    view: HostView, report: HealthReport, paths: tuple[str, ...], query_id: int, limit: float, facts: Evidence
) -> Finding:
    """Return whether the processes that serve started after the last change of the files."""
    unit, found = report.unit, find_servers(view, report.unit, report.ports)
    if not found and report.ports and unit.name.endswith(".socket"):
        idle = f"no process serves on the sockets of {unit.name} yet"
        return holds(Verdict.VERSION_OK, f"{idle}: the next connection starts a new process", **facts)
    if not found:
        why = f"no process of {unit.name} is known to serve: it has no main process, and holds no port"
        return fails(Verdict.VERSION_MISMATCH, why, **facts)
    answer = view.query(Query(LatestChangeQuery(paths), query_id, limit))
    if answer is None:
        return await_answer(f"looking at {', '.join(paths)}")
    if (change := answer.value) is None:
        return fails(Verdict.VERSION_MISMATCH, f"cannot determine how old the code is: {answer.detail}", **facts)
    facts = {**facts, **change_evidence(change), "servers": [server.evidence() for server in found]}
    if why := describe_old_code(found, change):
        return fails(Verdict.OLD_CODE_SERVING, f"{why}; a restart brings the new code up", **facts)
    return holds(Verdict.VERSION_OK, describe_new_code(found, change), **facts)


def judge_answer(label: str, answer: Answer[str], pattern: str, wanted: str | None, facts: Evidence) -> Finding:
    """Return whether the answer of the running service contains the wanted version."""
    if not answer.ok:
        return fails(Verdict.PROBE_FAILED, f"{label} {answer.detail}", **facts)
    found = find_version(answer.value or "", pattern)
    facts = {**facts, "version": found, "expected": wanted}
    if found is None:
        return fails(Verdict.VERSION_MISMATCH, f"{label} returns no version", **facts)
    if found != wanted:
        return fails(Verdict.VERSION_MISMATCH, f"{found} serves, not {wanted}", **facts)
    return holds(Verdict.VERSION_OK, f"{found} serves", **facts)


def await_answer(what: str) -> Finding:
    """Wait for an answer that a query returns later."""
    return not_yet(Verdict.VERSION_MISMATCH, what, Wake(pending=True))
