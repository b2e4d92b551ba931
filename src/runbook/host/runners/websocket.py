"""One websocket, opened as a client would: to the very server that the URL names, through no proxy.

The handshake is the `websockets` library's, with its part that does no input or output; the socket is this
module's own, so that the work on it can be cut at any moment, and ends at its time-out.

    connect ── request ── 101, and the right key? ── no ──────────► not good: what it answered instead
                                  │ yes
                         watched for a moment ── closed, with a code that means an error, or cut off ──► not good
                                  │ open, or it said something, or it closed in good order
                                  ▼
                                good; a closing frame goes out, and its answer is waited for a moment
"""

from __future__ import annotations

import contextlib
import re
import socket
import ssl
import time

from websockets.client import ClientProtocol
from websockets.exceptions import PayloadTooBig, WebSocketException
from websockets.frames import CloseCode
from websockets.protocol import State
from websockets.uri import parse_uri

from runbook.host.queries import WebsocketProbe
from runbook.host.runners import netns
from runbook.model import Port
from runbook.util.wording import in_words

WATCHED = 0.25
"""Seconds for which an open connection is watched: a server that cannot serve it closes it at once."""

GOODBYE = 0.25
"""Seconds that the server has to answer a closing frame, so that its log knows of an orderly end."""

LONGEST = 64 * 1024
"""Bytes of a message that are kept; a server that sends a longer one talks to its clients."""

PIECE = 4096
"""Bytes of one read."""

GOOD_ENDS = (CloseCode.NORMAL_CLOSURE, CloseCode.NO_STATUS_RCVD)
"""What a server that has nothing to complain of closes with."""

_STATUS = re.compile(rb"HTTP/\d(?:\.\d)? (\d{3})\b[^\r\n]*\r?\n")


class _No(Exception):
    """The answer is no; the message says why."""


class Opening:
    """A websocket to be opened until a moment of CLOCK_MONOTONIC."""

    def __init__(self, probe: WebsocketProbe, until: float) -> None:
        self._probe = probe
        self._until = until
        self._socket: socket.socket | None = None
        self._first = b""
        self.reached: Port | None = None

    def get(self) -> tuple[bool, str, str]:
        """Open it, and tell whether it stands, and what came of it in words."""
        try:
            protocol = ClientProtocol(parse_uri(self._probe.url), max_size=LONGEST)
        except (WebSocketException, ValueError):
            return False, f"{self._probe.url} is no ws or wss URL", ""
        try:
            self._connect(protocol)
            self._shake_hands(protocol)
            return True, self._watch(protocol), ""
        except _No as no:
            return False, str(no), ""
        except ssl.SSLCertVerificationError as error:
            return False, f"its certificate does not verify: {error.verify_message}", ""
        except ssl.SSLError as error:
            return False, f"it does not speak TLS as it should: {error.reason or in_words(error)}", ""
        except (OSError, ValueError) as error:
            return False, in_words(error), ""
        finally:
            self._close()

    def cut(self) -> None:
        """End the connection under the thread that reads from it. May be called at any moment."""
        if self._socket is not None:
            with contextlib.suppress(OSError):
                # Of the socket, not of TLS: that one may be in the middle of a read.
                socket.socket.shutdown(self._socket, socket.SHUT_RDWR)

    def _connect(self, protocol: ClientProtocol) -> None:
        uri = protocol.uri
        self._socket = socket.create_connection((uri.host, uri.port), self._left)
        self.reached = netns.reached(self._socket)
        if uri.secure:
            self._socket.settimeout(self._left)
            secured = ssl.create_default_context().wrap_socket(
                self._socket, server_hostname=uri.host, do_handshake_on_connect=False
            )
            # First it is known to whoever cuts it.
            self._socket = secured
            secured.do_handshake()

    def _shake_hands(self, protocol: ClientProtocol) -> None:
        """Ask for a websocket, and see that one is granted. Raises _No."""
        request = protocol.connect()
        request.headers["User-Agent"] = "runbook"
        for name, value in self._probe.headers:
            with contextlib.suppress(KeyError):
                del request.headers[name]
            request.headers[name] = value
        protocol.send_request(request)
        self._send(protocol)
        while protocol.state is State.CONNECTING and protocol.handshake_exc is None:
            more = self._receive(protocol, self._until)
            # By its first line: the rest of a page may be long in coming.
            status = _STATUS.match(self._first)
            if status and status[1] != b"101":
                raise _No(_no_websocket(int(status[1])))
            if not more:
                break
        if protocol.handshake_exc is not None or protocol.state is State.CONNECTING:
            if not self._first:
                raise _No("it closed the connection without an answer")
            raise _No(f"answered the handshake wrongly: {_why(protocol.handshake_exc)}")

    def _watch(self, protocol: ClientProtocol) -> str:
        """See that the server lets it stand. Raises _No."""
        watched = min(time.monotonic() + WATCHED, self._until)
        more = True
        while more and protocol.state is State.OPEN:
            try:
                more = self._receive(protocol, watched)
            except TimeoutError:
                break
            except (ConnectionError, ssl.SSLError):
                more = False
            protocol.events_received()
        if closed := protocol.close_rcvd:
            if closed.code not in GOOD_ENDS:
                said = f" ({closed.reason})" if closed.reason else ""
                raise _No(f"the handshake was done, and then it closed with {closed.code}{said}")
            return "opened, and was closed in good order"
        if not more:
            raise _No("the handshake was done, and then it cut the connection off")
        if protocol.parser_exc is not None and not isinstance(protocol.parser_exc, PayloadTooBig):
            raise _No(f"the handshake was done, and then it spoke something else: {protocol.parser_exc}")
        self._take_leave(protocol)
        return "opened"

    def _take_leave(self, protocol: ClientProtocol) -> None:
        until = min(time.monotonic() + GOODBYE, self._until)
        with contextlib.suppress(OSError, WebSocketException):
            if protocol.state is State.OPEN:
                protocol.send_close(CloseCode.NORMAL_CLOSURE)
            self._send(protocol)
            while protocol.close_rcvd is None and time.monotonic() < until and self._receive(protocol, until):
                protocol.events_received()

    def _receive(self, protocol: ClientProtocol, until: float) -> bool:
        """Read once; tell whether there was anything. Raises TimeoutError when the time is over."""
        assert self._socket is not None
        left = until - time.monotonic()
        if left <= 0:
            raise TimeoutError
        self._socket.settimeout(left)
        data = self._socket.recv(PIECE)
        if len(self._first) < PIECE:
            self._first += data[: PIECE - len(self._first)]
        if data:
            protocol.receive_data(data)
        else:
            protocol.receive_eof()
        self._send(protocol)
        return bool(data)

    def _send(self, protocol: ClientProtocol) -> None:
        assert self._socket is not None
        for data in protocol.data_to_send():
            # An empty one stands for the end of what is sent; the socket is closed soon enough.
            if data:
                self._socket.settimeout(self._left)
                with contextlib.suppress(BrokenPipeError, ConnectionResetError):
                    self._socket.sendall(data)

    @property
    def _left(self) -> float:
        return max(0.01, self._until - time.monotonic())

    def _close(self) -> None:
        if self._socket is not None:
            self._socket.close()


def _no_websocket(status: int) -> str:
    """Say what it means that a server answers the handshake with another status than 101."""
    answered = f"answered {status} to the handshake, not 101"
    match status:
        case 200:
            return f"{answered}: it serves pages there, and no websocket"
        case 401 | 403:
            return f"{answered}: it does not let this client in"
        case 404:
            return f"{answered}: there is no websocket at this path"
        case _:
            return answered


def _why(error: Exception | None) -> str:
    if error is None:
        return "it ends in the middle"
    return str(error.__cause__ or error)
