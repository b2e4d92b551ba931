"""What a `probes` list may hold: `tcp`, `http`, `websocket`, `journal` and `run`, each with a time-out.

All but `journal` are asked from within the unit's network namespace.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass, field
from typing import ClassVar
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from runbook.host.queries import Command, HttpProbe, JournalProbe, TcpProbe, WebsocketProbe
from runbook.model import Port, ProcessId
from runbook.spec.fields import (
    CommandField,
    Environment,
    Headers,
    Pattern,
    PortField,
    PositiveSpan,
    TextField,
    TextList,
)
from runbook.spec.state import RunState
from runbook.spec.step import FileModel
from runbook.util.wording import brief_command

LOOPBACK = "127.0.0.1"


@dataclass(frozen=True)
class ProbeRound:
    """What the probes of one round were asked of: an answer counts only while it is still so.

    `invocation` and the `sockets` on the ports are the unit's. `networks` has for each probe the process in whose
    network namespace it is asked. `leftovers` are the PIDs of the unit's earlier invocations, which come and go.
    """

    invocation: str = ""
    sockets: frozenset[int] = frozenset()
    networks: tuple[ProcessId | None, ...] = ()
    leftovers: tuple[int, ...] = field(default=(), compare=False)


class ProbeFields(FileModel):
    """One kind of probe. All have a `timeout`, and say what is `asked` in a sentence."""

    uses_network: ClassVar[bool] = True
    """Whether it asks over the network, and so from within the unit's."""

    @property
    def local_port(self) -> Port | None:
        """The port of this machine's loopback that answers, if it is one."""
        return None


class TcpFields(ProbeFields):
    """Connects to a port, and is content when the connection stands."""

    port: PortField = Field(..., description="A port of this machine, or ADDRESS:NUMBER.")
    timeout: PositiveSpan = Field(5.0, description="How long one try may take.")

    @property
    def label(self) -> str:
        """What is asked, in a sentence."""
        return f"tcp {Port(self.port.number, address=self.port.address or LOOPBACK)}"

    def make_query(self, run: RunState, of: ProbeRound) -> TcpProbe:
        """Make what is asked."""
        return TcpProbe(self.port.address or LOOPBACK, self.port.number)

    @property
    def local_port(self) -> Port | None:
        return _on_loopback(self.port.address or LOOPBACK, self.port.number)


class HttpFields(ProbeFields):
    """Asks an HTTP server once, with GET."""

    url: TextField = Field(..., description="What is asked: http:// or https://.")
    status: TextList = Field(("200",), description="The statuses that are good, one or a list.")
    body: Pattern | None = Field(None, description="A pattern to be found in the answer.")
    headers: Headers = Field(default_factory=dict, description="What is sent along.")
    timeout: PositiveSpan = Field(5.0, description="How long one try may take.")

    @model_validator(mode="after")
    def _speaks_http(self) -> HttpFields:
        if "${{" not in self.url and not re.match(r"https?://[^/\s]+", self.url):
            raise ValueError(f"`{self.url}` is no URL to ask; write http://127.0.0.1:8080/health")
        for status in self.status:
            if not re.fullmatch(r"[1-5]\d\d", status):
                raise ValueError(f"`{status}` is no HTTP status; write 200, or a list such as [200, 204]")
        return self

    @property
    def label(self) -> str:
        """What is asked, in a sentence."""
        return self.url

    def make_query(self, run: RunState, of: ProbeRound) -> HttpProbe:
        """Make what is asked."""
        return HttpProbe(self.url, tuple(map(int, self.status)), self.body or "", tuple(self.headers.items()))

    @property
    def local_port(self) -> Port | None:
        return _local_port(self.url)


class WebsocketFields(ProbeFields):
    """Opens a websocket, and is content when the server lets it stand."""

    url: TextField = Field(..., description="What is opened: ws:// or wss://.")
    headers: Headers = Field(default_factory=dict, description="What is sent along with the handshake.")
    timeout: PositiveSpan = Field(5.0, description="How long one try may take.")

    @model_validator(mode="after")
    def _speaks_websocket(self) -> WebsocketFields:
        if "${{" in self.url:
            return self
        if "#" in self.url:
            raise ValueError(f"`{self.url}` is no URL of a websocket: it may have no #")
        if not re.fullmatch(r"wss?://[^/\s]+\S*", self.url):
            near = re.sub("^http", "ws", self.url) if self.url.startswith("http") else "ws://127.0.0.1:8080/path"
            raise ValueError(f"`{self.url}` is no URL of a websocket; write {near}")
        return self

    @property
    def label(self) -> str:
        """What is asked, in a sentence."""
        return self.url

    def make_query(self, run: RunState, of: ProbeRound) -> WebsocketProbe:
        """Make what is asked."""
        return WebsocketProbe(self.url, tuple(self.headers.items()))

    @property
    def local_port(self) -> Port | None:
        return _local_port(self.url)


class JournalFields(ProbeFields):
    """Looks for a pattern in what the unit's current invocation has written into the journal."""

    uses_network: ClassVar[bool] = False

    pattern: Pattern = Field(..., description="A pattern to be found in an entry.")
    timeout: PositiveSpan = Field(5.0, description="How long one try may take.")

    @property
    def label(self) -> str:
        """What is asked, in a sentence."""
        return "journal"

    def make_query(self, run: RunState, of: ProbeRound) -> JournalProbe:
        """Make what is asked."""
        return JournalProbe(self.pattern, of.invocation, of.leftovers)


class RunFields(ProbeFields):
    """Runs a command that merely looks, and is content when it ends with status 0."""

    run: CommandField = Field(..., description="The command: a string for `/bin/sh -e`, or a list of its arguments.")
    user: TextField = Field("", description="Who runs it; by default who runs `runbook`.")
    cwd: TextField = Field("", description="Where it starts; by default the runbook's folder.")
    env: Environment = Field(default_factory=dict, description="What is added to its environment.")
    timeout: PositiveSpan = Field(5.0, description="How long one try may take.")

    @property
    def label(self) -> str:
        """What is asked, in a sentence."""
        return brief_command(self.run)

    def make_query(self, run: RunState, of: ProbeRound) -> Command:
        """Make what is asked."""
        return run.make_command(self.run, timeout=self.timeout, user=self.user, cwd=self.cwd, env=self.env)


def _local_port(url: str) -> Port | None:
    try:
        parts = urlsplit(url)
        number = parts.port or {"http": 80, "ws": 80, "https": 443, "wss": 443}.get(parts.scheme, 0)
    except ValueError:
        return None
    return _on_loopback(parts.hostname or "", number) if number else None


def _on_loopback(host: str, number: int) -> Port | None:
    """Give the port of this machine that is reached by a host; None where that may be another machine."""
    if host == "localhost":
        return Port(number)  # The name stands for an address of either family.
    try:
        address = ipaddress.ip_address(host)
    except ValueError:
        return None
    if address.is_unspecified:
        return Port(number)  # Linux takes it for the machine itself.
    return Port(number, address=host) if address.is_loopback else None


ProbeKind = TcpFields | HttpFields | WebsocketFields | JournalFields | RunFields


class Probe(FileModel):
    """One entry of `probes`: exactly one kind of probe."""

    tcp: TcpFields | None = Field(None, description="Connects to a port.")
    http: HttpFields | None = Field(None, description="Asks an HTTP server, with GET.")
    websocket: WebsocketFields | None = Field(None, description="Opens a websocket.")
    journal: JournalFields | None = Field(None, description="Looks for a pattern in this invocation's entries.")
    run: RunFields | None = Field(None, description="Runs a command that merely looks.")

    @model_validator(mode="after")
    def _one_kind(self) -> Probe:
        if len([kind for kind in self._all_kinds if kind is not None]) != 1:
            raise ValueError("a probe is exactly one of `tcp`, `http`, `websocket`, `journal` and `run`")
        return self

    @property
    def _all_kinds(self) -> tuple[ProbeKind | None, ...]:
        return self.tcp, self.http, self.websocket, self.journal, self.run

    @property
    def chosen(self) -> ProbeKind:
        """The one kind that it is."""
        return next(kind for kind in self._all_kinds if kind is not None)
