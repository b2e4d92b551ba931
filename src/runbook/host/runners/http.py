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
from runbook.util.wording import describe_error, shorten

NOT_AVAILABLE = 503  # what a server answers that is not ready yet
MAX_LOCATION = 200  # characters of a redirection's address in a sentence
MAX_INTERIM = 16  # how many `100 Continue` may come before a response; http.client would read them without an end
MAX_BODY = 64 * 1024  # bytes of a response's body that are read


class _Response(http.client.HTTPResponse):
    """A response whose interim responses are counted."""

    interim = 0

    def _read_status(self) -> tuple[str, int, str]:
        version, status, reason = super()._read_status()  # type: ignore[misc]
        self.interim += status == http.client.CONTINUE
        if self.interim > MAX_INTERIM:
            raise http.client.HTTPException("it answers `100 Continue` again and again, and nothing else")
        return version, status, reason


class HttpRequest:
    """A GET request that ends at a moment of CLOCK_MONOTONIC."""

    def __init__(self, probe: HttpProbe, until: float) -> None:
        self._probe = probe
        self._until = until
        self._socket: socket.socket | None = None
        self._reached_port: Port | None = None

    def run(self) -> Answer[str]:
        """Return whether the response is as expected, and its body."""
        return replace(self._request(), reached_port=self._reached_port)

    def _request(self) -> Answer[str]:
        probe = self._probe
        try:
            url = urllib.parse.urlsplit(probe.url)
            kind = {"http": http.client.HTTPConnection, "https": http.client.HTTPSConnection}[url.scheme]
            connection = kind(url.hostname or "", url.port, timeout=max(0.01, self._until - time.monotonic()))
        except (KeyError, ValueError):  # Another scheme; a port that is not a number.
            return Answer(False, f"{probe.url} is not an http or https URL")
        try:
            headers = {"User-Agent": "runbook", "Connection": "close", **dict(probe.headers)}
            path = urllib.parse.urlunsplit(("", "", url.path or "/", url.query, ""))
            connection.response_class = _Response
            connection.connect()
            self._socket = connection.sock
            self._reached_port = netns.find_reached_port(connection.sock)
            connection.request("GET", path, headers=headers)
            response = connection.getresponse()
            body = self._body(response)
        except http.client.RemoteDisconnected:
            return Answer(False, "it closed the connection without an answer")
        except (OSError, http.client.HTTPException, ValueError) as error:
            wrong = isinstance(error, http.client.BadStatusLine | ssl.SSLCertVerificationError)
            return Answer(False, describe_error(error), is_wrong=wrong)
        finally:
            connection.close()
        detail = f"answered {response.status}"
        if response.status not in probe.status:
            if where := response.getheader("Location"):
                detail += f", to {shorten(where, MAX_LOCATION)}"
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
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # The socket's own method, not that of TLS, which may be in the middle of a read.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

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
