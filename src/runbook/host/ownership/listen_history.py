"""Where a unit would listen: what this program saw before, what earlier runs recorded, and what the unit's log shows.

A unit that is down has no sockets. So before it is stopped, the addresses on which it listens are remembered.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterator
from typing import Any

from runbook.host.facts import Unit
from runbook.host.holders import Listener, parse_address
from runbook.host.loop import Loop
from runbook.host.queries import Answer, JournalTailQuery, Query
from runbook.model import Port

MAX_LINE = 300  # characters of a line that are searched
LOG_LINES = 200  # how many of the unit's last lines are searched
LOG_TIMEOUT = 1.0  # seconds for the journal to be read
LOG_MAX_AGE = 2.0  # seconds for which the lines of one invocation are used again
LOG_SLACK = 1.0  # seconds by which a busy journald may date a line before the start of its unit
LOOP_SECONDS = 600.0  # seconds before the start of a unit in a restart loop: the line may be of an earlier invocation

_IN_USE = re.compile(r"EADDRINUSE|\b(address|port|connection|socket)\b.{0,60}\bin use\b|\b(errno|error) 98\b", re.I)
_ADDRESSES = (  # each with the address, and the port number if there is one
    re.compile(r"(?<![\d.])(\d{1,3}(?:\.\d{1,3}){3})(?![\d.])(?:['\"]?(?:[:#]|, ?| port )(\d{1,5})\b)?"),
    re.compile(r"\[([0-9a-f:.]+)(?:%\w+)?\](?::(\d{1,5})\b)?", re.I),
    re.compile(r"['\"]([0-9a-f]*:[0-9a-f:.]*)['\"](?:, ?(\d{1,5})\b)?", re.I),
    re.compile(r"(?<![\w:\[])([0-9a-f:]*::[0-9a-f:]*?):(\d{1,5})\b", re.I),  # node: `:::80`, `::1:80`
    re.compile(r"(?<![\w:.\])'\"])(\*?):(\d{1,5})\b"),  # `*:80`, and Go's `:80`: every address
)

_PORT = re.compile(r"\bport[ :=#]{1,3}(\d{1,5})\b", re.I)  # where the line has no address
_UDP = re.compile(r"\budp", re.I)

Ask = Callable[[Query[Any]], Answer[Any] | None]
Recall = Callable[[str, Port], Collection[str]]


class ListenHistory:
    """An `AddressSource`. `recall` returns the addresses that earlier runs recorded for a unit and a port."""

    def __init__(self, loop: Loop, ask: Ask, recall: Recall) -> None:
        self._loop = loop
        self._ask = ask
        self._recall = recall
        self._seen: dict[tuple[str, str, int], frozenset[str]] = {}
        self._in_use: dict[str, list[str]] = {}  # the last lines of each unit by which something was in use
        self._logs: dict[str, tuple[tuple[str, int], float, list[str]]] = {}
        self._queries = 0

    def remember(self, unit: Unit, sockets: Collection[Listener]) -> None:
        """Remember the sockets that a unit listens on now. Those of a port replace what was known of that port."""
        for protocol, number in {(one.protocol, one.number) for one in sockets}:
            same = (one for one in sockets if (one.protocol, one.number) == (protocol, number))
            self._seen[unit.name, protocol, number] = frozenset(one.address for one in same)

    def find_earlier(self, unit: Unit, port: Port) -> Collection[str]:
        known = self._seen.get((unit.name, port.protocol, port.number))
        return self._recall(unit.name, port) if known is None else known

    def find_refused(self, unit: Unit, port: Port) -> Collection[str]:
        lines, earlier = self._read_log(unit), self._in_use.get(unit.name, [])
        found = {address for line in lines for address in find_addresses_in_use(line, port.number)}
        # A new version may exit before it listens at all. What an invocation before it found in use still counts.
        return found or {address for line in earlier for address in find_addresses_in_use(line, port.number)}

    def find_refused_ports(self, unit: Unit) -> tuple[Port, ...]:
        """Return the ports that the unit found in use, by its log."""
        return tuple(dict.fromkeys(port for line in self._read_log(unit) for port in find_ports_in_use(line)))

    def _read_log(self, unit: Unit) -> list[str]:
        """Return the last lines of the current invocation, or of the last one; none if they cannot be read in time."""
        if not unit.inactive_exit:
            return []
        now, invocation = self._loop.clock.monotonic(), (unit.invocation_id, unit.n_restarts)
        known, read_at, lines = self._logs.get(unit.name, (("", 0), 0.0, []))
        if known == invocation and now - read_at < LOG_MAX_AGE:
            return lines
        since = unit.inactive_exit / 1e6 - (LOOP_SECONDS if unit.n_restarts else LOG_SLACK)
        self._queries += 1
        kind = JournalTailQuery(unit.name, since, lines=LOG_LINES, of_user=unit.of_user)
        query = Query(kind, -self._queries, LOG_TIMEOUT)  # Below 0: the steps count theirs from 1.
        self._loop.run_until(lambda: self._ask(query) is not None, 2 * LOG_TIMEOUT)
        answer = self._ask(query)
        lines = [line.text[:MAX_LINE] for line in answer.value or ()] if answer is not None else []
        self._logs[unit.name] = (invocation, self._loop.clock.monotonic(), lines)
        self._in_use[unit.name] = list(filter(_IN_USE.search, lines)) or self._in_use.get(unit.name, [])
        return lines


def find_addresses_in_use(line: str, number: int) -> Iterator[str]:
    """Yield the addresses that a log line names as in use, for a port number; an empty text if it names none."""
    if not _IN_USE.search(line):
        return
    found = [match.groups() for pattern in _ADDRESSES for match in pattern.finditer(line)]
    if not found:
        yield ""
    for address, port in found:
        if port in (None, str(number)) and (plain := _address(address)):
            yield plain


def find_ports_in_use(line: str) -> Iterator[Port]:
    """Yield the ports that a log line names as in use."""
    if not _IN_USE.search(line):
        return
    protocol = "udp" if _UDP.search(line) else "tcp"
    found = [match.groups() for pattern in _ADDRESSES for match in pattern.finditer(line)]
    named = [number for _, number in found if number] or _PORT.findall(line)
    yield from (Port(int(number), protocol) for number in named if 0 < int(number) < 2**16)


def _address(text: str) -> str:
    if text in ("", "*"):
        return "::"
    try:
        parse_address(text)
    except ValueError:
        return ""
    return text
