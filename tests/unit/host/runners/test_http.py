"""HTTP probes of real servers that misbehave."""

from __future__ import annotations

import contextlib
import socket
import time
from collections.abc import Callable

import pytest

from runbook.host.queries import HttpProbe
from runbook.host.runners.http import MAX_BODY
from tests.unit.host.conftest import PROMPT, Ask, Handler
from tests.unit.host.runners.conftest import OK, replying


def test_http(ask: Ask, server: Callable[[Handler], str]) -> None:
    answer = ask(HttpProbe(server(replying(OK))))
    assert (answer.ok, answer.detail, answer.value) == (True, "answered 200", "hello")


def test_http_requests_what_the_url_names(ask: Ask, server: Callable[[Handler], str]) -> None:
    asked: list[str] = []

    def reply(connection: socket.socket) -> None:
        asked.append(connection.recv(65536).decode())
        connection.sendall(OK.replace("\n", "\r\n").encode())

    ask(HttpProbe(f"{server(reply)}/a/b?c=d#e", headers=(("Authorization", "Bearer x"),)))
    assert asked[0].startswith("GET /a/b?c=d HTTP/1.1\r\n")
    assert "\r\nAuthorization: Bearer x\r\n" in asked[0]


@pytest.mark.parametrize(
    ("probe", "text", "good", "detail"),
    [
        ({"status": (200, 204)}, "HTTP/1.1 204 No\n\n", True, "answered 204"),
        ({}, "HTTP/1.1 503 Bad\nContent-Length: 0\n\n", False, "answered 503; expected 200"),
        ({}, "HTTP/1.1 302 F\nLocation: /in\n\n", False, "answered 302, to /in; expected 200"),
        ({"status": (302,)}, "HTTP/1.1 302 F\nLocation: /in\n\n", True, "answered 302"),
        ({"body": "h.llo"}, OK, True, "answered 200"),
        ({"body": "bye"}, OK, False, "answered 200, without `bye` in it"),
        ({"body": "(h.*)*x"}, OK, False, "answered 200, without `(h.*)*x` in it"),
        (
            {"body": "(a+)+$"},
            f"HTTP/1.1 200 OK\n\n{'a' * 40}b",
            False,
            "answered 200, but cannot search for `(a+)+$`: it takes too long",
        ),
        ({}, "SSH-2.0-OpenSSH_9.2\n", False, "SSH-2.0-OpenSSH_9.2"),
        ({}, "", False, "it closed the connection without an answer"),
    ],
)
def test_http_answers(
    ask: Ask, server: Callable[[Handler], str], probe: dict[str, object], text: str, good: bool, detail: str
) -> None:
    answer = ask(HttpProbe(server(replying(text)), **probe))  # type: ignore[arg-type]
    assert (answer.ok, answer.detail) == (good, detail)


def test_http_goes_through_no_proxy(
    ask: Ask, server: Callable[[Handler], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert ask(HttpProbe(server(replying(OK)))).ok


def test_http_that_never_answers(ask: Ask, server: Callable[[Handler], str]) -> None:
    def hang(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    answer = ask(HttpProbe(server(hang)), 0.2)
    assert (answer.ok, answer.detail) == (False, "no answer in time")
    assert ask.seconds < PROMPT


def test_http_that_answers_drop_by_drop(ask: Ask, server: Callable[[Handler], str]) -> None:
    """Each byte arrives in time, the whole response does not."""

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"X: y\r\n")
            time.sleep(0.05)

    began = time.monotonic()
    answer = ask(HttpProbe(server(drip)), 0.3)
    assert (answer.ok, answer.detail) == (False, "no answer within 0.3s")
    assert time.monotonic() - began < PROMPT


def test_a_body_that_does_not_end(ask: Ask, server: Callable[[Handler], str]) -> None:
    """The server has answered with an event stream, which continues."""

    def stream(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nevent\n")
        while connection.recv(65536):
            pass

    answer = ask(HttpProbe(server(stream), body="event"), 0.2)
    assert (answer.ok, answer.value) == (True, "event\n")


def test_a_body_is_read_in_part(ask: Ask, server: Callable[[Handler], str]) -> None:
    answer = ask(HttpProbe(server(replying("HTTP/1.1 200 OK\n\n" + "x" * 100_000))))
    assert answer.ok
    assert len(answer.value or "") == MAX_BODY


def test_no_url(ask: Ask) -> None:
    assert ask(HttpProbe("ftp://127.0.0.1/")).detail == "ftp://127.0.0.1/ is not an http or https URL"
    assert not ask(HttpProbe("http://127.0.0.1:notaport/")).ok


def test_an_invalid_pattern_is_answered(ask: Ask, server: Callable[[Handler], str]) -> None:
    assert not ask(HttpProbe(server(replying(OK)), body="(")).ok


def test_a_long_answer_is_shown_in_part(ask: Ask, server: Callable[[Handler], str]) -> None:
    """The address of a redirection, and a status line that is none."""
    for text in (f"HTTP/1.1 302 F\nLocation: /{'x' * 60000}\n\n", f"SSH-{'x' * 60000}\n"):
        answer = ask(HttpProbe(server(replying(text))))
        assert not answer.ok
        assert len(answer.detail) < 400


def test_endless_interim_responses_end_the_probe(ask: Ask, server: Callable[[Handler], str]) -> None:
    def reply(connection: socket.socket) -> None:
        connection.recv(65536)
        with contextlib.suppress(OSError):
            while True:
                connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n" * 100)

    began = time.monotonic()
    answer = ask(HttpProbe(server(reply)))
    assert (answer.ok, answer.detail) == (False, "it answers `100 Continue` again and again, and nothing else")
    assert time.monotonic() - began < PROMPT


def test_a_few_interim_responses_are_passed_over(ask: Ask, server: Callable[[Handler], str]) -> None:
    assert ask(HttpProbe(server(replying("HTTP/1.1 100 Continue\n\n" * 3 + OK)))).ok
