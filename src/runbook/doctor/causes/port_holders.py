"""Why another process has a port of the unit: where it was started, by what, and what it belongs to."""

from __future__ import annotations

import re
from collections.abc import Iterator
from shlex import quote

from runbook.doctor.facts import UnitFacts
from runbook.doctor.findings import Cause
from runbook.host.cgroups import CgroupKind, parse_cgroup_path
from runbook.host.holders import Holder, Role
from runbook.host.kernel.ancestry import is_typed_into
from runbook.host.requesters import name_program
from runbook.util.wording import shorten

_OPENS_SESSION = re.compile(r"(?<![\w./-])(?:/\S*/)?(su|sudo|runuser|systemd-run)\s")  # in a script or a command line


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
        instead = f"start it only through systemd ({facts.unit.systemctl_command('start')}), never by hand"
        again = _describe_supervisor(facts, holder)
        line = f"; its command line is `{shorten(' '.join(process.command))}`" if process.command else ""
        yield Cause(f"{process}{copy} {began}{line}{effect}{again}", read, prevention=instead if copy else "")


def _describe_origin(holder: Holder) -> tuple[str, str]:
    """Return where an orphan was started, and the files that show it."""
    process, place = holder.process, parse_cgroup_path(holder.process.cgroup)
    read = f"/proc/{process.pid}/cgroup"
    match place.kind:
        case CgroupKind.SESSION:
            began = f"was started in a login of {process.user} ({place.unit})"
        case CgroupKind.SCOPE if place.unit.startswith("run-"):
            began = f"was started by hand (systemd-run --scope) in {place.unit} of {process.user}"
        case CgroupKind.SCOPE:
            began = f"runs in {place.unit} of {process.user}, a scope and no service"
        case _:
            began = f"runs in {process.cgroup}, which belongs to no service"
    if not process.environment or (process.invocation_id and place.kind is CgroupKind.SCOPE):
        # Its environment could not be read, or is empty; or the INVOCATION_ID may be that of the scope itself.
        return began, read
    if process.invocation_id:
        began += "; a unit started it, by its INVOCATION_ID, and it left the cgroup of that unit"
    else:
        began += "; it has no INVOCATION_ID, which systemd sets for every process of a unit"
    return began, f"{read}, /proc/{process.pid}/environ"


def _describe_supervisor(facts: UnitFacts, holder: Holder) -> str:
    """Return that the parent of an orphan may start it again; empty if it has none that may.

    A shell that runs no script has no reason to, and neither has a terminal multiplexer.
    """
    parent = facts.view.find_process(holder.process.ppid) if holder.process.ppid > 1 else None
    if parent is None or parent.dead or is_typed_into(parent) or parent.name.startswith(("tmux", "screen", "systemd")):
        return ""
    if not name_program(parent.name, parent.command) or parse_cgroup_path(parent.cgroup).kind is CgroupKind.SERVICE:
        return ""
    return f"; its parent, {parent}, belongs to no service either, and may start it again: stop that one first"


def find_sessions(facts: UnitFacts) -> Iterator[Cause]:
    """Yield that the start of the unit opens a login, if one of the orphans is in a login."""
    in_login = [h for h in facts.strays if parse_cgroup_path(h.process.cgroup).kind is CgroupKind.SESSION]
    words = facts.unit.start_arguments
    if not in_login or not words:
        return
    line = " ".join(words)
    texts = [("ExecStart=", line), *((file.path, file.text) for file in facts.view.read_files(*_list_scripts(words)))]
    for source, text in texts:
        code = "\n".join(line for line in text.splitlines() if not line.lstrip().startswith("#"))
        if found := _OPENS_SESSION.search(f"{code} "):
            yield Cause(
                f"its start runs {found[1]}, which moves what it starts out of the unit's cgroup: no stop reaches that",
                source,
                prevention=f"replace {found[1]} by User= in the unit, so that its processes stay in its cgroup",
            )
            return


def _list_scripts(words: tuple[str, ...]) -> list[str]:
    """Return the words of a command line that may be paths of scripts."""
    return [word for word in words[:3] if word.startswith("/")]


def find_two_managers(facts: UnitFacts) -> Iterator[Cause]:
    """Yield that a unit of another manager has the same name, and holds the port."""
    unit = facts.unit
    for holder in facts.rivals:
        is_users = holder.is_user_unit(unit.of_user)
        if holder.unit == unit.name and holder.role is Role.OTHER_UNIT and is_users != unit.of_user:
            theirs = f"the user manager of {holder.process.user}" if is_users else "the system"
            own = "your own" if unit.of_user else "the system's"
            manager = f" --user -M {quote(holder.process.user)}@" if is_users else ""
            yield Cause(
                f"{theirs} has a unit of the same name, which holds {facts.held_ports(holder)}",
                f"/proc/{holder.process.pid}/cgroup",
                prevention=f"to keep only {own}: systemctl{manager} disable --now {quote(unit.name)}",
            )
            return


def find_other_owners(facts: UnitFacts) -> Iterator[Cause]:
    """Yield which other service, scheduler or container has a port, or why its owner cannot be determined."""
    for owner in facts.ports:
        others = [one for one in owner.foreign_holders if one.role in (Role.OTHER_UNIT, Role.UNKNOWN)]
        for holder in [one for one in others if one.unit != facts.unit.name][:1]:
            why = "" if holder.why in owner.reason else f" ({holder.why})"
            yield Cause(f"{owner.reason}{why}", f"/proc/{holder.process.pid}/cgroup")
