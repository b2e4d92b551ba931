"""The kinds of probes in a `probes` list: `tcp`, `http`, `websocket`, `journal` and `run`, each with a time-out.

All but `journal` run in the unit's network namespace.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import field
from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from runbook.host.queries import (
    Command,
    HttpProbe,
    JournalProbe,
    LogSettings,
    QueryKind,
    TcpProbe,
    WebsocketProbe,
)
from runbook.model import Port, ProcessId, frozen
from runbook.spec.fields import (
    CommandField,
    Environment,
    FolderField,
    Headers,
    Pattern,
    PortField,
    PositiveSpan,
    TextField,
    TextList,
    UserField,
)
from runbook.spec.state import RunState
from runbook.spec.step import FileModel
from runbook.util.wording import brief_command

LOOPBACK = "127.0.0.1"


@frozen
class ProbeRound:
    """What the probes of one round are asked of. Their answers count only while it stays equal."""

    unit: str = ""
    invocation: str = ""  # the unit's invocation
    sockets: frozenset[int] = frozenset()  # the inodes of the sockets on the probed ports
    networks: tuple[ProcessId | None, ...] = ()  # for each probe, in whose network namespace it runs; None for our own
    leftovers: tuple[int, ...] = field(default=(), compare=False)
    """PIDs of earlier invocations in the unit's cgroup. Not compared: they exit at any time."""
    log_settings: LogSettings | None = None  # those of the unit


class ProbeFields(FileModel):
    """The fields of one kind of probe."""

    uses_network: ClassVar[bool] = True  # True if it runs in the unit's network namespace

    @property
    def label(self) -> str:
        """What is probed, for a message."""
        raise NotImplementedError

    @property
    def local_port(self) -> Port | None:
        """The port of this machine that the probe names; None if it names another machine, or no port."""
        return None

    def make_query(self, run: RunState, of: ProbeRound) -> QueryKind[str | None]:
        """Return the query."""
        raise NotImplementedError


class UrlFields(ProbeFields):
    """The fields of a probe of a URL."""

    url: TextField

    @property
    def label(self) -> str:
        return self.url

    @property
    def local_port(self) -> Port | None:
        return _local_port(self.url)


class TcpFields(ProbeFields):
    """Passes if a TCP connection is established."""

    port: PortField = Field(..., description="A port of this machine, or ADDRESS:NUMBER.")
    timeout: PositiveSpan = Field(5.0, description="How long one attempt may take.")

    @property
    def label(self) -> str:
        return f"tcp {Port(self.port.number, address=self.port.address or LOOPBACK)}"

    def make_query(self, run: RunState, of: ProbeRound) -> TcpProbe:
        return TcpProbe(self.port.address or LOOPBACK, self.port.number)

    @property
    def local_port(self) -> Port | None:
        return _on_loopback(self.port.address or LOOPBACK, self.port.number)


class HttpFields(UrlFields):
    """Passes if one GET request gets an expected response."""

    url: TextField = Field(..., description="An http:// or https:// URL.", examples=["http://127.0.0.1:8080/health"])
    status: TextList = Field(("200",), description="The expected statuses, one or a list.", examples=[200, [200, 204]])
    body: Pattern | None = Field(None, description="A pattern to find in the body.", examples=['"status": *"ok"'])
    headers: Headers = Field(default_factory=dict, description="Headers of the request.")
    timeout: PositiveSpan = Field(5.0, description="How long one attempt may take.")

    @model_validator(mode="after")
    def _speaks_http(self) -> HttpFields:
        # A template is not a URL yet.
        if "${{" not in self.url and not re.match(r"https?://[^/\s]+", self.url):
            raise ValueError(f"`{self.url}` is not an http or https URL; write http://127.0.0.1:8080/health")
        for status in self.status:
            if not re.fullmatch(r"[1-5]\d\d", status):
                raise ValueError(f"`{status}` is not an HTTP status; write 200, or a list such as [200, 204]")
        return self

    def make_query(self, run: RunState, of: ProbeRound) -> HttpProbe:
        return HttpProbe(self.url, tuple(map(int, self.status)), self.body or "", tuple(self.headers.items()))


class WebsocketFields(UrlFields):
    """Passes if a websocket opens, and the server does not close it at once."""

    url: TextField = Field(..., description="A ws:// or wss:// URL.", examples=["ws://127.0.0.1:18789/"])
    headers: Headers = Field(default_factory=dict, description="Headers of the handshake.")
    timeout: PositiveSpan = Field(5.0, description="How long one attempt may take.")

    @model_validator(mode="after")
    def _speaks_websocket(self) -> WebsocketFields:
        if "${{" in self.url:
            return self
        if "#" in self.url:
            raise ValueError(f"`{self.url}` is not a websocket URL: it must not have a #")
        if not re.fullmatch(r"wss?://[^/\s]+\S*", self.url):
            near = re.sub("^http", "ws", self.url) if self.url.startswith("http") else "ws://127.0.0.1:8080/path"
            raise ValueError(f"`{self.url}` is not a websocket URL; write {near}")
        return self

    def make_query(self, run: RunState, of: ProbeRound) -> WebsocketProbe:
        return WebsocketProbe(self.url, tuple(self.headers.items()))


class JournalFields(ProbeFields):
    """Passes if a pattern is found in the journal entries of the unit's current invocation."""

    uses_network: ClassVar[bool] = False

    pattern: Pattern = Field(..., description="A pattern to find in an entry.", examples=["^listening on "])
    timeout: PositiveSpan = Field(5.0, description="How long one attempt may take.")

    @property
    def label(self) -> str:
        return "journal"

    def make_query(self, run: RunState, of: ProbeRound) -> JournalProbe:
        return JournalProbe(self.pattern, of.unit, of.invocation, of.leftovers, of.log_settings)


class RunFields(ProbeFields):
    """Passes if a command that only reads exits with status 0."""

    run: CommandField = Field(
        ...,
        description="The command: a string for `/bin/sh -e`, or a list of its arguments.",
        examples=["gateway-cli ping", ["gateway-cli", "ping"]],
    )
    user: UserField = Field("", description="The user to run it as; by default the caller.")
    cwd: FolderField = Field("", description="The working directory; by default the runbook's folder.")
    env: Environment = Field(default_factory=dict, description="Variables to add to its environment.")
    timeout: PositiveSpan = Field(5.0, description="How long one attempt may take.")

    @property
    def label(self) -> str:
        return brief_command(self.run)

    def make_query(self, run: RunState, of: ProbeRound) -> Command:
        return run.make_command(self.run, timeout=self.timeout, user=self.user, cwd=self.cwd, env=self.env)


def _local_port(url: str) -> Port | None:
    try:
        parts = urlsplit(url)
        number = parts.port or {"http": 80, "ws": 80, "https": 443, "wss": 443}.get(parts.scheme, 0)
    except ValueError:
        return None
    return _on_loopback(parts.hostname or "", number) if number else None


def _on_loopback(host: str, number: int) -> Port | None:
    """Return the port of this machine that a host leads to; None if it may lead to another machine."""
    if host == "localhost":
        return Port(number)  # An address of either family.
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.is_unspecified:
        return Port(number)  # Linux connects 0.0.0.0 and :: to the machine itself.
    return Port(number, address=host) if address.is_loopback else None


ProbeKind = TcpFields | HttpFields | WebsocketFields | JournalFields | RunFields


class Probe(FileModel):
    """One entry of `probes`: exactly one kind of probe."""

    tcp: TcpFields | None = Field(None, description="Connects to a TCP port.")
    http: HttpFields | None = Field(None, description="Sends a GET request to an HTTP server.")
    websocket: WebsocketFields | None = Field(None, description="Opens a websocket.")
    journal: JournalFields | None = Field(None, description="Searches this invocation's journal entries for a pattern.")
    run: RunFields | None = Field(None, description="Runs a command that only reads.")

    @model_validator(mode="after")
    def _one_kind(self) -> Probe:
        if len([kind for kind in self._all_kinds if kind is not None]) != 1:
            raise ValueError("a probe must be exactly one of `tcp`, `http`, `websocket`, `journal` and `run`")
        return self

    @property
    def _all_kinds(self) -> tuple[ProbeKind | None, ...]:
        return self.tcp, self.http, self.websocket, self.journal, self.run

    @property
    def chosen(self) -> ProbeKind:
        """The kind that the entry has."""
        return next(kind for kind in self._all_kinds if kind is not None)
