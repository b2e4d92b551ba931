"""What a diagnosis consists of: plain values, for a report in text and in JSON."""

from __future__ import annotations

from collections.abc import Iterable
from enum import StrEnum
from typing import Any, NamedTuple

from runbook.doctor.ports import FoundPort
from runbook.host.facts import Unit
from runbook.host.holders import PortOwnership
from runbook.model import Verdict, frozen


class Severity(StrEnum):
    """How bad it is. The exit status is 0 for OK alone."""

    OK = "ok"
    WARNING = "warning"  # it runs, but something will go wrong later, or could not be seen
    PROBLEM = "problem"  # it does not do its work


def worst(severities: Iterable[Severity]) -> Severity:
    """Return the worst of some severities; OK if there is none."""
    return max(severities, key=[*Severity].index, default=Severity.OK)


class DropIn(NamedTuple):
    """A file that keeps a fault from coming back: it overrides settings of the unit's own file."""

    path: str
    text: str
    effect: str  # what it does, as a clause: "a stop kills every process of the unit"
    at_start: bool = False  # True if it has effect from the next start of the unit on


class Decision(NamedTuple):
    """What to decide or to find out before the commands are carried out, or instead."""

    text: str = ""
    commands: tuple[str, ...] = ()  # which show or do that


class Cause(NamedTuple):
    """Why a unit came into its state, as far as there is evidence."""

    sentence: str
    source: str  # the property, the file or the table that the evidence was read from
    severity: Severity = Severity.PROBLEM
    drop_in: DropIn | None = None
    prevention: str = ""  # what else keeps it from coming back
    is_effect: bool = False  # True if it follows from why the unit fails, as a start limit that is reached does

    @property
    def is_reason(self) -> bool:
        """True if it is why the unit fails."""
        return self.severity is Severity.PROBLEM and not self.is_effect

    def evidence(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {"severity": str(self.severity), "sentence": self.sentence, "source": self.source}


@frozen
class UnitDiagnosis:
    """What was found of one unit."""

    unit: Unit
    severity: Severity
    verdict: Verdict  # of the unit's health
    summary: str  # the finding in one sentence
    systemd: tuple[str, ...]  # what systemd reports, one clause a line
    kernel: tuple[str, ...]  # what the kernel reports, one clause a port
    found: tuple[FoundPort, ...]  # the unit's ports, and where each was found
    ports: tuple[PortOwnership, ...]  # the same ports, judged
    causes: tuple[Cause, ...] = ()
    commands: tuple[str, ...] = ()  # what fixes it now, in this order
    proved_restart: str = ""  # the command of this program that does the same and proves the result; empty if none does
    decision: Decision = Decision()  # what an operator has to decide first
    drop_in_commands: tuple[tuple[str, ...], ...] = ()  # for each drop-in file, what writes it and makes it count
    systemd_lines: tuple[str, ...] = ()  # what systemd logged of the unit
    journal: tuple[str, ...] = ()  # the last lines of the unit's own log
    unseen: tuple[str, ...] = ()  # what could not be read, and what would show it

    @property
    def is_healthy(self) -> bool:
        """True if nothing was found. What could not be read does not count as healthy."""
        return self.severity is Severity.OK and not self.unseen

    @property
    def drop_ins(self) -> tuple[DropIn, ...]:
        """The files that keep the causes from coming back."""
        return tuple(cause.drop_in for cause in self.causes if cause.drop_in is not None)

    @property
    def preventions(self) -> tuple[str, ...]:
        """What else keeps the causes from coming back."""
        return tuple(cause.prevention for cause in self.causes if cause.prevention)

    def evidence(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {
            "unit": self.unit.name,
            "scope": "user" if self.unit.of_user else "system",
            "healthy": self.is_healthy,
            "severity": str(self.severity),
            "verdict": str(self.verdict),
            "summary": self.summary,
            "systemd": self.unit.evidence(),
            "ports": [
                {**owner.evidence(), **found.evidence()} for found, owner in zip(self.found, self.ports, strict=True)
            ],
            "causes": [cause.evidence() for cause in self.causes],
            "commands": list(self.commands),
            "proved-restart": self.proved_restart,
            "advice": self.decision.text,
            "advice-commands": list(self.decision.commands),
            "drop-ins": [
                {**drop_in._asdict(), "commands": list(commands)}
                for drop_in, commands in zip(self.drop_ins, self.drop_in_commands, strict=True)
            ],
            "prevention": list(self.preventions),
            "journal": {"systemd": list(self.systemd_lines), "unit": list(self.journal)},
            "unseen": list(self.unseen),
        }


class FindingKind(StrEnum):
    """What is wrong on a machine."""

    FAILED = "unit-failed"  # a unit failed, or does not do its work
    LOOP = "crash-loop"  # systemd restarts a unit again and again
    RESTARTED = "restarted"  # systemd restarted a unit a short time ago
    FROZEN = "unit-frozen"  # a unit is frozen, or its processes are stopped
    STUCK = "unit-stuck"  # a start or a stop of a unit does not end
    ORPHAN = "orphan-holds-port"  # a process of no unit, which its parent has left, has a port
    LEFTOVER = "leftover"  # a process of an earlier invocation is in the cgroup of a unit
    OLD_CODE = "old-code-serving"  # a process executes files that were replaced
    START_LIMIT = "start-limit"  # hardly any start is left
    CHANGED_FILE = "changed-file"  # the file of a unit changed since systemd read it, or is gone
    TWO_MANAGERS = "two-managers"  # the system and a user manager have the same name or port


class MachineFinding(NamedTuple):
    """One thing that is wrong on a machine."""

    kind: FindingKind
    severity: Severity
    subject: str  # a unit, "port 8080" or "logins"
    reason: str  # what is wrong, in one sentence
    next: str  # the next command
    user: str = ""  # the user whose manager has the unit; empty for the system's
    advice: str = ""  # what to decide before the next command; empty if nothing

    def evidence(self) -> dict[str, str]:
        """Return it as JSON holds it."""
        return {name: str(value) for name, value in self._asdict().items()}


@frozen
class MachineDiagnosis:
    """What was found of a whole machine."""

    host: str
    services: int  # services that are not inactive, of all managers that were read
    ports: int  # ports on which something listens
    user_managers: int  # managers of users that were read
    findings: tuple[MachineFinding, ...]  # the worst first
    unseen: tuple[str, ...]  # what could not be read, and what would show it
    seconds: float  # how long it took

    @property
    def is_healthy(self) -> bool:
        """True if nothing was found, and all could be read."""
        return not self.findings and not self.unseen

    @property
    def healthy_services(self) -> int:
        """How many services nothing was found of."""
        named = {(one.user, one.subject) for one in self.findings if one.subject.endswith(".service")}
        return max(0, self.services - len(named))

    def count(self, severity: Severity) -> int:
        """Return how many findings are as bad as this."""
        return sum(one.severity is severity for one in self.findings)

    def evidence(self) -> dict[str, Any]:
        """Return it as JSON holds it."""
        return {
            "host": self.host,
            "severity": str(worst(one.severity for one in self.findings)),
            "healthy": self.is_healthy,
            "services": self.services,
            "healthy-services": self.healthy_services,
            "ports": self.ports,
            "user-managers": self.user_managers,
            "findings": [one.evidence() for one in self.findings],
            "unseen": list(self.unseen),
            "seconds": round(self.seconds, 3),
        }
