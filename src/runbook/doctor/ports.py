"""Which ports a unit should have, found from the unit itself.

What the unit's processes listen on is certain. So are its socket units, what its log found in use, and what an earlier
run of this program recorded. A number in its command line or its environment is only likely: a program may name the
port of another service, too.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Iterable, Iterator
from itertools import pairwise
from typing import NamedTuple

from runbook.checks.requirements import parse_listen
from runbook.host.facts import Unit
from runbook.host.holders import PortOwnership
from runbook.host.interface import HostView
from runbook.model import Port, Verdict
from runbook.util.names import parse_port

EPHEMERAL = range(32768, 61000)  # the kernel's default for the ports that it chooses itself (ip_local_port_range)
LOG_SOURCE = "its log: in use"  # the source of a port that the unit found in use
EARLIER_RUN = "an earlier run"  # the source of a port that an earlier run recorded
PORT_OPTION = "--port"  # the source of a port that the operator named

_KINDS = r"(?:(?:http|https|web|api|app|server|service|serve|listen|bind|gateway|grpc|admin|metrics)[-_.]?)*"
_OPTION = re.compile(rf"--?{_KINDS}(?:port|listen|bind|addr|address|listenaddress)", re.I)
_SHORT = {"-p": r"[1-9]\d*", "-b": r".*:\d+", "-l": r".*:\d+"}  # short options, and the values that are a port
_VARIABLE = re.compile(r"\$\{(\w+)\}|\$(\w+)")
_ASSIGNMENT = re.compile(r"^\s*(\w+)\s*=\s*[\"']?([^\"'\s#]+)", re.M)
_GENERAL = frozenset(("port", "http", "https", "web", "api", "app", "server", "service", "listen", "bind", "gateway"))

Recorded = Callable[[], Collection[Port]]


class FoundPort(NamedTuple):
    """A port that a unit has or should have."""

    port: Port  # without an address, unless the operator named one
    sources: tuple[str, ...]  # where it was found: "--port", "ExecStart=", "gw.socket", "EnvironmentFile=/etc/gw"
    listening: tuple[str, ...] = ()  # the sockets of the unit's processes on it: "127.0.0.1:18789"
    is_certain: bool = True  # False if only the command line or the environment names it

    @property
    def is_kernels_choice(self) -> bool:
        """True if the kernel may have chosen the number: after a restart it may be another one."""
        return bool(self.listening) and len(self.sources) == 1 and self.port.number in EPHEMERAL

    def evidence(self) -> dict[str, object]:
        """Return it as JSON holds it."""
        return {"port": str(self.port), "found-in": list(self.sources), "listening": list(self.listening)}


def find_ports(
    view: HostView, unit: Unit, named: Iterable[Port] = (), recorded: Recorded = lambda: ()
) -> tuple[FoundPort, ...]:
    """Return the ports of a unit, in the order of their certainty. If the operator named some, only these.

    `recorded` returns the ports that earlier runs recorded; it is called only if nothing else is certain. Raises
    HostError if the machine cannot be read.
    """
    listening = [(Port(one.number, one.protocol), str(one)) for one in view.list_unit_listeners(unit)]
    sockets: dict[Port, list[str]] = {}
    for port, socket in listening:
        sockets.setdefault(port, []).append(socket)
    if ports := tuple(named):
        return tuple(FoundPort(port, (PORT_OPTION,), tuple(sockets.get(_plain(port), ()))) for port in ports)
    certain: dict[Port, list[str]] = {port: ["its processes listen on it"] for port in sockets}
    likely: dict[Port, list[str]] = {}
    for port, source in (*_find_activated(view, unit), *_find_refused(view, unit)):
        certain.setdefault(port, []).append(source)
    for port, source in find_configured(view, unit):
        (certain if port in certain else likely).setdefault(port, []).append(source)
    if not certain:
        certain = {port: [EARLIER_RUN, *likely.pop(port, ())] for port in recorded()}
    return tuple(
        FoundPort(port, tuple(dict.fromkeys(sources)), tuple(sockets.get(port, ())), is_certain=port in certain)
        for port, sources in (certain | likely).items()
    )


def is_required(unit: Unit, found: FoundPort, owner: PortOwnership) -> bool:
    """True if the unit must have a port to be healthy.

    A port that only its configuration names may be that of another service. If a process that may be killed holds it,
    if its holder is unknown, or if the unit does not stay up, it counts as the unit's.
    """
    if found.is_certain or owner.verdict is Verdict.OWNER_UNKNOWN:
        return True
    is_stable = unit.is_running and not unit.n_restarts
    return any(holder.may_be_killed or not is_stable for holder in owner.foreign_holders)


def _plain(port: Port) -> Port:
    return Port(port.number, port.protocol)


def _find_activated(view: HostView, unit: Unit) -> Iterator[tuple[Port, str]]:
    """Yield the ports of the socket units that pass their sockets to a service."""
    units = (view.unit(name) for name in unit.triggered_by if name.endswith(".socket"))
    for one in (unit, *units):
        for kind, address in one.listen:
            if (port := parse_listen(kind, address)) is not None:
                yield _plain(port), one.name


def _find_refused(view: HostView, unit: Unit) -> Iterator[tuple[Port, str]]:
    yield from ((port, LOG_SOURCE) for port in view.find_refused_ports(unit))


def find_configured(view: HostView, unit: Unit) -> Iterator[tuple[Port, str]]:
    """Yield the ports that a unit's command line or environment names, each with the setting that names it."""
    stem = set(re.split(r"[^a-z0-9]+", unit.name.rpartition(".")[0].lower()))
    variables: dict[str, tuple[str, str]] = {}
    for source, text in _read_environment(view, unit):
        variables |= {name: (value, source) for name, value in _ASSIGNMENT.findall(text)}
    words = [_expand(word, variables) for word in unit.start_arguments]
    yield from ((port, "ExecStart=") for port in find_ports_in_command(words))
    for name, (value, source) in variables.items():
        parts = name.lower().split("_")
        if parts[-1] in ("port", "listen", "bind") and set(parts) <= _GENERAL | stem and (port := _parse(value)):
            yield port, source


def _read_environment(view: HostView, unit: Unit) -> Iterator[tuple[str, str]]:
    """Yield the assignments of a unit's environment. Those of a file that cannot be read are missing."""
    yield "Environment=", "\n".join(unit.environment)
    paths = [path for path, _ in unit.environment_files]
    for file in view.read_files(*paths) if paths else ():
        yield f"EnvironmentFile={file.path}", file.text


def _expand(word: str, variables: dict[str, tuple[str, str]]) -> str:
    return _VARIABLE.sub(lambda match: variables.get(match[1] or match[2], (match[0], ""))[0], word)


def find_ports_in_command(words: Iterable[str]) -> Iterator[Port]:
    """Yield the ports that a command line names as those to listen on."""
    for before, word in pairwise(("", *words)):
        option, equals, value = word.partition("=")
        is_option = bool(equals) and _OPTION.fullmatch(option) is not None
        port = _parse(value if is_option else word) if is_option or _takes_port(before, word) else None
        if port is not None:
            yield port


def _takes_port(before: str, word: str) -> bool:
    """True if the word after this one is the port or the address to listen on, and not another value."""
    if pattern := _SHORT.get(before):
        return re.fullmatch(pattern, word) is not None
    return before == "http.server" or _OPTION.fullmatch(before) is not None


def _parse(text: str) -> Port | None:
    """Return the port of "18789", ":18789", "*:80", "0.0.0.0:80", "localhost:80" or "tcp://[::]:80"; None if none."""
    bare = text.partition("://")[2] or text
    bare = bare.partition("/")[0]
    number = bare.rpartition(":")[2]
    try:
        return parse_port(number)
    except ValueError:
        return None
