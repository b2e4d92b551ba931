"""The program that sends a webhook, against servers that answer, redirect, hang and drip."""

from __future__ import annotations

import contextlib
import json
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from typing import Any

import pytest

from runbook.actions import webhook_client


@contextlib.contextmanager
def server(answer: bytes, *, drip: float = 0.0) -> Iterator[tuple[str, list[bytes]]]:
    """Serve one connection: record the request, answer, and then say nothing until the client goes."""
    got: list[bytes] = []

    def serve() -> None:
        with contextlib.suppress(OSError), listening.accept()[0] as connection:
            connection.settimeout(10)
            data = b""
            while b"\r\n\r\n" not in data:
                data += connection.recv(65536)
            head, _, body = data.partition(b"\r\n\r\n")
            length = int(head.lower().partition(b"content-length: ")[2].partition(b"\r\n")[0])
            while len(body) < length:
                body += connection.recv(65536)
            got.append(head + b"\r\n\r\n" + body)
            for part in [answer[n : n + 1] for n in range(len(answer))] if drip else [answer]:
                connection.sendall(part)
                time.sleep(drip)
            connection.recv(1)

    with socket.create_server(("127.0.0.1", 0)) as listening:
        thread = threading.Thread(target=serve, daemon=True)
        thread.start()
        yield f"http://127.0.0.1:{listening.getsockname()[1]}", got
    thread.join(10)


def send(url: str, timeout: float = 5.0, **fields: Any) -> tuple[int, str]:
    """Run the program as a run does. Return its exit status and what it printed."""
    request = json.dumps({"url": url, "headers": {}, "body": "b", "timeout": timeout, **fields})
    argv = [sys.executable, "-I", "-S", webhook_client.__file__]
    done = subprocess.run(argv, input=request, capture_output=True, text=True, timeout=20, check=False)
    assert done.stderr == ""
    return done.returncode, done.stdout


def http(status: str, body: bytes = b"", head: str = "") -> bytes:
    return f"HTTP/1.1 {status}\r\nContent-Length: {len(body)}\r\n{head}\r\n".encode() + body


def test_a_request_is_sent_as_it_was_written() -> None:
    with server(http("204 No Content")) as (url, got):
        path = "/hook/ä b?a=1&b=%20"
        assert send(url + path, headers={"Title": "Größe ☃", "X": "1"}, body="ü\n") == (0, "")
    head, _, body = got[0].partition(b"\r\n\r\n")
    assert head.startswith(b"POST /hook/%C3%A4%20b?a=1&b=%20 HTTP/1.1\r\n")
    assert b"\r\nTitle: Gr\xc3\xb6\xc3\x9fe \xe2\x98\x83" in head
    assert body == "ü\n".encode()


def test_a_login_in_the_url_is_a_header() -> None:
    with server(http("200 OK")) as (url, got):
        assert send(url.replace("//", "//user:w%20rd@")) == (0, "")
    assert b"\r\nAuthorization: Basic dXNlcjp3IHJk\r\n" in got[0] + b"\r\n"


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        (http("500 Oops", b"no_service\nmore"), "answered 500: no_service"),
        (http("403 No"), "answered 403"),
        (http("302 Found", head="Location: file:///etc/passwd\r\n"), "answered 302; a redirection is not followed"),
        (http("307 Moved", head="Location: http://127.0.0.1:1/\r\n"), "answered 307; a redirection is not followed"),
        (http("400 Bad", b"x" * 10_000_000), f"answered 400: {'x' * 160}"),
        (b"SSH-2.0-OpenSSH_9.2\r\n", "its answer is not HTTP"),
        (
            b"HTTP/1.1 200 OK\r\nA: " + b"x" * 100_000 + b"\r\n\r\n",
            "got more than 65536 bytes when reading header line",
        ),
    ],
)
def test_a_bad_answer_is_one_line(answer: bytes, why: str) -> None:
    with server(answer) as (url, _):
        assert send(url) == (1, f"{why}\n")


def test_the_body_of_a_good_answer_is_not_read() -> None:
    with server(http("200 OK", b"x" * 10_000_000)) as (url, _):
        assert send(url) == (0, "")


@pytest.mark.parametrize("drip", [0.0, 0.1])
def test_a_server_that_hangs_or_drips_is_left_in_time(drip: float) -> None:
    began = time.monotonic()
    with server(http("200 OK", head="A: 1\r\n" * 100) if drip else b"", drip=drip) as (url, _):
        assert send(url, timeout=1.0) == (1, "no answer within 1s\n")
    assert time.monotonic() - began < 5


def test_no_server() -> None:
    with socket.create_server(("127.0.0.1", 0)) as reserved:
        url = f"http://127.0.0.1:{reserved.getsockname()[1]}"
    assert send(url) == (1, "connection refused\n")
