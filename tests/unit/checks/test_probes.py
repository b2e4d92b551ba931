"""The kinds of probes: what each one queries, and which port of this machine it names."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from pydantic import ValidationError

from runbook.checks.probes import Probe, ProbeRound
from runbook.host.queries import HttpProbe, JournalProbe, QueryKind, TcpProbe, WebsocketProbe
from runbook.model import Port
from runbook.spec.state import RunState

RUN = RunState("run-1", Path("/srv"), env={"A": "1"})


@pytest.mark.parametrize(
    ("fields", "query", "label"),
    [
        ({"tcp": {"port": 80}}, TcpProbe("127.0.0.1", 80), "tcp 127.0.0.1:80"),
        ({"tcp": {"port": "192.0.2.1:80"}}, TcpProbe("192.0.2.1", 80), "tcp 192.0.2.1:80"),
        (
            {"http": {"url": "http://a/b", "status": [200, 204], "body": "ok", "headers": {"X": "y"}}},
            HttpProbe("http://a/b", (200, 204), "ok", (("X", "y"),)),
            "http://a/b",
        ),
        ({"websocket": {"url": "ws://a/b"}}, WebsocketProbe("ws://a/b"), "ws://a/b"),
        ({"journal": {"pattern": "ready"}}, JournalProbe("ready", "u", "i", (7,)), "journal"),
    ],
)
def test_what_a_probe_queries(fields: dict[str, Any], query: QueryKind[Any], label: str) -> None:
    kind = Probe.model_validate(fields).chosen
    assert kind.make_query(RUN, ProbeRound("u", "i", leftovers=(7,))) == query
    assert (kind.label, kind.timeout, kind.uses_network) == (label, 5.0, "journal" not in fields)


def test_a_command_has_the_environment_of_the_run() -> None:
    probe = Probe.model_validate({"run": {"run": "look", "cwd": "sub", "env": {"B": "2"}, "timeout": "2s"}})
    command = probe.chosen.make_query(RUN, ProbeRound())
    assert command == RUN.make_command("look", timeout=2.0, cwd="sub", env={"B": "2"})


@pytest.mark.parametrize(
    ("fields", "port"),
    [
        ({"tcp": {"port": 80}}, Port(80, address="127.0.0.1")),
        ({"tcp": {"port": "0.0.0.0:80"}}, Port(80)),
        ({"tcp": {"port": "192.0.2.1:80"}}, None),
        ({"http": {"url": "http://localhost/"}}, Port(80)),
        ({"http": {"url": "https://[::1]/"}}, Port(443, address="::1")),
        ({"http": {"url": "http://gateway.test:8080/"}}, None),
        ({"websocket": {"url": "wss://127.0.0.1/"}}, Port(443, address="127.0.0.1")),
        ({"journal": {"pattern": "ready"}}, None),
        ({"run": {"run": "look"}}, None),
    ],
)
def test_the_port_of_this_machine_that_it_names(fields: dict[str, Any], port: Port | None) -> None:
    assert Probe.model_validate(fields).chosen.local_port == port


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "must be exactly one of"),
        ({"tcp": {"port": 80}, "run": {"run": "look"}}, "must be exactly one of"),
        ({"http": {"url": "ftp://a/"}}, "`ftp://a/` is not an http or https URL"),
        ({"http": {"url": "http://a/", "status": 99}}, "`99` is not an HTTP status"),
        ({"websocket": {"url": "http://a/b"}}, "is not a websocket URL; write ws://a/b"),
        ({"websocket": {"url": "ws://a/#b"}}, "must not have a #"),
    ],
)
def test_a_probe_that_is_refused(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        Probe.model_validate(fields)


def test_a_round_stays_the_same_if_a_leftover_exits() -> None:
    assert ProbeRound("u", "i", leftovers=(7,)) == ProbeRound("u", "i")
    assert ProbeRound("u", "i", frozenset({1})) != ProbeRound("u", "i")
