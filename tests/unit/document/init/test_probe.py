"""A probe that a port answers rightly now, and ports to which no request is sent."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.document.init.lookup import Lookup
from runbook.document.init.probe import PATHS, FoundProbe, ProbeSearch, find_host
from runbook.document.init.program import Program
from runbook.host.facts import ActiveState
from runbook.host.queries import Answer
from runbook.model import Port
from tests.unit.document.init.fakes import gateway
from tests.unit.fake_machine import FakeMachine, listen, process

GATEWAY = Program("/usr/bin/gateway", "/usr/bin/gateway", "/usr/bin/gateway")
WEB = Port(8080)
NOT_FOUND = "answered 404; expected 200"


def served(*sockets: str, **changes: Any) -> FakeMachine:
    machine = gateway(**changes)
    listen(machine, 100, *sockets)
    return machine


def page(ok: bool = True, body: str = "ok", detail: str = "", **facts: Any) -> Answer[Any]:
    own = {"reached_port": Port(8080, address="127.0.0.1"), **facts}
    return Answer(ok, detail or ("answered 200" if ok else NOT_FOUND), body, **own)


def answers(machine: FakeMachine, base: str = "http://127.0.0.1:8080", **pages: Answer[Any]) -> None:
    """Let each path answer 404, but those that are named: `root`, `health`, …"""
    for path in PATHS:
        name = path.strip("/").replace("-/", "") or "root"
        machine.answers[f"http {base}{path}"] = [pages.get(name, page(ok=False))]


def find(machine: FakeMachine, port: Port = WEB, program: Program = GATEWAY, greeting: str = "") -> FoundProbe:
    host = port.address or "127.0.0.1"
    machine.answers.setdefault(f"tcp {host}:{port.number}", [Answer(True, "connected", greeting)])
    return ProbeSearch(Lookup(machine, machine), machine.units["gw.service"], program).find(port)


def test_the_first_path_that_answers_200() -> None:
    machine = served("0.0.0.0:8080")
    answers(machine, root=page(body="welcome"), health=page(body="ok"), ready=page(body="ready"))
    found = find(machine)
    assert (found.kind, found.value, found.to_fill_in) == ("http", "http://127.0.0.1:8080/health", "")


def test_a_page_that_each_path_returns_is_that_of_the_root() -> None:
    machine = served("0.0.0.0:8080")
    answers(machine, root=page(), healthz=page(), health=page())
    assert find(machine).value == "http://127.0.0.1:8080/"


def test_no_page_answers_200() -> None:
    machine = served("0.0.0.0:8080")
    answers(machine, root=page(ok=False, detail="answered 302, to /login; expected 200"))
    found = find(machine)
    assert (found.kind, found.value) == ("tcp", "8080")
    assert "302, to /login" in found.to_fill_in


def test_an_answer_of_another_machine_does_not_count() -> None:
    machine = served("0.0.0.0:8080")
    answers(machine, root=page(reached_port=None), health=page(body="x", reached_port=None))
    assert find(machine).kind == "tcp"


def test_what_is_not_http_gets_one_request() -> None:
    machine = served("0.0.0.0:8080")
    machine.answers["http http://127.0.0.1:8080/"] = [page(ok=False, detail="it closed the connection")]
    found = find(machine)
    assert (found.kind, [str(q.kind) for q in machine.asked]) == (
        "tcp",
        ["tcp 127.0.0.1:8080", "http http://127.0.0.1:8080/"],
    )


def test_a_server_that_wants_tls() -> None:
    machine = served("0.0.0.0:8080")
    answers(machine, root=page(ok=False, detail="answered 400; expected 200"))
    answers(machine, "https://127.0.0.1:8080", root=page())
    assert find(machine).value == "https://127.0.0.1:8080/"


def test_a_port_of_https_gets_no_request_without_tls_before() -> None:
    machine = served("0.0.0.0:443")
    answers(machine, "https://127.0.0.1", root=page())
    assert find(machine, Port(443)).value == "https://127.0.0.1/"


@pytest.mark.parametrize("greeting", ["SSH-2.0-OpenSSH_9.2\r\n", "220 mail ESMTP\r\n", "J\x00\x00\x00\n5.5.5"])
def test_a_server_that_speaks_first_gets_no_request(greeting: str) -> None:
    machine = served("0.0.0.0:8080")
    found = find(machine, greeting=greeting)
    assert (found.kind, len(machine.asked)) == ("tcp", 1)
    assert "no request was sent" in found.note


@pytest.mark.parametrize(("number", "name"), [(6379, "gateway"), (25, "gateway"), (8080, "unbound")])
def test_a_port_that_is_not_http_gets_no_connection_at_all(number: int, name: str) -> None:
    machine = served(f"0.0.0.0:{number}")
    found = find(machine, Port(number), Program(exe=f"/usr/sbin/{name}"))
    assert (found.kind, machine.asked) == ("tcp", {})


def test_the_client_of_a_known_server() -> None:
    machine = served("127.0.0.1:6380")
    command = "redis-cli -h 127.0.0.1 -p 6380 ping | grep -qx PONG"
    machine.answers[f"{command} && echo yes"] = [Answer(True, "exited with status 0", "yes\n")]
    redis = Program(exe="/usr/bin/redis-check-rdb")
    assert find(machine, Port(6380), redis) == FoundProbe(Port(6380), "run", command, found_note(command))


def found_note(command: str) -> str:
    return "It exits with 0 for an error too, such as LOADING, so its output is checked"


def test_a_client_that_fails_is_no_probe() -> None:
    machine = served("127.0.0.1:5432")
    command = "until pg_isready --quiet --host 127.0.0.1 --port 5432; do sleep 0.5; done && echo yes"
    machine.answers[command] = [Answer(False, "exited with status 127")]
    found = find(machine, Port(5432), Program(exe="/usr/lib/postgresql/15/bin/postgres"))
    assert (found.kind, "pg_isready is missing" in found.to_fill_in) == ("", True)


def test_a_port_of_another_process_is_not_asked() -> None:
    machine = served()
    machine.processes[200] = process(200, cgroup="/user.slice/user-1000.slice/session-3.scope")
    listen(machine, 200, "0.0.0.0:8080")
    found = find(machine)
    assert (found.kind, machine.asked) == ("", {})
    assert "is held by PID 200" in found.to_fill_in


def test_a_unit_that_is_down_is_not_asked() -> None:
    found = find(served(active_state=ActiveState.FAILED, main_pid=0))
    assert (found.kind, "does not run now" in found.to_fill_in) == ("", True)


def test_the_listener_changes_meanwhile() -> None:
    machine = served("0.0.0.0:8080")
    answers(machine, root=page())
    machine.slow = 1.0
    machine.later.append((1001.5, lambda later: later.sockets.clear()))
    assert find(machine).kind == "tcp"


def test_a_port_of_udp_has_no_probe() -> None:
    assert find(served("0.0.0.0:53"), Port(53, "udp")).kind == ""


@pytest.mark.parametrize(
    ("sockets", "host"),
    [(("0.0.0.0:8080",), "127.0.0.1"), (("[::1]:8080",), "::1"), (("[::]:8080",), "127.0.0.1"),
     (("10.0.0.1:8080",), "10.0.0.1")],
)  # fmt: skip
def test_the_address_that_is_asked(sockets: tuple[str, ...], host: str) -> None:
    machine = served(*sockets)
    assert find_host(Port(8080), machine.judge_port(machine.units["gw.service"], Port(8080))) == host
