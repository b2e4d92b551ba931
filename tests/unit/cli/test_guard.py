"""`runbook guard` without systemd and without needrestart, and what its arguments mean."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from runbook import cli, errors
from runbook.records import needrestart
from runbook.records.restart_hooks import write_hook

pytestmark = pytest.mark.usefixtures("home")


def runbook(*argv: str) -> Result:
    return CliRunner().invoke(cli.app, ["guard", *argv])


@pytest.fixture
def hooks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of the hooks of an installed needrestart, and a user who seems to be root."""
    folder, configuration = tmp_path / "restart.d", tmp_path / "needrestart.conf"
    folder.mkdir()
    configuration.write_text(f"$nrconf{{restart}} = 'a';\n$nrconf{{restart_d}} = '{folder}';\n")
    monkeypatch.setattr(needrestart, "CONFIGURATION", configuration)
    monkeypatch.setattr(needrestart, "PROGRAM", configuration)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    return folder


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        ([], "which unit? write runbook guard UNIT, or --list"),
        (["--list", "--remove"], "cannot combine --list with --remove or a unit"),
        (["--list", "gw"], "cannot combine --list with --remove or a unit"),
        (["gw@"], "`gw@` is a template unit; write one of its instances, `gw@NAME.service`"),
        (["--remove", "../gw"], "`../gw` is a path, not a unit name"),
        (["gw", "--port", "x"], "cannot read port `x`; write 18789"),
    ],
)
def test_a_wrong_argument(hooks: Path, argv: list[str], message: str) -> None:
    error = runbook(*argv).exception
    assert isinstance(error, errors.UsageError)
    assert error.message.startswith(message)


@pytest.mark.parametrize("argv", [["gw"], ["--remove"], ["--remove", "gw"]])
def test_only_root_changes_hooks(hooks: Path, monkeypatch: pytest.MonkeyPatch, argv: list[str]) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    error = runbook(*argv).exception
    assert isinstance(error, errors.NotBegun)
    assert error.message == "only root may write or remove hooks of needrestart"


def test_the_list(hooks: Path) -> None:
    assert runbook("--list").stderr == "no unit is guarded\n"
    write_hook(hooks, "a.service", "/bin/sh", [])
    write_hook(hooks, "b.service", "/nonexistent/runbook", [])
    assert runbook("--list").stdout.splitlines() == [
        f"a.service  {hooks}/a.service",
        f"b.service  {hooks}/b.service",
        "  but /nonexistent/runbook is missing, so there is no proof",
    ]
    printed = runbook("--list", "--output", "json")
    assert [json.loads(line)["runs"] for line in printed.stdout.splitlines()] == [True, False]
    assert [json.loads(line)["exists"] for line in printed.stdout.splitlines()] == [None, None]
    assert printed.stderr.startswith("note: whether the units still exist is unknown: cannot reach")


def test_a_list_without_needrestart(hooks: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needrestart, "PROGRAM", hooks / "none")
    monkeypatch.setattr(needrestart, "HOOKS", hooks)
    write_hook(hooks, "a.service", "/bin/sh", [])
    assert runbook("--list").stdout.splitlines()[1] == "  but needrestart is not installed; apt install needrestart"
    assert runbook("--remove").stdout == "a.service is not guarded any more\n"


def test_hooks_are_removed_by_name_or_all(hooks: Path) -> None:
    for name in ("a", "b", "c"):
        write_hook(hooks, f"{name}.service", "/bin/sh", [])
    assert runbook("--remove", "b", "d").stdout == "b.service is not guarded any more\nd.service is not guarded\n"
    assert runbook("--remove").stdout == "a.service is not guarded any more\nc.service is not guarded any more\n"
    (hooks / "dbus.service").write_text("#!/bin/bash\n")
    assert isinstance(runbook("--remove", "dbus").exception, errors.NotBegun)
