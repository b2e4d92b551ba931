"""`runbook restart` without systemd, and what its arguments mean."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from runbook import errors
from runbook.cli.restart import read_options
from runbook.document.restart import RestartOptions
from runbook.model import Port
from tests.unit.cli.invoke import runbook

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(autouse=True)
def _no_systemd(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")


def test_what_the_arguments_mean() -> None:
    found = read_options("gw", ["80", "udp:53", "80"], "1min", fix=True, reload=False, user=True)
    assert found == RestartOptions("gw.service", (Port(80), Port(53, "udp")), "1min", fix=True, user=True)
    assert read_options("gw.socket", None, None, fix=False, reload=False, user=False) == RestartOptions("gw.socket")


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["gw@"], "`gw@` is a template unit; write one of its instances, `gw@NAME.service`"),
        (["/etc/gw.service"], "`/etc/gw.service` is a path, not a unit name; write `gw.service`"),
        (["gw", "--port", "x"], "cannot read port `x`; write 18789, udp:53, "),
        (["gw", "--healthy-for", "soon"], "cannot read time span `soon`; write one such as 5s, 2min or 1h 30min"),
        (["gw", "--lock-wait", "soon"], "cannot read --lock-wait"),
        (["gw", "--lock-wait", "soon", "--dry-run"], "cannot read --lock-wait"),
    ],
)
def test_a_wrong_argument(argv: list[str], message: str) -> None:
    result = runbook("restart", *argv, "--output", "json")
    line = json.loads(result.stdout)
    assert (result.exit_code, line["status"]) == (errors.EXIT_INVALID, "invalid")
    assert line["reason"].startswith(message)


@pytest.mark.parametrize(("options", "event"), [([], "run-finished"), (["--dry-run"], "plan-finished")])
def test_without_systemd_no_run_begins(options: list[str], event: str) -> None:
    result = runbook("restart", "gw", *options, "--output", "json")
    line = json.loads(result.stdout)
    assert (result.exit_code, line["event"], line["status"]) == (errors.EXIT_NOT_BEGUN, event, "not-begun")


def test_without_systemd_there_is_nothing_to_show() -> None:
    result = runbook("restart", "gw", "--show")
    assert isinstance(result.exception, errors.NotBegun)
    assert result.stdout == ""
