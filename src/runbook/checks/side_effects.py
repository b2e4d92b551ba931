"""What systemd does beside a job: the units that it takes along, and the actions that a failure of a unit sets off."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from runbook.host.facts import UP, JobVerb, Unit
from runbook.host.interface import SHARED_READ_AGE, HostView

ACTION_EFFECTS: Mapping[str, str] = {
    "reboot": "reboots this machine",
    "soft-reboot": "restarts the whole user space of this machine",
    "kexec": "reboots this machine",
    "poweroff": "powers this machine off",
    "halt": "halts this machine",
    "exit": "exits, and ends all of its services",
}
"""What an emergency action does, by its first word: `reboot-force` and `reboot-immediate` are reboots, too."""

SHUTDOWN_TARGETS = ("shutdown.target", "umount.target", "exit.target")


@dataclass(frozen=True)
class TakenAlong:
    """A unit that a job of another unit stops, restarts or starts."""

    name: str
    why: str  # the setting that connects the two, and whose it is


def find_taken_along(view: HostView, unit: Unit, verb: JobVerb) -> dict[str, list[TakenAlong]]:
    """Return what a job would do to other units, by `stops`, `restarts` and `starts`. Raises HostError.

    A restart stops and starts whatever requires the unit or is a part of it; a stop only stops it, and what
    PropagatesStopTo= names (systemd, src/core/unit-dependency-atom.c).
    """
    found: dict[str, list[TakenAlong]] = {}
    if verb is not JobVerb.START:
        found["restarts" if verb is JobVerb.RESTART else "stops"] = list(_find_dependents(view, unit, verb))
    if verb is not JobVerb.STOP:
        found.setdefault("stops", []).extend(_find_conflicting(view, unit))
        found["starts"] = list(_find_required(view, unit))
    return {what: units for what, units in found.items() if units}


def _find_dependents(view: HostView, unit: Unit, verb: JobVerb) -> Iterator[TakenAlong]:
    """Yield the units that are up and follow a stop or a restart of this one, and those that follow them."""
    seen, left = {unit.name}, [unit]
    while left:
        one = left.pop(0)
        for setting, names in _list_followers(one, verb):
            for name in names:
                if name in seen:
                    continue
                seen.add(name)
                other = view.unit(name, max_age=SHARED_READ_AGE)
                if other.active_state in UP:
                    left.append(other)
                    yield TakenAlong(name, f"it has {setting}={one.name}")


def _list_followers(unit: Unit, verb: JobVerb) -> Iterator[tuple[str, tuple[str, ...]]]:
    yield "Requires", unit.required_by
    yield "Requisite", unit.requisite_of
    yield "BindsTo", unit.bound_by
    yield "PartOf", unit.consists_of
    if verb is JobVerb.STOP:
        yield "StopPropagatedFrom", unit.propagates_stop_to


def _find_conflicting(view: HostView, unit: Unit) -> Iterator[TakenAlong]:
    for name in dict.fromkeys((*unit.conflicts, *unit.conflicted_by)):
        # Every unit conflicts with the targets of the shutdown.
        if name not in SHUTDOWN_TARGETS and view.unit(name, max_age=SHARED_READ_AGE).is_running:
            owner = f"{unit.name} has Conflicts={name}" if name in unit.conflicts else f"it has Conflicts={unit.name}"
            yield TakenAlong(name, owner)


def _find_required(view: HostView, unit: Unit) -> Iterator[TakenAlong]:
    for setting, names in (("Requires", unit.requires), ("BindsTo", unit.binds_to)):
        for name in names:
            is_frame = name.endswith((".slice", ".target"))  # It runs nothing itself, and is nearly always up.
            if not is_frame and not view.unit(name, max_age=SHARED_READ_AGE).is_running:
                yield TakenAlong(name, f"{unit.name} has {setting}={name}")


def describe_taken_along(unit: Unit, verb: JobVerb, taken: Mapping[str, Sequence[TakenAlong]]) -> str:
    """Return a sentence about the units that a job takes along; empty if there are none.

    No step names them, so nothing starts again what is stopped.
    """
    parts = []
    for what, units in taken.items():
        names = [f"{one.name} ({one.why})" for one in units]
        lost = ", which no step starts again" if what == "stops" else ""
        parts.append(f"{what} {', '.join(names)}{lost}")
    return f"the {verb} of {unit.name} also {', and '.join(parts)}" if parts else ""


def describe_emergency_actions(unit: Unit) -> list[str]:
    """Return a sentence for each action that systemd takes when the unit fails, stops or is started too often."""
    occasions = (
        ("StartLimitAction", unit.start_limit_action, "is started too often"),
        ("FailureAction", unit.failure_action, "fails"),
        ("SuccessAction", unit.success_action, "stops without an error"),
        ("JobTimeoutAction", unit.job_timeout_action, "has a job that times out"),
    )
    return [
        f"{unit.name} has {setting}={action}: systemd {_describe_action(action)} if the unit {when}"
        for setting, action, when in occasions
        if action not in ("", "none")
    ]


def _describe_action(action: str) -> str:
    first = "soft-reboot" if action.startswith("soft-reboot") else action.partition("-")[0]
    return ACTION_EFFECTS.get(first, f"carries out {action}")
