"""Which units a stop or a restart of a target reaches, and which go on running.

A target has no process: its stop and restart do something only to units that are a part of it (PartOf=) or need it
(Requires=, BindsTo=). Units that it merely wants go on as they are (systemd.target(5)).
"""

from __future__ import annotations

from dataclasses import replace
from typing import NamedTuple

from runbook.checks.propagation import find_reached
from runbook.host.facts import UP, JobVerb, Unit
from runbook.host.interface import HostView
from runbook.model import Finding, FindingState, Verdict, fails

MEMBER_SUFFIXES = (".service", ".socket", ".timer", ".path")  # of the units for whose sake a target is restarted


class TargetMembers(NamedTuple):
    """The active units that a target pulls in."""

    reached: tuple[str, ...]  # those that a stop or a restart of the target reaches
    untouched: tuple[str, ...]  # those that go on running

    @classmethod
    def find(cls, view: HostView, target: Unit, verb: JobVerb) -> TargetMembers:
        """Return the units, also of the targets that this one pulls in. A unit of another kind has none."""
        if not target.name.endswith(".target"):
            return cls((), ())
        pulled = find_reached(view, target, JobVerb.START, lambda one: one.unit.name.endswith(".target"))
        follows = {one.unit.name: one.unit for one in find_reached(view, target, verb) if one.verb is not JobVerb.START}
        units = {one.unit.name: one.unit for one in pulled if one.verb is JobVerb.START} | follows
        up = {
            one.name: one.name in follows or one.stop_when_unneeded
            for one in units.values()
            if one.name.endswith(MEMBER_SUFFIXES) and one.active_state in UP
        }
        reached, untouched = ([name for name in sorted(up) if up[name] is wanted] for wanted in (True, False))
        return cls(tuple(reached), tuple(untouched))


def find_target_refusal(view: HostView, unit: Unit, verb: JobVerb) -> Finding | None:
    """Return why a target is not stopped or restarted: that would reach none of the active units that it pulls in."""
    if verb not in (JobVerb.STOP, JobVerb.RESTART) or unit.active_state not in UP:
        return None
    members = TargetMembers.find(view, unit, verb)
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
    if not (untouched := TargetMembers.find(view, unit, verb).untouched):
        return finding
    done = "restarted" if verb is JobVerb.RESTART else "stopped"
    why = f"{', '.join(untouched)} {'was' if len(untouched) == 1 else 'were'} not {done} with it"
    return replace(finding, reason=f"{finding.reason}; {why} (no PartOf={unit.name})")
