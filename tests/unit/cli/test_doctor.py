"""The command `doctor`: its arguments, its exit status, and its JSON."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator
from typing import Any

import pytest
from typer.testing import CliRunner

from runbook import cli, errors
from tests.unit.doctor.diagnosed import FAILED, healthy, incident
from tests.unit.fake_machine import FakeMachine


@pytest.fixture
def on(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Return a function that runs the command on a machine."""

    def run(machine: FakeMachine, *argv: str) -> Any:
        @contextlib.contextmanager
        def opened(scope: str) -> Iterator[FakeMachine]:
            yield machine

        monkeypatch.setattr("runbook.cli.doctor.open_view", opened)
        monkeypatch.setattr("runbook.cli.doctor.os.geteuid", lambda: 0)
        return CliRunner().invoke(cli.app, ["doctor", *argv])

    return run


def test_the_status_is_0_for_a_healthy_unit_alone(on: Any) -> None:
    assert on(healthy(), "gw").exit_code == 0
    found = on(incident(**FAILED), "gw", "--port", "18789")
    assert (found.exit_code, "kill 74" in found.stdout) == (1, True)


def test_the_json_is_one_object(on: Any) -> None:
    (line,) = on(incident(**FAILED), "gw.service", "--output", "json").stdout.splitlines()
    found = json.loads(line)
    assert (found["unit"], found["severity"], found["verdict"]) == ("gw.service", "problem", "orphan-holds-port")


def test_a_unit_that_does_not_exist_could_not_be_looked_at(on: Any) -> None:
    found = on(healthy(), "gv", "--output", "json")
    assert isinstance(found.exception, errors.NotBegun)
    assert found.exception.exit_status == 5
    assert json.loads(found.stdout)["error"] == "systemd has no unit gv.service; did you mean gw.service?"


@pytest.mark.parametrize(("argv", "why"), [(("gw/x",), "is a path"), (("gw", "--port", "http"), "cannot read port")])
def test_wrong_arguments(on: Any, argv: tuple[str, ...], why: str) -> None:
    found = on(healthy(), *argv)
    assert isinstance(found.exception, errors.UsageError)
    assert why in found.exception.message


def test_without_a_unit_it_looks_at_the_whole_machine(on: Any) -> None:
    found = on(healthy())
    assert (found.exit_code, "[ok] 1 service\n\nnothing is wrong\n" in found.stdout) == (0, True)
    found = on(incident(**FAILED), "--output", "json")
    assert (found.exit_code, json.loads(found.stdout)["severity"]) == (1, "problem")
    found = on(incident(**FAILED), "--output", "prometheus")
    assert (found.exit_code, 'runbook_doctor_findings{severity="problem"} 1\n' in found.stdout) == (1, True)


def test_a_machine_that_cannot_be_read(on: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise errors.BusLost("it does not answer")

    monkeypatch.setattr(FakeMachine, "list_units", fail)
    found = on(healthy(), "--output", "json")
    assert (found.exception.exit_status, json.loads(found.stdout)["error"]) == (5, "it does not answer")


@pytest.mark.parametrize(
    "argv", [("--user",), ("--port", "80"), ("gw", "--output", "prometheus")], ids=["user", "port", "prometheus"]
)
def test_options_that_do_not_fit(on: Any, argv: tuple[str, ...]) -> None:
    assert isinstance(on(healthy(), *argv).exception, errors.UsageError)
