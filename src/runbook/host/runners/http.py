"""One question to a web server: the very one that the URL names, through no proxy, following no redirection."""

from __future__ import annotations

import contextlib
import http.client
import socket
import time
import urllib.parse

from runbook.errors import HostError
from runbook.host.queries import HttpProbe
from runbook.host.runners import netns
from runbook.model import Port
from runbook.util import regex
from runbook.util.wording import describe_error

MAX_BODY = 64 * 1024
"""Bytes of a page that are read."""


class HttpRequest:
    """A page to be asked for until a moment of CLOCK_MONOTONIC."""

    def __init__(self, probe: HttpProbe, until: float) -> None:
        self._probe = probe
        self._until = until
        self._connection: http.client.HTTPConnection | None = None
        self.reached_port: Port | None = None

    def run(self) -> tuple[bool, str, str]:
        """Ask, and tell whether the answer will do, what it was in words, and its body."""
        probe = self._probe
        try:
            self._connection, path = self._prepare()
        except (KeyError, ValueError):
            return False, f"{probe.url} is no http or https URL", ""
        try:
            headers = {"User-Agent": "runbook", "Connection": "close", **dict(probe.headers)}
            self._connection.connect()
            self.reached_port = netns.find_reached_port(self._connection.sock)
            self._connection.request("GET", path, headers=headers)
            response = self._connection.getresponse()
            body = self._body(response)
        except http.client.RemoteDisconnected:
            return False, "it closed the connection without an answer", ""
        except (OSError, http.client.HTTPException, ValueError) as error:
            return False, describe_error(error), ""
        finally:
            self._connection.close()
        detail = f"answered {response.status}"
        if response.status not in probe.status:
            if where := response.getheader("Location"):
                detail += f", to {where}"
            return False, f"{detail}; expected {' or '.join(map(str, probe.status))}", body
        try:
            if probe.body and regex.search(probe.body, body) is None:
                return False, f"{detail}, without `{probe.body}` in it", body
        except HostError as error:
            return False, f"{detail}, but {error.message}", body
        return True, detail, body

    def abort(self) -> None:
        """End the connection under the thread that reads from it. May be called at any moment."""
        with contextlib.suppress(OSError, AttributeError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]

    def _prepare(self) -> tuple[http.client.HTTPConnection, str]:
        url = urllib.parse.urlsplit(self._probe.url)
        kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[url.scheme]
        connection = kind(url.hostname or "", url.port, timeout=max(0.01, self._until - time.monotonic()))
        return connection, urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))

    def _body(self, response: http.client.HTTPResponse) -> str:
        """Read what comes of the body in time, KEPT bytes at most; a stream need not end."""
        parts: list[bytes] = []
        room = MAX_BODY
        with contextlib.suppress(TimeoutError):
            while room and self._until > time.monotonic() and (part := response.read1(room)):
                parts.append(part)
                room -= len(part)
        return b"".join(parts).decode(errors="replace")
