"""Websocket probes of real servers: some serve websockets, some only seem to."""

from __future__ import annotations

import base64
import contextlib
import hashlib
import queue
import re
import socket
import ssl
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from websockets.sync.server import Server, ServerConnection, serve

from runbook.host.queries import Query, WebsocketProbe
from runbook.host.runners.query_runner import QueryRunner
from tests.unit.host.conftest import PATIENCE, PROMPT, Ask, Handler

Serve = Callable[[Callable[[ServerConnection], None]], str]
Raw = Callable[[Handler], str]


@pytest.fixture
def serves() -> Iterator[Serve]:
    """Start a real websocket server that passes each connection to a handler; return its URL."""
    servers: list[tuple[Server, threading.Thread]] = []

    def start(handler: Callable[[ServerConnection], None]) -> str:
        server = serve(handler, "127.0.0.1", 0, close_timeout=0.1)
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        servers.append((server, thread))
        return f"ws://127.0.0.1:{server.socket.getsockname()[1]}"

    yield start
    for server, thread in servers:
        server.shutdown()
        thread.join(PATIENCE)


@pytest.fixture
def raw(server: Callable[[Handler], str]) -> Raw:
    """Start a server that does not serve websockets."""
    return lambda handler: server(handler).replace("http:", "ws:")


def granted(connection: socket.socket) -> None:
    """Do the handshake by hand."""
    asked = connection.recv(65536)
    key = re.search(rb"Sec-WebSocket-Key: (\S+)", asked)
    assert key
    accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
    connection.sendall(
        b"HTTP/1.1 101 Switching Protocols\r\nUpgrade: websocket\r\nConnection: Upgrade\r\n"
        b"Sec-WebSocket-Accept: " + accept + b"\r\n\r\n"
    )


def test_a_server_that_serves_websockets(ask: Ask, serves: Serve) -> None:
    ended: queue.Queue[int | None] = queue.Queue()

    def echo(connection: ServerConnection) -> None:
        for message in connection:
            connection.send(message)
        ended.put(connection.close_code)

    answer = ask(WebsocketProbe(serves(echo)))
    assert (answer.ok, answer.detail) == (True, "opened")
    assert ask.seconds < PROMPT
    assert ended.get(timeout=PATIENCE) == 1000  # The server logs an orderly end.


def test_the_headers_that_are_sent(ask: Ask, serves: Serve, monkeypatch: pytest.MonkeyPatch) -> None:
    """The headers are sent, and through no proxy, whatever the environment contains."""
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    monkeypatch.setenv("all_proxy", "http://127.0.0.1:1")
    seen: list[tuple[str, str | None, str | None]] = []

    def note(connection: ServerConnection) -> None:
        assert connection.request is not None
        headers = connection.request.headers
        seen.append((connection.request.path, headers.get("Authorization"), headers["User-Agent"]))
        with contextlib.suppress(Exception):
            connection.recv()

    headers = (("Authorization", "Bearer x"), ("user-agent", "me"))
    assert ask(WebsocketProbe(f"{serves(note)}/a/b?c=d", headers)).ok
    assert seen == [("/a/b?c=d", "Bearer x", "me")]


def test_a_server_that_greets(ask: Ask, serves: Serve) -> None:
    def greet(connection: ServerConnection) -> None:
        connection.send("hello")
        connection.send(b"x" * 1_000_000)  # More than is kept of it.
        with contextlib.suppress(Exception):
            connection.recv()

    assert ask(WebsocketProbe(serves(greet))).ok


@pytest.mark.parametrize(
    ("code", "reason", "good", "detail"),
    [
        (1011, "no database", False, "the handshake was done, and then it closed with 1011 (no database)"),
        (4001, "", False, "the handshake was done, and then it closed with 4001"),
        (1001, "", False, "the handshake was done, and then it closed with 1001"),
        (1000, "bye", True, "opened, and the server closed it without an error"),
    ],
)
def test_a_server_that_closes_at_once(ask: Ask, serves: Serve, code: int, reason: str, good: bool, detail: str) -> None:
    answer = ask(WebsocketProbe(serves(lambda connection: connection.close(code, reason))))
    assert (answer.ok, answer.detail) == (good, detail)


def test_a_server_whose_handler_fails(ask: Ask, serves: Serve) -> None:
    def fail(connection: ServerConnection) -> None:
        connection.logger.disabled = True  # type: ignore[union-attr]
        raise RuntimeError

    answer = ask(WebsocketProbe(serves(fail)))
    assert (answer.ok, answer.detail) == (False, "the handshake was done, and then it closed with 1011")


@pytest.mark.parametrize(
    ("text", "detail"),
    [
        (
            "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello",
            "answered 200 to the handshake, not 101: it serves pages there, and no websocket",
        ),
        ("HTTP/1.1 404 No\n\n", "answered 404 to the handshake, not 101: there is no websocket at this path"),
        ("HTTP/1.1 401 No\n\n", "answered 401 to the handshake, not 101: it does not accept this client"),
        ("HTTP/1.0 502 Bad Gateway\n\n", "answered 502 to the handshake, not 101"),
        ("HTTP/1.1 100 Continue\n\n" * 1000, "answered 100 to the handshake, not 101"),
        ("HTTP/1.1 101 Yes\n\n", "answered the handshake wrongly: missing Connection header"),
        (
            "HTTP/1.1 101 Yes\nConnection: Upgrade\nUpgrade: websocket\nSec-WebSocket-Accept: x\n\n",
            "answered the handshake wrongly: invalid Sec-WebSocket-Accept header: x",
        ),
        ("HTTP/1.1 101 Yes\nConn", "answered the handshake wrongly: "),
        ("SSH-2.0-OpenSSH_9.2\n", "answered the handshake wrongly: "),
        ("", "it closed the connection without an answer"),
    ],
)
def test_a_server_of_something_else(ask: Ask, raw: Raw, text: str, detail: str) -> None:
    def reply(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(text.replace("\n", "\r\n").encode())

    answer = ask(WebsocketProbe(raw(reply)))
    assert not answer.ok
    assert answer.detail.startswith(detail)


def test_a_page_that_does_not_end(ask: Ask, raw: Raw) -> None:
    """The status line decides."""

    def stream(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\n\r\n")
        while connection.recv(65536):
            pass

    answer = ask(WebsocketProbe(raw(stream)))
    assert answer.detail.startswith("answered 200 to the handshake")
    assert ask.seconds < PROMPT


def test_no_listener(ask: Ask) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, so that no other process listens there; never listening
        answer = ask(WebsocketProbe(f"ws://127.0.0.1:{held.getsockname()[1]}"))
    assert (answer.ok, answer.detail) == (False, "connection refused")


def test_the_connection_is_cut_off_after_the_handshake(ask: Ask, raw: Raw) -> None:
    answer = ask(WebsocketProbe(raw(granted)))
    assert (answer.ok, answer.detail) == (False, "the handshake was done, and then it cut the connection off")


def test_something_else_after_the_handshake(ask: Ask, raw: Raw) -> None:
    def babble(connection: socket.socket) -> None:
        granted(connection)
        connection.sendall(b"HTTP/1.1 500 oops\r\n\r\n" * 10)
        while connection.recv(65536):
            pass

    answer = ask(WebsocketProbe(raw(babble)))
    assert not answer.ok
    assert answer.detail.startswith("the handshake was done, and then it spoke something else: ")


def test_a_server_that_never_stops_talking(ask: Ask, raw: Raw) -> None:
    def flood(connection: socket.socket) -> None:
        granted(connection)
        while True:
            connection.sendall(b"\x82\x7e\x10\x00" + b"x" * 4096)

    answer = ask(WebsocketProbe(raw(flood)))
    assert answer.ok
    assert ask.seconds < PROMPT


def test_a_handshake_that_never_ends(ask: Ask, raw: Raw) -> None:
    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 101 Yes\r\n")
        while True:
            connection.sendall(b"X: y\r\n")
            time.sleep(0.05)

    answer = ask(WebsocketProbe(raw(drip)), 0.3)
    assert (answer.ok, answer.detail) == (False, "no answer in time")
    assert ask.seconds < PROMPT


def test_a_server_that_never_answers(ask: Ask, raw: Raw) -> None:
    def hang(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    answer = ask(WebsocketProbe(raw(hang)), 0.2)
    assert (answer.ok, answer.detail) == (False, "no answer in time")


@pytest.fixture
def certificate(tmp_path: Path) -> Path:
    """A self-signed certificate for localhost, with its key."""
    file = tmp_path / "localhost.pem"
    made = ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-noenc"]
    name = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost,IP:127.0.0.1"]
    subprocess.run([*made, *name, "-keyout", str(file), "-out", str(file)], check=True, capture_output=True)
    return file


@pytest.fixture
def secured(certificate: Path, server: Callable[[Handler], str]) -> Callable[[Handler], str]:
    """Start a TLS server that passes each connection to a handler; return its URL."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate)

    def start(handler: Handler) -> str:
        def handle(connection: socket.socket) -> None:
            with context.wrap_socket(connection, server_side=True) as wrapped:
                handler(wrapped)

        return server(handle).replace("http:", "wss:")

    return start


def still(connection: socket.socket) -> None:
    """Accept the websocket, and send nothing more."""
    granted(connection)
    while connection.recv(65536):
        pass


def test_with_tls(
    ask: Ask, secured: Callable[[Handler], str], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    answer = ask(WebsocketProbe(secured(still)))
    assert (answer.ok, answer.detail) == (True, "opened")


def test_with_tls_it_is_cut_off(
    ask: Ask, secured: Callable[[Handler], str], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    answer = ask(WebsocketProbe(secured(granted)))
    assert (answer.ok, answer.detail) == (False, "the handshake was done, and then it cut the connection off")


def test_with_tls_a_record_is_never_finished(
    ask: Ask, secured: Callable[[Handler], str], certificate: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(connection: socket.socket) -> None:
        granted(connection)
        with socket.socket(fileno=connection.detach()) as beneath:
            beneath.sendall(b"\x17\x03\x03\x01\x00" + b"x" * 10)
            while beneath.recv(65536):
                pass

    monkeypatch.setenv("SSL_CERT_FILE", str(certificate))
    answer = ask(WebsocketProbe(secured(stop)))
    assert (answer.ok, answer.detail) == (True, "opened")
    assert ask.seconds < PROMPT


def test_a_certificate_without_a_trusted_issuer(ask: Ask, secured: Callable[[Handler], str]) -> None:
    answer = ask(WebsocketProbe(secured(still)))
    assert not answer.ok
    assert answer.detail.startswith("its certificate does not verify: self")


def test_a_url_of_ipv6(ask: Ask) -> None:
    with socket.create_server(("::1", 0), family=socket.AF_INET6) as listening:
        asked: list[bytes] = []

        def reply() -> None:
            connection, _ = listening.accept()
            with connection:
                asked.append(connection.recv(65536))

        thread = threading.Thread(target=reply)
        thread.start()
        port = listening.getsockname()[1]
        answer = ask(WebsocketProbe(f"ws://[::1]:{port}/"))
        thread.join(PATIENCE)
    assert answer.detail == "it closed the connection without an answer"
    assert f"\r\nHost: [::1]:{port}\r\n".encode() in asked[0]


def test_no_tls(ask: Ask, serves: Serve) -> None:
    url = serves(lambda connection: None).replace("ws:", "wss:")
    answer = ask(WebsocketProbe(url))
    assert not answer.ok
    assert answer.detail.startswith("TLS failed: ")


def test_no_url(ask: Ask) -> None:
    assert ask(WebsocketProbe("http://127.0.0.1/")).detail == "http://127.0.0.1/ is not a ws or wss URL"
    assert not ask(WebsocketProbe("ws://127.0.0.1:notaport/")).ok


def test_the_exit_of_the_program_ends_it(queries: QueryRunner, raw: Raw, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = threading.Event()

    def hang(connection: socket.socket) -> None:
        connection.recv(65536)
        asked.set()
        while connection.recv(65536):
            pass

    assert queries.query(Query(WebsocketProbe(raw(hang)), 1, 60)) is None
    assert asked.wait(PATIENCE)
    threads = threading.active_count()
    began = time.monotonic()
    monkeypatch.setattr("runbook.host.runners.query_runner.CLOSE_WAIT", PATIENCE)
    queries.close()
    assert time.monotonic() - began < PROMPT
    assert threading.active_count() < threads
