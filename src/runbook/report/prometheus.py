"""The diagnosis of a whole machine for Prometheus, as a file of the textfile collector of its node exporter."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from runbook.doctor.findings import MachineDiagnosis, Severity
from runbook.util.stdio import escape_controls

PREFIX = "runbook_doctor"

Sample = tuple[Mapping[str, str], float]  # The labels and the value


def format_metrics(found: MachineDiagnosis, now: float) -> str:
    """Return the diagnosis in the text format of Prometheus. `now` is in seconds since the epoch.

    Each metric has a HELP and a TYPE line, and no sample has a time: the textfile collector refuses those.
    """
    return "".join(f"{line}\n" for metric in _list_metrics(found, now) for line in _format(*metric))


def _list_metrics(found: MachineDiagnosis, now: float) -> Iterator[tuple[str, str, list[Sample]]]:
    """Yield the name, the help text and the samples of each metric. All are gauges."""
    bad = [severity for severity in Severity if severity is not Severity.OK]
    labels = [
        {
            "kind": str(one.kind),
            "severity": str(one.severity),
            "unit": _escape(one.subject),
            "user": _escape(one.user),
        }
        for one in found.findings
    ]
    yield "healthy", "1 if nothing was found and all could be read, else 0.", [({}, float(found.is_healthy))]
    yield (
        "findings",
        "Findings of each severity.",
        [({"severity": str(severity)}, found.count(severity)) for severity in bad],
    )
    # The same labels twice are no valid file: a unit may have two findings of a kind, and names may be escaped alike.
    distinct = {tuple(one.items()): one for one in labels}.values()
    yield "finding", "1 for each finding, with the unit or the port that it is about.", [(one, 1) for one in distinct]
    yield "unseen", "Things that could not be read, and do not count as healthy.", [({}, len(found.unseen))]
    yield "services", "Services that are not inactive.", [({}, found.services)]
    yield "listening_ports", "Ports on which a process listens.", [({}, found.ports)]
    yield "user_managers", "Managers of users that were read.", [({}, found.user_managers)]
    yield "duration_seconds", "How long the diagnosis took.", [({}, round(found.seconds, 3))]
    yield "last_run_timestamp_seconds", "When the diagnosis was made, since the epoch.", [({}, round(now))]


def _format(name: str, help_text: str, samples: list[Sample]) -> Iterator[str]:
    if not samples:
        return
    yield f"# HELP {PREFIX}_{name} {help_text}"
    yield f"# TYPE {PREFIX}_{name} gauge"
    for labels, value in samples:
        inner = ",".join(f'{key}="{text}"' for key, text in labels.items())
        yield f"{PREFIX}_{name}{f'{{{inner}}}' if inner else ''} {value:.15g}"


def _escape(text: str) -> str:
    """Escape the value of a label."""
    printable = text.encode("utf-8", "backslashreplace").decode("utf-8")
    return escape_controls(printable).replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
