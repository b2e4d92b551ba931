"""Which sockets of a port number are in the unit's way, and which are beside it.

    on an address that the unit listens on, or would listen on ── a rival
    the unit's own leftover, on whichever address ────────────── a rival
    of a multicast port that both share by design ────────────── beside it
    of a unit with which the runbook lets it share the port ──── beside it
    on another address or another interface ──────────────────── beside it

A unit that is down would listen on the addresses of its socket units, and on those on which it listened before. If
neither is known, its log may name the address that it found in use. Else it may be any, and every socket is a rival.
Then no orphan is killed if servers on several addresses could be meant, or if the only one runs another program, on an
address that is not a usual one.
"""

from __future__ import annotations

import contextlib
import re
from collections.abc import Collection, Iterable, Iterator
from dataclasses import replace
from fnmatch import fnmatchcase
from functools import cached_property
from ipaddress import IPv4Address, IPv6Address
from pathlib import PurePosixPath

from runbook.host.cgroups import parse_cgroup_path
from runbook.host.facts import UP, Unit
from runbook.host.holders import Holder, Listener, Process, Role, address_of, parse_address
from runbook.host.ownership.ruling import UnitContext
from runbook.host.ownership.sources import AddressSource
from runbook.model import Port, frozen

ELSEWHERE = "another address"
MULTICAST = "a multicast port, which is shared by design"
SHARED = "which `shared-with` allows"

USUAL = ("127.0.0.1", "::1")  # where most services listen, besides on every address

_ADDRESS = re.compile(r"\d{1,3}(?:\.\d{1,3}){3}|[0-9a-f]*:[0-9a-f:.]*:[0-9a-f.]*", re.I)

# The end of a program's name that an upgrade changes: python3.13, gateway-2.0.
_VERSION = re.compile(r"[-.\d]+$")
_INTERPRETERS = frozenset((
    "python", "node", "nodejs", "deno", "bun", "perl", "ruby", "php", "java", "dotnet", "sh", "bash", "dash", "env",
    "busybox",
))  # fmt: skip

MAX_MULTICAST = 64  # sockets of others that are looked at: each takes a read of its holder's descriptors


@frozen
class Rivalry:
    """The sockets of a port number and their holders, as the unit meets them."""

    context: UnitContext
    port: Port
    listeners: tuple[Listener, ...]
    holders: tuple[Holder, ...]
    opened: Collection[Listener]  # sockets that a manager which cannot be read created for the unit's socket units
    addresses: AddressSource
    shared_with: Collection[str] = ()  # names or globs of units that may share the port

    @property
    def unit(self) -> Unit:
        """The unit that should own the port."""
        return self.context.unit

    @cached_property
    def own(self) -> frozenset[Listener]:
        """The sockets that the unit listens on now."""
        held = (one.sockets for one in self.holders if not one.is_foreign)
        return frozenset(self.opened).union(*held)

    def find_apart(self) -> dict[Listener, str]:
        """Return the sockets that are not in the unit's way, each with the reason."""
        others = [one for one in self.listeners if one not in self.own and one not in self._left]
        if not others:
            return {}
        apart = {one: SHARED for one in others if self.shared_with and self._is_shared(one)}
        if self.port.protocol == "udp":
            apart |= dict.fromkeys(self._find_multicast([one for one in others if one not in apart]), MULTICAST)
        beside = [one for one in others if one not in apart and not _overlaps_any(one, self._named)]
        # Finding out more takes a while, and is in vain if each socket is in the way already.
        if beside and self._expected is not None:
            apart |= {one: ELSEWHERE for one in beside if not _overlaps_any(one, self._expected)}
        return apart

    def spare_doubtful(self, rivals: tuple[Holder, ...]) -> tuple[Holder, ...]:
        """Return the holders; the orphans are protected if it is not known whether they are in the unit's way."""
        if not any(one.role is Role.ORPHAN for one in rivals) or self._is_certain(rivals):
            return rivals
        return tuple(self._protect(one) if one.role is Role.ORPHAN else one for one in rivals)

    def _is_certain(self, rivals: tuple[Holder, ...]) -> bool:
        if self.own or self._expected is not None:
            return True
        foreign = [one for one in rivals if one.is_foreign]
        is_one = all(_are_of_one_server(foreign[0], other) for other in foreign[1:])
        return is_one and any(map(self._is_likely, foreign))

    def _is_likely(self, holder: Holder) -> bool:
        """True if the unit would listen where a process does: on a usual address, one that it names, or by its program.

        Nothing is known of a unit without ExecStart=.
        """
        addresses = [parse_address(one.address) for one in holder.sockets]
        known = {*map(parse_address, USUAL), *_find_named_addresses(self.unit)}
        words = self.unit.start_arguments
        is_usual = any(one.is_unspecified or one in known for one in addresses)
        return is_usual or not words or runs_same_program(holder.process, words)

    def _protect(self, orphan: Holder) -> Holder:
        unknown = f"on which addresses {self.unit.name} would listen is not known, and this may be another one"
        remedy = f"if {self.unit.name} must have it, write the port as {orphan.sockets[0].endpoint}"
        return replace(orphan, protection=orphan.protection or f"{unknown}; {remedy}")

    @cached_property
    def _left(self) -> frozenset[Listener]:
        """The sockets of processes that the unit left over."""
        return frozenset(socket for one in self.holders if one.unit == self.unit.name for socket in one.sockets)

    @cached_property
    def _holders_of(self) -> dict[Listener, list[Holder]]:
        found: dict[Listener, list[Holder]] = {}
        for holder in self.holders:
            for socket in holder.sockets:
                found.setdefault(socket, []).append(holder)
        return found

    @cached_property
    def _named(self) -> list[Listener]:
        """The addresses that are certain: those on which the unit listens, and the one that the runbook names."""
        named = _each_address(self.own)
        if self.port.address is not None and not any(one.address == self.port.address for one in named):
            named.append(self._at(self.port.address))
        return named

    @cached_property
    def _expected(self) -> list[Listener] | None:
        """The addresses on which a unit that has no socket would listen; None if it may be any."""
        if self.own or self.port.address is not None:
            return []
        sockets = self.context.list_socket_units()
        listens = (address_of(where, self.port.number) for one in sockets for _, where in one.listen)
        known = [*filter(None, listens), *self.addresses.find_earlier(self.unit, self.port)]
        if expected := [*_each_address(self._left), *map(self._at, known)]:
            return expected
        # Others may be able to put words into its log. So it counts only if nothing else is known, and only against
        # the holders of the addresses that it names.
        expected = [self._at(address) for address in self._refused if address]
        # If it failed on an address that the log does not name, it may be any.
        fits = any(_overlaps_any(one, expected) for one in self.listeners) if "" in self._refused else bool(expected)
        return expected if fits else None

    @cached_property
    def _refused(self) -> Collection[str]:
        """The addresses that the unit found in use, by its log; an empty text if that does not name the address."""
        return self.addresses.find_refused(self.unit, self.port)

    def _at(self, address: str) -> Listener:
        return Listener(self.port.protocol, address, self.port.number, 0)

    def _is_shared(self, socket: Listener) -> bool:
        """True if every process that holds a socket is of a unit with which the port may be shared."""
        holders = self._holders_of.get(socket, [])
        return bool(holders) and all(map(self._may_share, holders))

    def _may_share(self, holder: Holder) -> bool:
        """True if a process is in the cgroup of such a unit, which is up. Its environment is no proof."""
        if holder.role is not Role.OTHER_UNIT or not any(fnmatchcase(holder.unit, name) for name in self.shared_with):
            return False
        place, manager = parse_cgroup_path(holder.process.cgroup), self.context.manager
        for_socket = holder.unit.endswith(".socket")
        inside = place.unit == holder.unit and place.user_uid == self.context.manager_uid
        return for_socket or (inside and manager.read_loaded_state(holder.unit) in UP)

    def _find_multicast(self, others: Collection[Listener]) -> Iterator[Listener]:
        """Find UDP sockets that share a multicast port with those of the unit, or would do so if the unit were up.

        Two sockets with the same address have SO_REUSEADDR or SO_REUSEPORT; of a single one it must be read.
        """
        if len(others) > MAX_MULTICAST or not all(self._is_multicast(one) for one in self.own):
            return
        for other in others:
            if self._is_multicast(other, reusable=not any(one.overlaps(other) for one in self.own)):
                yield other

    def _is_multicast(self, socket: Listener, *, reusable: bool = False) -> bool:
        pids = [one.process.pid for one in self._holders_of.get(socket, [])]
        return self.context.kernel.is_multicast(socket, pids, reusable=reusable)


def _find_named_addresses(unit: Unit) -> Iterator[IPv4Address | IPv6Address]:
    """Yield the IP addresses that ExecStart= and Environment= contain."""
    for found in _ADDRESS.findall(" ".join((*unit.start_arguments, *unit.environment))):
        with contextlib.suppress(ValueError):
            yield parse_address(found)


def runs_same_program(process: Process, start_arguments: Collection[str]) -> bool:
    """True if a process may run what a unit starts: both command lines have a program or a script of the same name.

    The version at the end of a name does not count, nor does an interpreter.
    """
    words = (process.exe_path, process.name, *(word for text in process.command for word in text.split()))
    return not _list_programs(words).isdisjoint(_list_programs(start_arguments))


def _list_programs(words: Iterable[str]) -> set[str]:
    names = (PurePosixPath(word).name.rstrip(":") for word in words if not word.startswith("-") and "=" not in word)
    return {_VERSION.sub("", name) for name in names} - _INTERPRETERS - {""}


def _are_of_one_server(one: Holder, other: Holder) -> bool:
    """True if two holders share an address, or one is the parent of the other."""
    related = one.process.pid in (other.process.pid, other.process.ppid) or other.process.pid == one.process.ppid
    return related or any(_overlaps_any(socket, other.sockets) for socket in one.sockets)


def without(holders: Iterable[Holder], sockets: Collection[Listener]) -> tuple[Holder, ...]:
    """Return the holders without these sockets; not those that hold no other."""
    left = (replace(one, sockets=tuple(s for s in one.sockets if s not in sockets)) for one in holders)
    return tuple(one for one in left if one.sockets)


def _each_address(sockets: Iterable[Listener]) -> list[Listener]:
    """Return one socket for each address: a process may have thousands on one."""
    return list({(one.address, one.only_v6, one.interface): one for one in sockets}.values())


def _overlaps_any(socket: Listener, others: Iterable[Listener]) -> bool:
    return any(socket.overlaps(other) for other in others)
