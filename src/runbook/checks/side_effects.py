"""What systemd does beside a job: the units that it takes along, and the actions that a failure of a unit sets off."""

from __future__ import annotations

from collections.abc import Iterable, Mapping

from runbook.checks.propagation import FRAME_SUFFIXES, Reached, find_reached
from runbook.host.facts import JobVerb, Unit
from runbook.host.interface import HostView

ACTION_EFFECTS: Mapping[str, str] = {
    "reboot": "reboots this machine",
    "soft-reboot": "restarts the whole user space of this machine",
    "kexec": "reboots this machine",
    "poweroff": "powers this machine off",
    "halt": "halts this machine",
    "exit": "exits, and ends all of its services",
}
"""What an emergency action does, by its first word: `reboot-force` and `reboot-immediate` are reboots, too."""

DESCRIBED = (JobVerb.RESTART, JobVerb.STOP, JobVerb.START, JobVerb.RELOAD)  # the order in a sentence
STRICT_SETTINGS = ("Requires", "BindsTo")  # of the units without which a start fails


def find_taken_along(view: HostView, unit: Unit, verb: JobVerb) -> list[Reached]:
    """Return what a job would do to other units. Raises HostError."""
    return [
        one
        for one in find_reached(view, unit, verb)
        if one.is_changed
        and (one.verb is not JobVerb.START or one.setting in STRICT_SETTINGS)
        and not one.unit.name.endswith(FRAME_SUFFIXES)
    ]


def describe_taken_along(unit: Unit, verb: JobVerb, taken: Iterable[Reached]) -> str:
    """Return a sentence about the units that a job takes along; empty if there are none.

    No step names them, so nothing starts again what is stopped.
    """
    names: dict[JobVerb, list[str]] = {}
    for one in taken:
        names.setdefault(one.verb, []).append(f"{one.unit.name} ({one.why})")
    lost = {JobVerb.STOP: ", which no step starts again"}
    parts = [f"{does}s {', '.join(names[does])}{lost.get(does, '')}" for does in DESCRIBED if does in names]
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
