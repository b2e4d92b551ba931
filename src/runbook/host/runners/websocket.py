"""Opens one websocket to the server that the URL names, as a client does, and through no proxy.

The protocol comes from the `websockets` library, in its form without input and output; the socket is opened and read
here. Two promises cannot be kept through the library's own `sync.client`:

- A probe ends at its time-out. That client reads in a thread of its own and joins it without a limit: if a server
  stops in the middle of a TLS record, closing the connection blocks for ever.
- A response other than 101 is reported by its status line. That client reads the response to its end, and an event
  stream has none.

    connect ── request ── 101, and the right key? ── no ──────────► failed: what the server answered instead
                                  │ yes
                         watched for a moment ── closed with an error code, or cut off ──► failed
                                  │ open, or closed without an error
                                  ▼
                                passed; a closing frame is sent, and the server has a moment to answer it
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time
from collections.abc import Callable
from dataclasses import replace

from websockets.client import ClientProtocol
from websockets.exceptions import PayloadTooBig, WebSocketException
from websockets.frames import CloseCode
from websockets.protocol import State
from websockets.uri import parse_uri

from runbook.host.queries import Answer, WebsocketProbe
from runbook.host.runners import netns
from runbook.model import Port
from runbook.util.wording import MAX_ERROR, describe_error, shorten

WATCH_SECONDS = 0.25  # for which an open connection is watched: a server that cannot serve it closes it at once
CLOSE_HANDSHAKE_WAIT = 0.25  # seconds for the answer to a closing frame, so that the server logs an orderly end
MAX_MESSAGE = 64 * 1024  # bytes of a message that are kept. A server that sends a longer one passes: it serves clients
RECEIVE_BYTES = 4096  # bytes of one read
CLEAN_CLOSE_CODES = (CloseCode.NORMAL_CLOSURE, CloseCode.NO_STATUS_RCVD)  # of a server that closes without an error

_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? (\d{3})\b[^\r\n]*\r?\n")

_MEANINGS = {  # of the status with which a server answers the handshake
    b"200": ": it serves pages there, and no websocket",
    b"401": ": it does not accept this client",
    b"403": ": it does not accept this client",
    b"404": ": there is no websocket at this path",
}


class _ProbeFailed(Exception):
    """The probe failed; the message is why. `is_wrong`: see `Answer`."""

    def __init__(self, message: str, *, is_wrong: bool = True) -> None:
        super().__init__(message)
        self.is_wrong = is_wrong


class WebsocketConnection:
    """A websocket whose probe ends at a moment of CLOCK_MONOTONIC."""

    def __init__(self, probe: WebsocketProbe, until: float) -> None:
        self._probe = probe
        self._until = until
        self._socket: socket.socket | None = None
        self._first = b""
        self._reached_port: Port | None = None

    def run(self) -> Answer[None]:
        """Open the websocket, and return whether the server keeps it open."""
        return replace(self._probe_once(), reached_port=self._reached_port)

    def _probe_once(self) -> Answer[None]:
        try:
            protocol = ClientProtocol(parse_uri(self._probe.url), max_size=MAX_MESSAGE)
        except (WebSocketException, ValueError):
            return Answer(False, f"{self._probe.url} is not a ws or wss URL")
        try:
            self._connect(protocol)
            self._handshake(protocol)
            return Answer(True, self._watch(protocol))
        except _ProbeFailed as failure:
            return Answer(False, str(failure), is_wrong=failure.is_wrong)
        except ssl.SSLCertVerificationError as error:
            return Answer(False, f"its certificate does not verify: {error.verify_message}", is_wrong=True)
        except ssl.SSLError as error:
            return Answer(False, f"TLS failed: {error.reason or describe_error(error)}")
        except (OSError, ValueError) as error:
            return Answer(False, describe_error(error))
        finally:
            if self._socket is not None:
                self._socket.close()

    def abort(self) -> None:
        """Shut the connection down while another thread reads from it. May be called at any moment."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # The socket's own method, not that of TLS, which may be in the middle of a read.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _connect(self, protocol: ClientProtocol) -> None:
        uri = protocol.uri
        self._socket = socket.create_connection((uri.host, uri.port), self._left)
        self._reached_port = netns.find_reached_port(self._socket)
        if uri.secure:
            self._socket.settimeout(self._left)
            context = ssl.create_default_context()
            secured = context.wrap_socket(self._socket, server_hostname=uri.host, do_handshake_on_connect=False)
            # Before the handshake, so that abort() can end it.
            self._socket = secured
            secured.do_handshake()

    def _handshake(self, protocol: ClientProtocol) -> None:
        """Request a websocket. Raises _ProbeFailed if the server refuses it."""
        request = protocol.connect()
        for name, value in (("User-Agent", "runbook"), *self._probe.headers):
            request.headers.pop(name, None)  # The library has a User-Agent of its own.
            request.headers[name] = value
        protocol.send_request(request)

        def undecided() -> bool:
            # The status line decides: the rest of the response may take long to arrive.
            status = _STATUS.match(self._first)
            if status and status[1] != b"101":
                meaning = _MEANINGS.get(status[1], "")
                raise _ProbeFailed(
                    f"answered {status[1].decode()} to the handshake, not 101{meaning}", is_wrong=status[1] != b"503"
                )
            return protocol.state is State.CONNECTING and protocol.handshake_exc is None

        self._exchange(protocol, self._until, undecided)
        if error := protocol.handshake_exc:
            invalid = f"answered the handshake wrongly: {shorten(str(error.__cause__ or error), MAX_ERROR)}"
            reason = invalid if self._first else "it closed the connection without an answer"
            raise _ProbeFailed(reason, is_wrong=bool(self._first))

    def _watch(self, protocol: ClientProtocol) -> str:
        """Return how the websocket was opened, in words. Raises _ProbeFailed if the server ends it with an error."""
        connected = True
        until = min(time.monotonic() + WATCH_SECONDS, self._until)
        try:
            with contextlib.suppress(TimeoutError):
                connected = self._exchange(protocol, until, lambda: protocol.state is State.OPEN)
        except (ConnectionError, ssl.SSLError):
            connected = False
        if closed := protocol.close_rcvd:
            if closed.code not in CLEAN_CLOSE_CODES:
                reason = f" ({shorten(closed.reason, MAX_ERROR)})" if closed.reason else ""
                raise _ProbeFailed(
                    f"the handshake was done, and then it closed with {closed.code}{reason}",
                    is_wrong=closed.code != CloseCode.TRY_AGAIN_LATER,
                )
            return "opened, and the server closed it without an error"
        if not connected:
            raise _ProbeFailed("the handshake was done, and then it cut the connection off")
        if protocol.parser_exc is not None and not isinstance(protocol.parser_exc, PayloadTooBig):
            what = shorten(str(protocol.parser_exc), MAX_ERROR)
            raise _ProbeFailed(f"the handshake was done, and then it spoke something else: {what}")
        self._send_close(protocol)
        return "opened"

    def _send_close(self, protocol: ClientProtocol) -> None:
        """Send a closing frame, and wait CLOSE_HANDSHAKE_WAIT for its answer."""
        with contextlib.suppress(OSError, WebSocketException):
            if protocol.state is State.OPEN:
                protocol.send_close(CloseCode.NORMAL_CLOSURE)
            until = min(time.monotonic() + CLOSE_HANDSHAKE_WAIT, self._until)
            self._exchange(protocol, until, lambda: protocol.close_rcvd is None)

    def _exchange(self, protocol: ClientProtocol, until: float, more: Callable[[], bool]) -> bool:
        """Send and receive while `more()`. Return False if the server ends the connection first.

        Raises TimeoutError at a moment of CLOCK_MONOTONIC, however much the server sends.
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
            protocol.events_received()  # Taken and dropped: otherwise the library collects them.
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
