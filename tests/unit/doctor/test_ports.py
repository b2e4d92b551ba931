"""Ports of a unit, found from the unit itself, and what is not taken for one."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from runbook.doctor.ports import find_ports, find_ports_in_command
from runbook.host.facts import ActiveState
from runbook.host.queries import FileText
from runbook.model import Port
from tests.unit.fake_machine import FakeMachine, listen, process, unit


def found(machine: FakeMachine, **options: Any) -> list[tuple[str, tuple[str, ...]]]:
    ports = find_ports(machine, machine.units["gw.service"], **options)
    return [(str(one.port), one.sources) for one in ports]


def machine(**changes: Any) -> FakeMachine:
    return FakeMachine({"gw.service": unit(**changes)}, {100: process(100)})


def test_what_the_units_processes_listen_on() -> None:
    one = machine()
    listen(one, 100, "127.0.0.1:8080", "[::1]:8080", "0.0.0.0:9090")
    (first, second) = find_ports(one, one.units["gw.service"])
    assert (str(first.port), first.listening) == ("8080", ("127.0.0.1:8080", "[::1]:8080"))
    assert (str(second.port), second.listening) == ("9090", ("0.0.0.0:9090",))
    assert first.is_certain


def test_its_socket_units() -> None:
    one = machine(triggered_by=("gw.socket", "gw.timer"))
    one.units["gw.socket"] = unit(
        "gw.socket", listen=(("Stream", "[::]:80"), ("Stream", "/run/gw"), ("Datagram", "0.0.0.0:53"))
    )
    assert found(one) == [("80", ("gw.socket",)), ("udp:53", ("gw.socket",))]


def test_a_port_that_its_log_shows_in_use_and_its_command_names() -> None:
    one = machine(start_arguments=("/usr/bin/gw", "--port", "18789"), active_state=ActiveState.FAILED)
    one.refused_ports["gw.service"] = (Port(18789),)
    assert found(one) == [("18789", ("its log: in use", "ExecStart="))]


def test_a_port_that_only_its_configuration_names_is_not_certain() -> None:
    one = machine(
        start_arguments=("/usr/bin/gw", "--listen=:${GW_PORT}"),
        environment=("GW_PORT=8080", "DB_PORT=5432", "TOKEN=secret"),
        environment_files=(("/etc/default/gw", True),),
    )
    one.files["/etc/default/gw"] = FileText("/etc/default/gw", '# PORT=1\nHTTP_PORT="8081"\nREDIS_PORT=6379\n')
    ports = find_ports(one, one.units["gw.service"])
    assert [(str(port.port), port.sources) for port in ports] == [
        ("8080", ("ExecStart=", "Environment=")),
        ("8081", ("EnvironmentFile=/etc/default/gw",)),
    ]
    assert not any(port.is_certain for port in ports)


def test_what_an_earlier_run_recorded_if_nothing_else_is_certain() -> None:
    one = machine(start_arguments=("/usr/bin/gw", "--port", "8080"))
    assert found(one, recorded=lambda: (Port(8080), Port(9090))) == [
        ("8080", ("an earlier run", "ExecStart=")),
        ("9090", ("an earlier run",)),
    ]
    listen(one, 100, "127.0.0.1:7070")
    assert [port for port, _ in found(one, recorded=lambda: (Port(9090),))] == ["7070", "8080"]


def test_the_operators_ports_are_the_only_ones() -> None:
    one = machine()
    listen(one, 100, "127.0.0.1:8080")
    assert found(one, named=(Port(9090),)) == [("9090", ("--port",))]


def test_a_number_that_the_kernel_may_have_chosen() -> None:
    one = machine(start_arguments=("/usr/bin/gw", "--grpc-port=50051"))
    listen(one, 100, "127.0.0.1:50051", "127.0.0.1:40123")
    assert [port.is_kernels_choice for port in find_ports(one, one.units["gw.service"])] == [False, True]


@pytest.mark.parametrize(
    ("command", "ports"),
    [
        ("gw serve --port 18789 --start-seconds 2", "18789"),
        ("gunicorn -b 0.0.0.0:8000 app:app", "8000"),
        ("prometheus --web.listen-address=:9090", "9090"),
        ("memcached -m 64 -p 11211 -u memcache -l 127.0.0.1", "11211"),
        ("python3 -m http.server 8080", "8080"),
        ("uvicorn app --host 0.0.0.0 --port=8000", "8000"),
        ("gw --listen tcp://[::]:80/", "80"),
        ("gw --upstream-port 80 --db-port=5432 --redis localhost:6379 -v 3 -l 5 -b 64", ""),
        ("nginx -g 'daemon on; master_process on;' -p /srv", ""),
        ("gw --port auto --port 0 --port 99999", ""),
    ],
)
def test_what_a_command_line_names(command: str, ports: str) -> None:
    assert ",".join(map(str, find_ports_in_command(shlex.split(command)))) == ports
