"""The runbook that a restart is: valid, readable, and the same as `runbook apply` would read."""

from __future__ import annotations

import shlex
from typing import Any

import pytest

from runbook.document import parse
from runbook.document.restart import RestartOptions, write_restart, write_text
from runbook.document.restart_ports import DemandedPorts
from runbook.model import Port
from tests.unit.fake_machine import FakeMachine, listen, process, unit


def written(options: RestartOptions, **changes: Any) -> str:
    made = FakeMachine({options.unit: unit(options.unit, **changes)}, {100: process(100)})
    listen(made, 100, "127.0.0.1:8080")
    made.processes[100] = process(100, cgroup=f"/system.slice/{options.unit}")
    return write_restart(made, options, lambda _: ()).book.text


def test_a_restart_and_its_proof() -> None:
    assert written(RestartOptions("gw.service")) == (
        "name: restart gw.service\n"
        "unit: gw.service\n"
        "port:\n"
        '  - "127.0.0.1:8080"\n'
        "\n"
        "steps:\n"
        "  - restart\n"
        "  - wait-ready: {healthy-for: 5s}\n"
        "  - verify-port-owner\n"
    )


def test_a_restart_with_its_fix() -> None:
    options = RestartOptions("gw.service", ports=(Port(80), Port(53, "udp")), healthy_for="2min", fix=True, user=True)
    assert written(options) == (
        "name: restart gw.service\n"
        "unit: gw.service\n"
        "scope: user\n"
        "port:\n"
        "  - 80\n"
        '  - "udp:53"\n'
        "\n"
        "steps:\n"
        "  - restart\n"
        "  - remediate:\n"
        "      check:\n"
        "        - wait-ready: {healthy-for: 2min, timeout: 240s}\n"
        "        - verify-port-owner\n"
        "      fix: [stop, kill-orphan, reset-failed, start]\n"
    )


@pytest.mark.parametrize(("fix", "steps"), [(False, ["reload", "wait-ready"]), (True, ["reload", "remediate"])])
def test_a_reload_of_a_unit_without_ports(fix: bool, steps: list[str]) -> None:
    text = write_text(RestartOptions("gw.service", fix=fix, reload=True), unit(), DemandedPorts(unit()))
    assert [step.type_name for step in parse(text).steps] == steps
    assert "kill-orphan" not in text


def test_a_oneshot_is_proved_by_the_result_of_its_job() -> None:
    once = unit(type="oneshot")
    text = write_text(RestartOptions("gw.service", fix=True), once, DemandedPorts(once))
    assert [step.type_name for step in parse(text).steps] == ["restart"]
    kept = unit(type="oneshot", remain_after_exit=True)
    text = write_text(RestartOptions("gw.service"), kept, DemandedPorts(kept))
    assert [step.type_name for step in parse(text).steps] == ["restart", "wait-ready"]


@pytest.mark.parametrize("name", ["-.mount", "a\\x2db.service", "getty@tty1.service", "a:b.service", "1.service"])
def test_every_name_is_read_as_it_is(name: str) -> None:
    book = parse(write_text(RestartOptions(name), unit(name), DemandedPorts(unit(name))))
    assert (book.unit, book.name) == (name, f"restart {name}")


def test_the_command_stands_for_the_name_of_a_file() -> None:
    assert RestartOptions("gw.service").write_command() == "restart gw.service"
    options = RestartOptions(
        "gw.service", ports=(Port(80, address="::1"),), healthy_for="1min 5s", fix=True, reload=True, user=True
    )
    words = ["restart", "--user", "--fix", "--reload", "--port", "[::1]:80", "--healthy-for", "1min 5s", "gw.service"]
    assert shlex.split(options.write_command()) == words
    book = write_restart(FakeMachine(), RestartOptions("gw.service"), lambda _: ()).book
    assert (book.path, str(book.folder)) == ("restart gw.service", "/")
