"""Why a unit came into its state: one function for each cause, which returns it only if its evidence is there."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from runbook.checks.exit_reason import describe_unit_file
from runbook.doctor.facts import UnitFacts
from runbook.doctor.findings import Cause, DropIn, Severity
from runbook.host.cgroups import CgroupKind, parse_cgroup_path
from runbook.host.facts import UP, Unit
from runbook.host.holders import DELETED, Holder, Role
from runbook.host.ownership.describe import describe_processes
from runbook.model import Verdict
from runbook.util.timespan import format_span

FEW_STARTS = 1  # starts left of the start limit from which a warning is due


def find_causes(facts: UnitFacts) -> tuple[Cause, ...]:
    """Return all causes of which there is evidence, the most immediate first."""
    return tuple(cause for find in CAUSES for cause in find(facts))


def find_orphans(facts: UnitFacts) -> Iterator[Cause]:
    """Yield, for each orphan on a port, where it was started."""
    for holder in facts.strays:
        if holder.role is not Role.ORPHAN:
            continue
        process = holder.process
        copy = ", a copy of the unit's own program," if facts.runs_same_program(process) else ""
        began, read = _describe_origin(holder)
        effect = ""
        if facts.is_refused(holder):
            effect = f"; each start of {facts.unit.name} finds {facts.held_ports(holder)} in use, and exits"
        instead = f"start it only through systemd ({facts.unit.systemctl_command('start')}), never in a login"
        yield Cause(f"{process}{copy} {began}{effect}", read, prevention=instead if copy else "")


def _describe_origin(holder: Holder) -> tuple[str, str]:
    """Return where an orphan was started, and the files that show it."""
    process, place = holder.process, parse_cgroup_path(holder.process.cgroup)
    read = f"/proc/{process.pid}/cgroup"
    match place.kind:
        case CgroupKind.SESSION:
            began = f"was started in a login of {process.user} ({place.unit})"
        case CgroupKind.SCOPE:
            began = f"runs in {place.unit} of {process.user}, a scope and no service"
        case _:
            began = f"runs in {process.cgroup}, which belongs to no service"
    if not process.environment:
        return began, read  # Its environment could not be read, or is empty.
    if process.invocation_id:
        began += ", but a unit started it before: it has INVOCATION_ID, and left the cgroup of that unit"
    else:
        began += ", and not by a unit: it has no INVOCATION_ID"
    return began, f"{read}, /proc/{process.pid}/environ"


def find_two_managers(facts: UnitFacts) -> Iterator[Cause]:
    """Yield that a unit of another manager has the same name, and holds the port."""
    unit = facts.unit
    for holder in facts.rivals:
        is_users = holder.is_user_unit(unit.of_user)
        if holder.unit == unit.name and holder.role is Role.OTHER_UNIT and is_users != unit.of_user:
            theirs = f"the user manager of {holder.process.user}" if is_users else "the system"
            manager = f" --user -M {holder.process.user}@" if is_users else ""
            yield Cause(
                f"{theirs} has a unit of the same name, which holds {facts.held_ports(holder)}",
                f"/proc/{holder.process.pid}/cgroup",
                prevention=f"keep one of the two: systemctl{manager} disable --now {unit.name} removes the other",
            )
            return


def find_leftovers(facts: UnitFacts) -> Iterator[Cause]:
    """Yield that processes of an earlier invocation are left in the unit's cgroup, and which setting spared them."""
    unit, left = facts.unit, [one for one in facts.leftovers if one.may_be_killed]
    if not left:
        return
    what = (
        f"{describe_processes(left)} of an earlier invocation {'is' if len(left) == 1 else 'are'} still in its cgroup"
    )
    if unit.kill_mode in ("process", "none"):
        spared = "every other process" if unit.kill_mode == "process" else "every process"
        setting, why = f"KillMode={unit.kill_mode}", f"a stop spares {spared} of the unit"
        drop_in = _drop_in(
            unit, "kill-mode", "Service", {"KillMode": "control-group"}, "a stop kills all its processes"
        )
    elif not unit.send_sigkill:
        setting, why = "SendSIGKILL=no", "a stop does not kill what ignores SIGTERM"
        drop_in = _drop_in(unit, "kill-mode", "Service", {"SendSIGKILL": "yes"}, "a stop kills what ignores SIGTERM")
    else:
        yield Cause(what, f"/sys/fs/cgroup{unit.control_group}/cgroup.procs", Severity.WARNING)
        return
    severity = Severity.PROBLEM if any(one.sockets for one in left) else Severity.WARNING
    yield Cause(f"{what}: with {setting} {why}", setting.partition("=")[0] + "=", severity, drop_in)


def find_start_limit(facts: UnitFacts) -> Iterator[Cause]:
    """Yield that the start limit is reached, or nearly."""
    unit, budget = facts.unit, facts.journal.budget
    limit = f"{unit.start_limit_burst} starts in {format_span(unit.start_limit_interval_usec / 1e6)}"
    source = "StartLimitBurst=, StartLimitIntervalSec="
    if facts.is_limit_reached:
        yield Cause(f"the start limit ({limit}) is reached: systemd refuses to start {unit.name}", source)
    elif budget is not None and budget.used > 1 and budget.remaining <= FEW_STARTS:
        next_one = "one more start is left" if budget.remaining else "systemd refuses the next one"
        sure = "" if budget.certain >= budget.used else ", unless its counter was reset since"
        over = f"; that is over in {format_span(budget.expires_in)}" if budget.expires_in else ""
        yield Cause(
            f"{budget.used} starts are in the journal, and the start limit is {limit}: {next_one}{sure}{over}",
            f"{source}, the journal",
            Severity.WARNING,
        )


def find_changed_file(facts: UnitFacts) -> Iterator[Cause]:
    """Yield what is wrong with the file of a running unit."""
    if facts.unit.is_running and (why := describe_unit_file(facts.unit)):
        yield Cause(why, "NeedDaemonReload" if facts.unit.need_daemon_reload else "LoadState", Severity.WARNING)


def find_old_code(facts: UnitFacts) -> Iterator[Cause]:
    """Yield that the main process executes a file that is gone or was replaced."""
    main = facts.view.find_process(facts.unit.main_pid) if facts.unit.main_pid else None
    if main is not None and main.exe.endswith(DELETED):
        what = f"the main process, {main}, executes a file that was removed or replaced since: {main.exe_path}"
        yield Cause(what, f"/proc/{main.pid}/exe", Severity.WARNING)


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


CAUSES: tuple[Callable[[UnitFacts], Iterator[Cause]], ...] = (
    find_orphans,
    find_two_managers,
    find_leftovers,
    find_start_limit,
    find_changed_file,
    find_old_code,
    find_unused_ports,
)
"""In the order in which they are reported."""


def _drop_in(unit: Unit, name: str, section: str, settings: dict[str, Any], effect: str) -> DropIn:
    """Make a drop-in file for a unit of the system or of the user who runs this."""
    folder = "~/.config/systemd/user" if unit.of_user else "/etc/systemd/system"
    lines = [f"[{section}]", *(f"{key}={value}" for key, value in settings.items())]
    return DropIn(f"{folder}/{unit.name}.d/{name}.conf", "\n".join(lines) + "\n", effect)
