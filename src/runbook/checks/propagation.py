"""Find which other units a job reaches, and by which dependency (systemd.unit(5)).

The rules are those of systemd's src/core/unit-dependency-atom.c and transaction.c, as seen on 252 and 257. After=,
Before=, JoinsNamespaceOf= and the triggers of a unit connect no jobs.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import NamedTuple

from runbook.host.facts import JobVerb, Unit
from runbook.host.interface import SHARED_READ_AGE, HostView

FRAME_SUFFIXES = (".target", ".slice")  # of the units that run nothing themselves

_Rule = tuple[str, str, JobVerb]  # the property that lists the units, the setting that makes it, and what is done

# The setting is that of the unit itself.
_PULLED_IN: tuple[_Rule, ...] = (
    ("requires", "Requires", JobVerb.START),
    ("binds_to", "BindsTo", JobVerb.START),
    ("wants", "Wants", JobVerb.START),
    ("upholds", "Upholds", JobVerb.START),
    ("conflicts", "Conflicts", JobVerb.STOP),
)
_RELOADED: tuple[_Rule, ...] = (("propagates_reload_to", "PropagatesReloadTo", JobVerb.RELOAD),)

# The setting is that of the other unit.
_CONFLICTING: tuple[_Rule, ...] = (("conflicted_by", "Conflicts", JobVerb.STOP),)
_STOPPED: tuple[_Rule, ...] = (
    ("required_by", "Requires", JobVerb.STOP),
    ("requisite_of", "Requisite", JobVerb.STOP),
    ("bound_by", "BindsTo", JobVerb.STOP),
    ("consists_of", "PartOf", JobVerb.STOP),
    ("propagates_stop_to", "StopPropagatedFrom", JobVerb.STOP),
)
# A restart restarts all but the last: systemd 252 leaves those alone, and later versions stop them.
_RESTARTED: tuple[_Rule, ...] = (
    *((field, setting, JobVerb.RESTART) for field, setting, _ in _STOPPED[:-1]),
    ("stopped_by_restart", "StopPropagatedFrom", JobVerb.STOP),
)

_OWN_RULES = {JobVerb.START: _PULLED_IN, JobVerb.RESTART: _PULLED_IN, JobVerb.RELOAD: _RELOADED}
_OTHERS_RULES = {
    JobVerb.START: _CONFLICTING,
    JobVerb.STOP: _STOPPED,
    JobVerb.RESTART: (*_RESTARTED, *_CONFLICTING),
}


class Reached(NamedTuple):
    """A unit that a job of another unit reaches."""

    unit: Unit
    verb: JobVerb  # what the job does to it
    setting: str  # the dependency: "Requires"
    why: str  # the setting and whose it is: "it has Requires=gw.service"

    @property
    def is_changed(self) -> bool:
        """True if the job does something to it: systemd starts no unit that is up, and stops none that is down."""
        if self.verb is JobVerb.START:
            return not self.unit.is_running
        return self.unit.is_running and (self.verb is not JobVerb.RELOAD or self.unit.can_reload)


def find_reached(
    view: HostView, unit: Unit, verb: JobVerb, through: Callable[[Reached], bool] = lambda one: one.is_changed
) -> list[Reached]:
    """Return the units that a job of a unit reaches, the nearest first, also those that it does not change.

    The job continues from each unit for which `through` is true. By default these are the units that the job changes:
    as systemd does it, a stop or a restart does not continue from a unit that is down, nor a start from one that is up.
    Raises HostError.
    """
    found: dict[tuple[str, bool], Reached] = {}
    left = [(unit, verb)]
    for one, what in left:
        for name, does, setting, why in _list_next(one, what):
            key = (name, does is JobVerb.START)  # A start leaves a unit that is up alone, and another rule may stop it.
            if name != unit.name and key not in found:
                found[key] = reached = Reached(view.unit(name, max_age=SHARED_READ_AGE), does, setting, why)
                if through(reached):
                    left.append((reached.unit, does))
    return list(found.values())


def _list_next(unit: Unit, verb: JobVerb) -> Iterator[tuple[str, JobVerb, str, str]]:
    """Yield the units to which a job continues directly: name, what is done to it, setting, and whose setting it is."""
    for field, setting, does in _OWN_RULES.get(verb, ()):
        yield from ((name, does, setting, f"{unit.name} has {setting}={name}") for name in getattr(unit, field))
    for field, setting, does in _OTHERS_RULES.get(verb, ()):
        yield from ((name, does, setting, f"it has {setting}={unit.name}") for name in getattr(unit, field))
