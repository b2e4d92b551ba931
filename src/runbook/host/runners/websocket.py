"""One websocket, opened as a client opens it: with the server that the URL names, through no proxy.

The protocol is that of the `websockets` library, in its form without input and output; the socket is opened and read
here. Two promises cannot be kept through the library's own `sync.client`:

- A probe ends at its time-out. That client reads in a thread of its own and joins it without a limit: if a server
  stops in the middle of a TLS record, closing the connection blocks for ever.
- A response other than 101 is reported by its status line. That client reads the response to its end, and an event
  stream has none.

    connect ── request ── 101, and the right key? ── no ──────────► not good: what the server answered instead
                                  │ yes
                         watched for a moment ── closed with an error's code, or cut off ──► not good
                                  │ open, or closed without an error
                                  ▼
                                good; a closing frame is sent, and its answer is waited for a moment
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Callable

from websockets.client import ClientProtocol
from websockets.exceptions import PayloadTooBig, WebSocketException
from websockets.frames import CloseCode
from websockets.protocol import State
from websockets.uri import parse_uri

from runbook.host.queries import WebsocketProbe
from runbook.host.runners import netns
from runbook.model import Port
from runbook.util.wording import describe_error

WATCH_SECONDS = 0.25
"""Seconds for which an open connection is watched: a server that cannot serve it closes it at once."""

CLOSE_HANDSHAKE_WAIT = 0.25
"""Seconds that the server has to answer a closing frame, so that its log knows of an orderly end."""

MAX_MESSAGE = 64 * 1024
"""Bytes of a message that are kept; a server that sends a longer one talks to its clients."""

RECEIVE_BYTES = 4096
"""Bytes of one read."""

CLEAN_CLOSE_CODES = (CloseCode.NORMAL_CLOSURE, CloseCode.NO_STATUS_RCVD)
"""What a server that has nothing to complain of closes with."""

_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? (\d{3})\b[^\r\n]*\r?\n")


_MEANINGS = {
    b"200": ": it serves pages there, and no websocket",
    b"401": ": it does not let this client in",
    b"403": ": it does not let this client in",
    b"404": ": there is no websocket at this path",
}
"""What it means that a server answers the handshake with this status."""


class _ProbeFailed(Exception):
    """The answer is no; the message says why."""


class WebsocketConnection:
    """A websocket to be opened until a moment of CLOCK_MONOTONIC."""

    def __init__(self, probe: WebsocketProbe, until: float) -> None:
        self._probe = probe
        self._until = until
        self._socket: socket.socket | None = None
        self._first = b""
        self.reached_port: Port | None = None

    def run(self) -> tuple[bool, str, str]:
        """Open it; return whether the server lets it stand, how it went in words, and no output."""
        try:
            protocol = ClientProtocol(parse_uri(self._probe.url), max_size=MAX_MESSAGE)
        except (WebSocketException, ValueError):
            return False, f"{self._probe.url} is no ws or wss URL", ""
        try:
            self._connect(protocol)
            self._handshake(protocol)
            return True, self._watch(protocol), ""
        except _ProbeFailed as no:
            return False, str(no), ""
        except ssl.SSLCertVerificationError as error:
            return False, f"its certificate does not verify: {error.verify_message}", ""
        except ssl.SSLError as error:
            return False, f"it does not speak TLS as it should: {error.reason or describe_error(error)}", ""
        except (OSError, ValueError) as error:
            return False, describe_error(error), ""
        finally:
            if self._socket is not None:
                self._socket.close()

    def abort(self) -> None:
        """End the connection under the thread that reads from it. May be called at any moment."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # Of the socket, not of TLS: that one may be in the middle of a read.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _connect(self, protocol: ClientProtocol) -> None:
        uri = protocol.uri
        self._socket = socket.create_connection((uri.host, uri.port), self._left)
        self.reached_port = netns.find_reached_port(self._socket)
        if uri.secure:
            self._socket.settimeout(self._left)
            secured = ssl.create_default_context().wrap_socket(
                self._socket, server_hostname=uri.host, do_handshake_on_connect=False
            )
            # First it is known to whoever cuts it.
            self._socket = secured
            secured.do_handshake()

    def _handshake(self, protocol: ClientProtocol) -> None:
        """Ask for a websocket. Raise _ProbeFailed unless it is granted."""
        request = protocol.connect()
        for name, value in (("User-Agent", "runbook"), *self._probe.headers):
            request.headers.pop(name, None)
            request.headers[name] = value
        protocol.send_request(request)

        def undecided() -> bool:
            # By the status line: the rest of a page may be long in coming.
            status = _STATUS.match(self._first)
            if status and status[1] != b"101":
                meaning = _MEANINGS.get(status[1], "")
                raise _ProbeFailed(f"answered {status[1].decode()} to the handshake, not 101{meaning}")
            return protocol.state is State.CONNECTING and protocol.handshake_exc is None

        self._exchange(protocol, self._until, undecided)
        if error := protocol.handshake_exc:
            wrong = f"answered the handshake wrongly: {error.__cause__ or error}"
            raise _ProbeFailed(wrong if self._first else "it closed the connection without an answer")

    def _watch(self, protocol: ClientProtocol) -> str:
        """Return how the server lets the websocket stand, in words. Raise _ProbeFailed if it does not."""
        whole = True
        until = min(time.monotonic() + WATCH_SECONDS, self._until)
        try:
            with contextlib.suppress(TimeoutError):
                whole = self._exchange(protocol, until, lambda: protocol.state is State.OPEN)
        except (ConnectionError, ssl.SSLError):
            whole = False
        if closed := protocol.close_rcvd:
            if closed.code not in CLEAN_CLOSE_CODES:
                reason = f" ({closed.reason})" if closed.reason else ""
                raise _ProbeFailed(f"the handshake was done, and then it closed with {closed.code}{reason}")
            return "opened, and was closed in good order"
        if not whole:
            raise _ProbeFailed("the handshake was done, and then it cut the connection off")
        if protocol.parser_exc is not None and not isinstance(protocol.parser_exc, PayloadTooBig):
            raise _ProbeFailed(f"the handshake was done, and then it spoke something else: {protocol.parser_exc}")
        self._send_close(protocol)
        return "opened"

    def _send_close(self, protocol: ClientProtocol) -> None:
        """Send a closing frame, and wait a moment for its answer."""
        with contextlib.suppress(OSError, WebSocketException):
            if protocol.state is State.OPEN:
                protocol.send_close(CloseCode.NORMAL_CLOSURE)
            until = min(time.monotonic() + CLOSE_HANDSHAKE_WAIT, self._until)
            self._exchange(protocol, until, lambda: protocol.close_rcvd is None)

    def _exchange(self, protocol: ClientProtocol, until: float, more: Callable[[], bool]) -> bool:
        """Send and receive while there is to be more. Return False if the server ends the connection first.

        Raise TimeoutError at a moment of CLOCK_MONOTONIC, however much the server sends.
        """
        assert self._socket is not None
        self._send(protocol)
        while more():
            left = until - time.monotonic()
            if left <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            if not (data := self._socket.recv(RECEIVE_BYTES)):
                protocol.receive_eof()
                return False
            self._first += data[: RECEIVE_BYTES - len(self._first)]
            protocol.receive_data(data)
            self._send(protocol)
            protocol.events_received()  # They would be kept otherwise.
        return True

    def _send(self, protocol: ClientProtocol) -> None:
        """Send what the protocol has to send, unless the server has ended the connection."""
        assert self._socket is not None
        self._socket.settimeout(self._left)
        with contextlib.suppress(BrokenPipeError, ConnectionResetError):
            self._socket.sendall(b"".join(protocol.data_to_send()))

    @property
    def _left(self) -> float:
        return max(0.01, self._until - time.monotonic())
