"""Finds a probe that a port answers rightly now.

a server of which a client is known ──────── its client: redis-cli, pg_isready, …
a port that is known not to be HTTP ──────── tcp: a request would be logged as an attack
one that sends something first ───────────── tcp, without a request
any other ────────────────────────────────── GET of PATHS; the first that answers 200, and means it
  none does ──────────────────────────────── tcp, and what was answered

An answer counts only if the unit's own listener gave it. A unit that is down, or is only started by a connection, is
not asked.
"""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import dataclass

from runbook.document.init.lookup import Lookup
from runbook.document.init.program import Program
from runbook.document.quoting import clean
from runbook.errors import HostError
from runbook.host.facts import UP, Unit
from runbook.host.holders import PortOwnership, parse_address
from runbook.host.queries import Answer, HttpProbe, TcpProbe
from runbook.model import Port, ProcessId, frozen

PATHS = ("/healthz", "/health", "/-/healthy", "/ready", "/")
HTTP_TIMEOUT = 3.0  # seconds for one answer
CLIENT_TIMEOUT = 5.0  # seconds for a client's command, as `run` probes have
GREETING_WAIT = 0.5  # seconds for a server to send something first
DEFAULT_PORTS = {"http": 80, "https": 443}
HTTPS_PORTS = frozenset((443, 4443, 6443, 8443, 9443))
TLS_ALERT = "\x15\x03"  # how a TLS server answers a request without TLS
BAD_REQUEST = 400  # what others answer it

_NUMBERS = (
    "21 22 23 25 53 69 88 110 111 119 139 143 179 389 445 465 587 636 853 873 993 995 1433 1521 1883 2049 2181 3260 "
    "3306 3389 4190 4222 5060 5432 5433 5671 5672 6379 6380 6432 6667 8883 9042 9092 11211 26379 27017 33060"
)
NOT_HTTP_PORTS = frozenset(map(int, _NUMBERS.split()))
_PROGRAMS = (
    "unbound named knotd kresd dnsmasq memcached slapd mongod master exim4 dovecot smbd rpcbind chronyd ntpd pgbouncer "
    "mosquitto beam.smp epmd proftpd vsftpd xrdp"
)
NOT_HTTP_PROGRAMS = frozenset(_PROGRAMS.split())


@frozen
class Client:
    """The client of a server that must get no other connection."""

    command: str  # with {host} and {port}
    note: str


_REDIS = Client(
    "redis-cli -h {host} -p {port} ping | grep -qx PONG",
    "It exits with 0 for an error too, such as LOADING, so its output is checked",
)
_POSTGRES = Client(
    "until pg_isready --quiet --host {host} --port {port}; do sleep 0.5; done",
    "During a recovery it waits: no answer in time is still-starting, not a failure",
)
_MARIADB = Client(
    "mariadb-admin --silent ping", "Through its socket: the server blocks hosts whose connections it finds wrong"
)
_SSH = Client(
    "ssh-keyscan -T 5 -t ed25519 -p {port} {host} 2>/dev/null | grep -q ssh-ed25519",
    "One key type is one connection: sshd blocks clients that often connect and never log in",
)
CLIENTS = {
    "redis-server": _REDIS,
    "redis-check-rdb": _REDIS,
    "valkey-server": _REDIS,
    "postgres": _POSTGRES,
    "mariadbd": _MARIADB,
    "mysqld": _MARIADB,
    "sshd": _SSH,
}


@frozen
class FoundProbe:
    """What was found for one port."""

    port: Port
    kind: str = ""  # `http`, `run`, `tcp`; empty if there is none
    value: str = ""  # the URL, the command or the port
    note: str = ""  # for a comment
    to_fill_in: str = ""  # what is missing, for a comment; empty if nothing is


@dataclass
class ProbeSearch:
    """The search for the probes of one unit."""

    lookup: Lookup
    unit: Unit
    program: Program
    requests: int = 0  # how many HTTP requests were sent

    def find(self, port: Port) -> FoundProbe:
        """Return a probe for a port that the unit should own. Raises HostError and Interrupted."""
        if port.protocol != "tcp":
            return FoundProbe(port, note=f"No probe speaks UDP: of port {port}, only the owner is proved")
        if self.unit.active_state not in UP or (self.unit.is_service and not self._is_populated()):
            return FoundProbe(port, to_fill_in=f"a probe for port {port}: {self.unit.name} does not run now")
        ownership = self.lookup.view.judge_port(self.unit, port)
        if not ownership.is_owned:
            return FoundProbe(port, to_fill_in=f"a probe for port {port}; none was tried, because {ownership.reason}")
        host = find_host(port, ownership)
        if client := CLIENTS.get(self.program.name):
            return self._ask_client(port, host, client)
        try:
            netns = self.lookup.view.find_network_process(self.unit, port)
        except HostError as error:
            return FoundProbe(port, to_fill_in=f"a probe for port {port}; none was tried: {error.message}")
        return self._ask(port, host, ownership, netns)

    def _is_populated(self) -> bool:
        return bool(self.lookup.view.list_unit_pids(self.unit))

    def _ask_client(self, port: Port, host: str, client: Client) -> FoundProbe:
        command = client.command.format(host=shlex.quote(host), port=port.number)
        program = command.removeprefix("until ").split()[0]
        script = ("/bin/sh", "-e", "-c", f"{command} && echo yes")
        if self.lookup.run(*script, timeout=CLIENT_TIMEOUT):
            return FoundProbe(port, "run", command, client.note)
        return FoundProbe(
            port, to_fill_in=f"a probe for port {port}, if one is to ask the service: {program} is missing, or failed"
        )

    def _ask(self, port: Port, host: str, ownership: PortOwnership, netns: ProcessId | None) -> FoundProbe:
        bare = host if ":" not in host else f"[{host}]"
        tcp = FoundProbe(port, "tcp", str(port.number) if host == "127.0.0.1" else f"{bare}:{port.number}")
        if port.number in NOT_HTTP_PORTS or self.program.name in NOT_HTTP_PROGRAMS:
            return FoundProbe(port, tcp.kind, tcp.value, f"Port {port} is not HTTP, so no request was sent to it")
        if port.number not in HTTPS_PORTS:
            greeting = self.lookup.query(TcpProbe(host, port.number, GREETING_WAIT), HTTP_TIMEOUT, netns)
            if greeting.value:
                shown = clean(greeting.value.splitlines()[0].strip()[:40])
                return FoundProbe(
                    port, tcp.kind, tcp.value, f"Port {port} speaks first (`{shown}`): no request was sent"
                )
        schemes = ("https", "http") if port.number in HTTPS_PORTS else ("http", "https")
        seen = ""
        for scheme in schemes:
            number = "" if port.number == DEFAULT_PORTS[scheme] else f":{port.number}"
            url, seen = self._find_page(f"{scheme}://{bare}{number}", netns)
            after = self.lookup.view.judge_port(self.unit, port)
            if url and after.is_owned and after.sockets == ownership.sockets:
                return FoundProbe(port, "http", url, f"It answered 200 just now, from {self.unit.name} itself")
            if scheme == "http" and TLS_ALERT not in seen and f"answered {BAD_REQUEST}" not in seen:
                break
        return FoundProbe(
            port, tcp.kind, tcp.value, to_fill_in=f"a probe that asks the service; GET / of port {port}: {clean(seen)}"
        )

    def _find_page(self, base: str, netns: ProcessId | None) -> tuple[str, str]:
        """Return the first URL that answers 200, and what the root answered. One page for each path means only that."""
        root = self._get(f"{base}/", netns)
        if not root.ok and not root.detail.startswith("answered "):
            return "", root.detail  # It is not HTTP: one request is enough.
        for path in PATHS[:-1]:
            answer = self._get(f"{base}{path}", netns)
            if answer.ok and answer.reached_port is not None and not (root.ok and answer.value == root.value):
                return f"{base}{path}", root.detail
        return (f"{base}/" if root.ok and root.reached_port is not None else ""), root.detail

    def _get(self, url: str, netns: ProcessId | None) -> Answer[str]:
        self.requests += 1
        return self.lookup.query(HttpProbe(url), HTTP_TIMEOUT, netns)


def find_host(port: Port, ownership: PortOwnership) -> str:
    """Return the address through which a port is asked: loopback, if it listens there."""
    if port.address is not None and not parse_address(port.address).is_unspecified:
        return port.address
    addresses: Sequence[str] = [str(parse_address(one.address)) for one in ownership.listeners]
    if any(one in ("127.0.0.1", "0.0.0.0") for one in addresses) or any(  # noqa: S104 - what others listen on
        one.address == "::" and not one.only_v6 for one in ownership.listeners
    ):
        return "127.0.0.1"
    return "::1" if "::" in addresses or "::1" in addresses or not addresses else addresses[0]
