"""Sends one HTTP request to the server that the URL names: through no proxy, and without following redirections."""

from __future__ import annotations

import contextlib
import http.client
import socket
import ssl
import time
import urllib.parse
from dataclasses import replace

from runbook.errors import HostError
from runbook.host.queries import Answer, HttpProbe
from runbook.host.runners import netns
from runbook.model import Port
from runbook.util import regex
from runbook.util.wording import describe_error

NOT_AVAILABLE = 503  # what a server answers that is not ready yet
MAX_BODY = 64 * 1024  # bytes of a response's body that are read


class HttpRequest:
    """A GET request that ends at a moment of CLOCK_MONOTONIC."""

    def __init__(self, probe: HttpProbe, until: float) -> None:
        self._probe = probe
        self._until = until
        self._connection: http.client.HTTPConnection | None = None
        self._reached_port: Port | None = None

    def run(self) -> Answer[str]:
        """Return whether the response is as expected, and its body."""
        return replace(self._request(), reached_port=self._reached_port)

    def _request(self) -> Answer[str]:
        probe = self._probe
        try:
            url = urllib.parse.urlsplit(probe.url)
            kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[url.scheme]
            self._connection = kind(url.hostname or "", url.port, timeout=max(0.01, self._until - time.monotonic()))
        except (KeyError, ValueError):  # Another scheme; a port that is not a number.
            return Answer(False, f"{probe.url} is not an http or https URL")
        try:
            headers = {"User-Agent": "runbook", "Connection": "close", **dict(probe.headers)}
            path = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))
            self._connection.connect()
            self._reached_port = netns.find_reached_port(self._connection.sock)
            self._connection.request("GET", path, headers=headers)
            response = self._connection.getresponse()
            body = self._body(response)
        except http.client.RemoteDisconnected:
            return Answer(False, "it closed the connection without an answer")
        except (OSError, http.client.HTTPException, ValueError) as error:
            wrong = isinstance(error, http.client.BadStatusLine | ssl.SSLCertVerificationError)
            return Answer(False, describe_error(error), is_wrong=wrong)
        finally:
            self._connection.close()
        detail = f"answered {response.status}"
        if response.status not in probe.status:
            if where := response.getheader("Location"):
                detail += f", to {where}"
            expected = " or ".join(map(str, probe.status))
            return Answer(False, f"{detail}; expected {expected}", body, is_wrong=response.status != NOT_AVAILABLE)
        try:
            if probe.body and regex.search(probe.body, body) is None:
                return Answer(False, f"{detail}, without `{probe.body}` in it", body, is_wrong=True)
        except HostError as error:
            return Answer(False, f"{detail}, but {error.message}", body)
        return Answer(True, detail, body)

    def abort(self) -> None:
        """Shut the connection down while another thread reads from it. May be called at any moment."""
        with contextlib.suppress(OSError, AttributeError):
            self._connection.sock.shutdown(socket.SHUT_RDWR)  # type: ignore[union-attr]

    def _body(self, response: http.client.HTTPResponse) -> str:
        """Return what arrives of the body in time, at most MAX_BODY bytes: an event stream has no end."""
        parts: list[bytes] = []
        room = MAX_BODY
        with contextlib.suppress(TimeoutError):
            # read1() returns what is there; read() waits for all of it.
            while room and self._until > time.monotonic() and (part := response.read1(room)):
                parts.append(part)
                room -= len(part)
        return b"".join(parts).decode(errors="replace")
