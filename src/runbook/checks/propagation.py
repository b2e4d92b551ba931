"""Find which units a stop or a restart of a target reaches, and which go on running.

A target has no process: its stop and restart do something only to units that are a part of it (PartOf=) or need it
(Requires=, BindsTo=). Units that it merely wants go on as they are (systemd.target(5)).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace

from runbook.host.facts import UP, JobVerb, Unit
from runbook.host.interface import HostView
from runbook.model import Finding, FindingState, Verdict, fails

MEMBER_SUFFIXES = (".service", ".socket", ".timer", ".path")  # of the units for whose sake a target is restarted


@dataclass(frozen=True)
class TargetMembers:
    """The active units that a target pulls in."""

    reached: tuple[str, ...]  # those that a stop or a restart of the target reaches
    untouched: tuple[str, ...]  # those that go on running

    @classmethod
    def find(cls, view: HostView, target: Unit) -> TargetMembers:
        """Return the units, also of the targets that this one pulls in. A unit of another kind has none."""
        if not target.name.endswith(".target"):
            return cls((), ())
        pulled = _walk(view, target, lambda one: one.pulls_in if one.name.endswith(".target") else ())
        follows = _walk(view, target, lambda one: (*one.propagates_to, *one.propagates_stop_to))
        up = {
            one.name: one.name in follows or one.stop_when_unneeded
            for one in (pulled | follows).values()
            if one.name.endswith(MEMBER_SUFFIXES) and one.active_state in UP
        }
        reached, untouched = ([name for name in sorted(up) if up[name] is wanted] for wanted in (True, False))
        return cls(tuple(reached), tuple(untouched))


def find_target_refusal(view: HostView, unit: Unit, verb: JobVerb) -> Finding | None:
    """Return why a target is not stopped or restarted: that would reach none of the active units that it pulls in."""
    if verb not in (JobVerb.STOP, JobVerb.RESTART) or unit.active_state not in UP:
        return None
    members = TargetMembers.find(view, unit)
    if members.reached or not members.untouched:
        return None
    *most, last = members.untouched
    names = f"{', '.join(most)} and {last} are" if most else f"{last} is"
    why = f"to {verb} {unit.name} would leave everything running: {names} not a part of it"
    remedy = f"{verb} them by name, or add PartOf={unit.name} to their [Unit] sections" if most else ""
    remedy = remedy or f"{verb} it by name, or add PartOf={unit.name} to its [Unit] section"
    verdict = Verdict.NOT_RESTARTED if verb is JobVerb.RESTART else Verdict.JOB_FAILED
    return fails(verdict, f"{why}; {remedy}", **unit.evidence())


def add_untouched(view: HostView, unit: Unit, verb: JobVerb, finding: Finding) -> Finding:
    """Add to the end of a target's job which units it did not reach."""
    if verb not in (JobVerb.STOP, JobVerb.RESTART) or finding.state is not FindingState.HOLDS:
        return finding
    if not (untouched := TargetMembers.find(view, unit).untouched):
        return finding
    done = "restarted" if verb is JobVerb.RESTART else "stopped"
    why = f"{', '.join(untouched)} {'was' if len(untouched) == 1 else 'were'} not {done} with it"
    return replace(finding, reason=f"{finding.reason}; {why} (no PartOf={unit.name})")


def find_reached(view: HostView, unit: Unit) -> set[str]:
    """Return the names of the units that a start, stop or restart of a unit may start, stop or restart too."""

    def find_next(one: Unit) -> tuple[str, ...]:
        pulled = one.pulls_in if one.name == unit.name or one.name.endswith(".target") else ()
        return (*pulled, *one.propagates_to, *one.propagates_stop_to)

    return set(_walk(view, unit, find_next))


def _walk(view: HostView, start: Unit, find_next: Callable[[Unit], Iterable[str]]) -> dict[str, Unit]:
    """Return all units that are reached from one unit, without it, by their names."""
    found: dict[str, Unit] = {}
    waiting = list(find_next(start))
    while waiting:
        name = waiting.pop()
        if name not in found and name != start.name:
            found[name] = view.unit(name)
            waiting += find_next(found[name])
    return found
