"""Scenes drawn at random: which process holds the port, what the service does, and what the runbook may do.

It needs only the standard library of Python, because both sides read it: the tests, and stager.py in the machine.
"""

from __future__ import annotations

import random
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Any

OLD, NEW = "1.0", "2.0"


@dataclass(frozen=True)
class Holder:
    """A process beside the unit under test, usually one that holds its port."""

    name: str
    fate: str  # kept: none may be killed; freed: kill-orphan frees the port; supervised; unclear: both are right
    blocks: bool = True  # the unit cannot bind its port beside it
    units: tuple[str, ...] = ()  # the units that it can be staged with; all but `socket` if empty
    states: tuple[str, ...] = ()  # the states of the unit at the begin; those that are possible if empty
    shares: bool = False  # the unit and the holder listen with SO_REUSEPORT
    users: str = ""  # the fate in a run of a user, for a unit of the user's manager; not staged there if empty


NO_MAIN = ("sysv", "oneshot")
PLAIN = ("simple", "exec", "notify", "forking")
OTHER = ("process", "limited", "as-user")
DOWN = ("down",)

HOLDERS = {
    holder.name: holder
    for holder in (
        Holder("free", "kept", blocks=False, units=(*PLAIN, *OTHER, *NO_MAIN, "watchdog", "socket"), users="kept"),
        # Orphans and leftovers, which kill-orphan may kill.
        Holder("nohup", "freed", users="freed"),
        Holder("root-login", "freed"),
        Holder("console", "freed", users="kept"),
        Holder("scope", "freed"),
        Holder("user-scope", "freed", users="freed"),
        Holder("escaped", "freed"),
        Holder("deaf", "freed"),
        Holder("stopped", "freed"),
        Holder("thread", "freed"),
        Holder("first-thread-gone", "unclear"),
        Holder("two-orphans", "freed"),
        Holder("orphan-and-stranger", "freed", units=PLAIN, states=("looping",)),
        Holder("forged-command", "freed", users="freed"),
        Holder("leftover", "freed", units=("process",), states=DOWN, users="freed"),
        Holder("idle-leftover", "kept", blocks=False, units=("process",), states=("up", "down"), users="kept"),
        Holder("sharing-orphan", "freed", blocks=False, shares=True),
        Holder("dying", "unclear", units=PLAIN),
        Holder("supervised", "supervised"),
        Holder("supervised-loop", "supervised"),
        # Processes that a live service or manager runs.
        Holder("other-unit", "kept", users="kept"),
        Holder("other-child", "kept"),
        Holder("other-escaped", "kept"),
        Holder("other-leftover", "kept"),
        Holder("other-inherited", "kept"),
        Holder("sharing-unit", "kept", blocks=False, shares=True),
        Holder("sharing-both", "kept", blocks=False, shares=True),
        Holder("user-unit", "kept", users="kept"),
        Holder("other-socket", "kept"),
        Holder("tmux", "kept", users="kept"),
        Holder("tmux-scope", "kept"),
        Holder("screen", "kept"),
        Holder("tmux-gone", "unclear"),
        Holder("podman", "kept"),
        Holder("docker", "kept"),
        Holder("kubernetes", "kept"),
        Holder("nomad", "kept"),
        Holder("slurm", "kept"),
        Holder("vm-device", "kept"),
        Holder("vm-name", "kept"),
        Holder("vm-child", "kept"),
        # Facts that a user without privileges can forge.
        Holder("handed", "kept", users="kept"),
        Holder("handed-unit", "kept"),
        Holder("in-flight", "kept"),
        Holder("bus", "kept"),
        Holder("forged-id", "kept"),
        Holder("forged-own-id", "unclear", states=("looping",)),
        Holder("forged-name", "unclear"),
        Holder("forged-container", "kept"),
        # Processes that are no rivals of the unit, or no holders.
        Holder("ancestor", "kept", states=DOWN),
        Holder("bound", "kept", users="kept"),
        Holder("other-address", "kept", blocks=False, states=("up",), users="kept"),
        Holder("other-family", "kept", blocks=False, states=("up",), users="kept"),
        Holder("udp", "kept", blocks=False, users="kept"),
        Holder("other-network", "kept", blocks=False),
        Holder("outside", "kept", blocks=False, units=("private",), states=("up", "down")),
        Holder("client", "kept", blocks=False, states=("up",)),
    )
}

GOOD = ("serves", "late", "patient", "workers")
SLOW = ("never", "silent", "busy")
"""What a service does that may still become ready: it gets no answer, or 503."""
BAD = ("wrong", "old", "crash", "crash-later", "exits", "stops", "freezes", "mute", "no-pings", "dies", "no-pid-file")

DOES = {
    "simple": (*GOOD, *SLOW, "wrong", "old", "crash", "crash-later", "exits", "stops", "freezes"),
    "exec": (*GOOD, *SLOW, "wrong", "crash", "crash-later", "exits", "stops"),
    "limited": ("serves", "patient", "wrong", "crash", "crash-later"),
    "as-user": ("serves", "late", "workers", "never", "wrong", "crash"),
    "private": ("serves", "late", "workers", "silent", "wrong", "crash"),
    "process": ("serves", "late", "patient", "never", "wrong", "crash", "stops"),
    "notify": ("serves", "late", "workers", "silent", "wrong", "crash", "mute", "freezes"),
    "watchdog": ("serves", "no-pings"),
    "forking": ("serves", "late", "workers", "silent", "wrong", "crash", "dies", "no-pid-file"),
    "sysv": ("serves", "late", "silent", "wrong", "crash", "dies"),
    "oneshot": ("serves", "late", "wrong", "crash", "dies"),
    "socket": ("serves", "workers", "wrong", "crash"),
}

ELSEWHERE = ("other-family",)  # holders on a usual address that is not the unit's

MEANWHILE = ("restart", "stop", "kill")

BOOKS = ("remediate", "remediate", "plain", "by-hand", "stop-first", "only-remediate")


@dataclass(frozen=True)
class Scene:
    """What is staged, and what the runbook may do about it."""

    holder: str
    manager: str  # system, or user: that of a user, who then runs the program
    unit: str
    does: str
    state: str
    book: str
    rollback: bool
    leftovers: bool
    supervisors: bool
    shared: bool
    answer: str
    first: str  # what is run before: nothing, a dry run, or a check
    meanwhile: str  # what another administrator does in the first second of the run, or nothing

    @classmethod
    def of(cls, facts: dict[str, Any]) -> Scene:
        return cls(**facts)

    @property
    def facts(self) -> dict[str, Any]:
        return asdict(self)

    @property
    def kind(self) -> Holder:
        return HOLDERS[self.holder]

    @property
    def updates(self) -> bool:
        return self.book != "only-remediate"

    @property
    def remediates(self) -> bool:
        return self.book in ("remediate", "stop-first", "only-remediate")

    @property
    def kills(self) -> bool:
        """Return True if the runbook has a kill-orphan."""
        return self.remediates or self.book == "by-hand"

    @property
    def fate(self) -> str:
        """Return kept, freed or unclear: what kill-orphan does about the holder with these options."""
        if self.manager == "user":
            return self.kind.users
        if self.kind.fate == "supervised":
            return "freed" if self.supervisors else "kept-supervisor"
        return self.kind.fate

    @property
    def in_the_way(self) -> bool:
        """Return True if the holder keeps the unit from being the only owner of its port."""
        return (self.kind.blocks or self.kind.shares) and not self.shared

    @property
    def port_becomes_free(self) -> bool:
        return not self.in_the_way or (self.kills and self.fate == "freed")

    @property
    def must_succeed(self) -> bool:
        """Return True if only a success is right."""
        return self.does in GOOD and self.port_becomes_free and not self.meanwhile

    @property
    def must_roll_back(self) -> bool:
        """Return True if only a rollback is right."""
        can = self.port_becomes_free and self.does != "freezes" and not self.meanwhile
        return self.does in BAD and self.rollback and can

    @property
    def must_be_still_starting(self) -> bool:
        """Return True if only still-starting is right."""
        return self.does in SLOW and self.port_becomes_free and not self.meanwhile


def draw(chance: random.Random, holder: str) -> Scene:
    """Draw a scene with a given holder."""
    kind = HOLDERS[holder]
    manager = "user" if kind.users and chance.random() < 0.4 else "system"
    unit = chance.choice(kind.units or (*PLAIN, *PLAIN, *NO_MAIN, *OTHER))
    if unit == "as-user" and (kind.shares or manager == "user" or holder == "escaped"):
        unit = "simple"  # Only root may start a scope, and share a port with root.
    does = chance.choice([name for name in DOES[unit] if name in GOOD] if chance.random() < 0.5 else DOES[unit])
    states = kind.states or (("down", "looping") if kind.blocks else ("up", "down"))
    book = chance.choice(BOOKS)
    state = chance.choice(states)
    if state == "up" and book == "only-remediate":
        does = "serves"  # The unit already runs what it is to do.
    shared = holder == "sharing-unit" and book in ("remediate", "plain") and chance.random() < 0.6
    if shared:
        # Any answer may be that of the other unit, so there is no probe to find a wrong one or a late start.
        unit, does = "simple", chance.choice(("serves", "serves", "workers", "crash", "crash-later"))
    if manager == "user" and does == "freezes":
        does = "stops"  # systemd freezes no units of users.
    return Scene(
        holder=holder,
        manager=manager,
        unit=unit,
        does=does,
        state=state,
        book=book,
        rollback=book != "only-remediate" and chance.random() < 0.6,
        leftovers=chance.random() < 0.5,
        supervisors=chance.random() < 0.5,
        shared=shared,
        answer=chance.choice((OLD, NEW, NEW)),
        first=chance.choice(("", "", "", "dry-run", "check")),
        # If the unit goes down before the run has found it listening, a single holder on such an address is an orphan.
        meanwhile="" if holder in ELSEWHERE else chance.choice(("", "", "", "", "", *MEANWHILE)),
    )


def scenes(seed: str) -> Iterator[Scene]:
    """Yield scenes without end. All holders are drawn before one is drawn again."""
    chance = random.Random(seed)
    while True:
        for holder in chance.sample(sorted(HOLDERS), len(HOLDERS)):
            yield draw(chance, holder)
