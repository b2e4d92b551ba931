"""What a `probes` list may hold: `tcp`, `http` and `run`, each asked from this machine, each with a time-out."""

from __future__ import annotations

import ipaddress
import re
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from runbook.fields import Environment, Headers, Limit, Pattern, PortField, Shell, Text, Words
from runbook.host.tasks import Command, HttpProbe, TcpProbe
from runbook.model import Port
from runbook.step import Document, RunState

LOOPBACK = "127.0.0.1"


class TcpFields(Document):
    """Connects to a port, and is content when the connection stands."""

    port: PortField = Field(..., description="A port of this machine, or ADDRESS:NUMBER.")
    timeout: Limit = Field(5.0, description="How long one try may take.")

    def question(self, run: RunState) -> TcpProbe:
        """Make what is asked."""
        return TcpProbe(self.port.address or LOOPBACK, self.port.number)

    @property
    def local_port(self) -> Port | None:
        """The port of this machine's loopback that answers, if it is one."""
        return Port(self.port.number) if _is_loopback(self.port.address or LOOPBACK) else None


class HttpFields(Document):
    """Asks an HTTP server once, with GET."""

    url: Text = Field(..., description="What is asked: http:// or https://.")
    status: Words = Field(("200",), description="The statuses that are good, one or a list.")
    body: Pattern | None = Field(None, description="A pattern to be found in the answer.")
    headers: Headers = Field(default_factory=dict, description="What is sent along.")
    timeout: Limit = Field(5.0, description="How long one try may take.")

    @model_validator(mode="after")
    def _speaks_http(self) -> HttpFields:
        if "${{" not in self.url and not re.match(r"https?://[^/\s]+", self.url):
            raise ValueError(f"`{self.url}` is no URL to ask; write http://127.0.0.1:8080/health")
        for status in self.status:
            if not re.fullmatch(r"[1-5]\d\d", status):
                raise ValueError(f"`{status}` is no HTTP status; write 200, or a list such as [200, 204]")
        return self

    def question(self, run: RunState) -> HttpProbe:
        """Make what is asked."""
        return HttpProbe(self.url, tuple(map(int, self.status)), self.body or "", tuple(self.headers.items()))

    @property
    def local_port(self) -> Port | None:
        """The port of this machine's loopback that answers, if it is one."""
        try:
            parts = urlsplit(self.url)
            number = parts.port or {"http": 80, "https": 443}.get(parts.scheme, 0)
        except ValueError:
            return None
        return Port(number) if number and _is_loopback(parts.hostname or "") else None


class RunFields(Document):
    """Runs a command that merely looks, and is content when it ends with status 0."""

    run: Shell = Field(..., description="The command: a string for `/bin/sh -e`, or a list of its arguments.")
    user: Text = Field("", description="Who runs it; by default who runs `runbook`.")
    cwd: Text = Field("", description="Where it starts; by default the runbook's folder.")
    env: Environment = Field(default_factory=dict, description="What is added to its environment.")
    timeout: Limit = Field(5.0, description="How long one try may take.")

    def question(self, run: RunState) -> Command:
        """Make what is asked."""
        return run.command(self.run, timeout=self.timeout, user=self.user, cwd=self.cwd, env=self.env)

    @property
    def local_port(self) -> Port | None:
        """None: what a command asks is its own affair."""
        return None


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


class Probe(Document):
    """One entry of `probes`: exactly one kind of probe."""

    tcp: TcpFields | None = Field(None, description="Connects to a port.")
    http: HttpFields | None = Field(None, description="Asks an HTTP server, with GET.")
    run: RunFields | None = Field(None, description="Runs a command that merely looks.")

    @model_validator(mode="after")
    def _one_kind(self) -> Probe:
        if len([kind for kind in (self.tcp, self.http, self.run) if kind is not None]) != 1:
            raise ValueError("a probe is exactly one of `tcp`, `http` and `run`")
        return self

    @property
    def asks(self) -> TcpFields | HttpFields | RunFields:
        """The one kind that it is."""
        kind = self.tcp or self.http or self.run
        assert kind is not None
        return kind
