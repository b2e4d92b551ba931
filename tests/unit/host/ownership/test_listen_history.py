"""Where a unit would listen: what was seen, what earlier runs recorded, and what its log shows as in use."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from runbook.host.holders import Listener
from runbook.host.ownership.listen_history import LOG_MAX_AGE, ListenHistory, find_addresses_in_use, find_ports_in_use
from runbook.host.queries import Answer, Query
from runbook.model import Port
from tests.unit.fake_machine import FakeClock, journal_lines, unit

PORT = Port(80)


class FakeLoop:
    """A loop that checks once."""

    def __init__(self) -> None:
        self.clock = FakeClock()

    def run_until(self, done: Callable[[], bool], seconds: float) -> bool:
        return done()


class Log:
    """A journal that counts its readers."""

    def __init__(self, answer: Answer[Any] | None) -> None:
        self.answer = answer
        self.queries: list[Query[Any]] = []

    def __call__(self, query: Query[Any]) -> Answer[Any] | None:
        self.queries += [query] if query not in self.queries else []
        return self.answer


def history(log: Log, loop: FakeLoop | None = None) -> ListenHistory:
    return ListenHistory(loop or FakeLoop(), log, lambda name, port: ("recorded",))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("line", "addresses"),
    [
        ("Error: listen EADDRINUSE: address already in use 127.0.0.1:80", {"127.0.0.1"}),
        ("Error: listen EADDRINUSE: address already in use :::80", {"::"}),
        ("Error: listen EADDRINUSE: address already in use ::1:80", {"::1"}),
        ("nginx: [emerg] bind() to 0.0.0.0:80 failed (98: Address already in use)", {"0.0.0.0"}),
        ("nginx: [emerg] bind() to [::]:80 failed (98: Address already in use)", {"::"}),
        ("(98)Address already in use: AH00072: make_sock: could not bind to address [::]:80", {"::"}),
        ("listen tcp 127.0.0.1:80: bind: address already in use", {"127.0.0.1"}),
        ("listen tcp :80: bind: address already in use", {"::"}),
        ("Could not create server TCP listening socket *:80: bind: Address already in use", {"::"}),
        (
            "[Errno 98] error while attempting to bind on address ('127.0.0.1', 80): address already in use",
            {"127.0.0.1"},
        ),
        ("[ERROR] Connection in use: ('::1', 80)", {"::1"}),
        ("error: Bind to port 80 on 10.0.0.7 failed: Address already in use.", {"10.0.0.7"}),
        ("can't bind socket: Address already in use for 127.0.0.1 port 80", {"127.0.0.1"}),
        ("failed to create listening socket for 127.0.0.1: Address already in use", {"127.0.0.1"}),
        ('could not bind IPv4 address "127.0.0.1": Address already in use', {"127.0.0.1"}),
        ("cannot bind socket (Address already in use) [127.0.0.1:80]", {"127.0.0.1"}),
        ("OSError: [Errno 98] Address already in use", {""}),
        ("listen tcp 127.0.0.1:8080: bind: address already in use", set()),
        ("ready on 127.0.0.1:80", set()),
    ],
)
def test_the_address_that_a_log_line_shows_as_in_use(line: str, addresses: set[str]) -> None:
    assert set(find_addresses_in_use(line, 80)) == addresses


@pytest.mark.parametrize(
    ("line", "ports"),
    [
        ("listen tcp 127.0.0.1:4369: bind: address already in use", (Port(4369),)),
        ("Error: listen EADDRINUSE: address already in use :::8080", (Port(8080),)),
        ("epmd: failed to bind socket, port 4369: address already in use", (Port(4369),)),
        ("cannot bind UDP socket 127.0.0.1:53: Address already in use", (Port(53, "udp"),)),
        ("OSError: [Errno 98] Address already in use", ()),
        ("listens on 127.0.0.1:4369", ()),
        ("port 99999 is in use", ()),
    ],
)
def test_the_ports_that_a_log_line_shows_as_in_use(line: str, ports: tuple[Port, ...]) -> None:
    assert tuple(find_ports_in_use(line)) == ports


def test_the_log_of_one_invocation_is_read_once_in_a_while() -> None:
    loop, log = FakeLoop(), Log(journal_lines("EADDRINUSE 127.0.0.1:80"))
    known = history(log, loop)
    gw = unit(inactive_exit=5_000_000)
    assert {*known.find_refused(gw, PORT)} == {*known.find_refused(gw, PORT)} == {"127.0.0.1"}
    assert len(log.queries) == 1
    loop.clock.time += LOG_MAX_AGE
    known.find_refused(gw, PORT)
    known.find_refused(unit(inactive_exit=5_000_000, invocation_id="b" * 32), PORT)
    assert len(log.queries) == 3


def test_what_an_earlier_invocation_found_in_use_counts_if_the_present_one_names_nothing() -> None:
    log = Log(journal_lines("EADDRINUSE 127.0.0.1:80"))
    known = history(log)
    known.find_refused_ports(unit(inactive_exit=5_000_000))
    log.answer = journal_lines("cannot read the configuration")
    later = unit(inactive_exit=6_000_000, invocation_id="b" * 32)
    assert {*known.find_refused(later, PORT)} == {"127.0.0.1"}
    log.answer = journal_lines("EADDRINUSE 127.0.0.2:80")
    assert {*known.find_refused(unit(inactive_exit=7_000_000, invocation_id="c" * 32), PORT)} == {"127.0.0.2"}


@pytest.mark.parametrize("answer", [None, Answer(False, "this user may not read it")])
def test_a_log_that_cannot_be_read_shows_nothing(answer: Answer[Any] | None) -> None:
    assert not history(Log(answer)).find_refused(unit(inactive_exit=5_000_000), PORT)


def test_a_unit_that_never_started_has_no_log() -> None:
    log = Log(None)
    assert not history(log).find_refused(unit(), PORT)
    assert not log.queries


def test_what_was_seen_comes_before_what_was_recorded() -> None:
    known = history(Log(None))
    assert known.find_earlier(unit(), PORT) == ("recorded",)
    known.remember(unit(), [Listener("tcp", "127.0.0.1", 80, 1), Listener("tcp", "::1", 80, 2)])
    known.remember(unit(), [Listener("tcp", "10.0.0.7", 81, 3), Listener("udp", "10.0.0.7", 80, 4)])
    assert known.find_earlier(unit(), PORT) == {"127.0.0.1", "::1"}
    assert known.find_earlier(unit("other.service"), PORT) == ("recorded",)
