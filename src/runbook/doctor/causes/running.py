"""What is wrong with a unit that runs: its processes, its own file, its program, its settings."""

from __future__ import annotations

from collections.abc import Iterator

from runbook.checks.exit_reason import describe_unit_file
from runbook.doctor.facts import UnitFacts
from runbook.doctor.findings import Cause, Severity
from runbook.host.facts import UP
from runbook.model import Verdict


def find_changed_file(facts: UnitFacts) -> Iterator[Cause]:
    """Yield what is wrong with the file of a running unit."""
    if facts.unit.is_running and (why := describe_unit_file(facts.unit)):
        yield Cause(why, "NeedDaemonReload" if facts.unit.need_daemon_reload else "LoadState", Severity.WARNING)


def find_standstill(facts: UnitFacts) -> Iterator[Cause]:
    """Yield that the unit is frozen, or its main process stopped."""
    if facts.health.verdict is Verdict.UNIT_FROZEN:
        yield Cause(facts.health.reason, f"FreezerState, /proc/{facts.unit.main_pid}/stat")


def find_old_code(facts: UnitFacts) -> Iterator[Cause]:
    """Yield that the main process is older than its program, or executes a file that is gone or was replaced."""
    unit = facts.unit
    if why := facts.old_program:
        read = f"/proc/{unit.main_pid}/exe, ExecStart="
        yield Cause(f"{why}: the old code still runs", read, Severity.WARNING)
    elif names := facts.replaced_libraries:
        why = f"the main process, PID {unit.main_pid}, runs code that was replaced since it began: {names}"
        yield Cause(why, f"/proc/{unit.main_pid}/maps", Severity.WARNING)


def find_taken_ports(facts: UnitFacts) -> Iterator[Cause]:
    """Yield a port that the configuration names and another unit has, while this one listens nowhere."""
    for owner in facts.taken:
        what = f"its configuration names port {owner.port}, and {facts.unit.name} listens on no port: {owner.reason}"
        yield Cause(what, "ExecStart=, Environment=, the cgroup of the holder", Severity.WARNING)


def find_unused_ports(facts: UnitFacts) -> Iterator[Cause]:
    """Yield a port that the configuration names, and on which the unit does not listen."""
    if facts.unit.active_state not in UP or facts.health.verdict is not Verdict.READY:
        return
    for found, owner in zip(facts.found, facts.ports, strict=True):
        if not found.is_certain and owner.verdict is Verdict.NOT_LISTENING:
            named = " and ".join(found.sources)
            yield Cause(
                f"{named} names port {found.port}, and {facts.unit.name} does not listen there", named, Severity.WARNING
            )
