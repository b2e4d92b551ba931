"""The commands that take a runbook: what they need no systemd for, and how they end without it."""

from __future__ import annotations

import builtins
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest

from runbook import errors
from runbook.cli import runs
from tests.unit.cli.invoke import runbook
from tests.unit.recorded import STARTED, acting, begun, ended, wrote

TEXT = "unit: gw\nport: 80\nsteps: [restart, verify-port-owner]\n"

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A runbook on a machine without systemd."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    path = tmp_path / "up.yaml"
    path.write_text(TEXT)
    return str(path)


def test_files_without_errors_are_counted(file: str) -> None:
    assert runbook("validate", file).stdout == "1 file, no errors\n"
    assert runbook("validate", file, file).stdout == "2 files, no errors\n"
    Path(file).write_text(f"{Path(file).read_text()}# FILL IN: a probe\n")
    draft = runbook("validate", file)
    assert (draft.exit_code, draft.stdout) == (0, "1 file, no errors\n")
    assert "is still marked FILL IN" in " ".join(draft.stderr.split())


def test_the_errors_of_all_files_are_reported(file: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("steps: [restrat]\nunti: x\n")
    result = runbook("validate", str(wrong), file, "/nope.yaml")
    assert (result.exit_code, result.stdout) == (errors.EXIT_INVALID, "")
    assert result.stderr.splitlines() == [
        f"{wrong}:1:9: unknown step type `restrat`; did you mean `restart`?",
        f"{wrong}:2:1: unknown key `unti`; did you mean `unit`?",
        "runbook: cannot read /nope.yaml: no such file or directory",
        "3 errors",
    ]


@pytest.mark.parametrize(
    ("argv", "event"),
    [(["apply"], "run-finished"), (["check"], "run-finished"), (["apply", "--dry-run"], "plan-finished")],
)
def test_without_systemd_no_run_begins(file: str, argv: list[str], event: str) -> None:
    result = runbook(*argv, file, "--output", "json")
    line = json.loads(result.stdout)
    assert (result.exit_code, line["event"], line["status"]) == (errors.EXIT_NOT_BEGUN, event, "not-begun")


def test_a_file_without_errors_is_no_object(file: str) -> None:
    result = runbook("validate", file, "--output", "json")
    assert (result.exit_code, result.stdout, result.stderr) == (0, "", "")


def test_in_json_each_error_is_one_object(file: str, tmp_path: Path) -> None:
    wrong = tmp_path / "wrong.yaml"
    wrong.write_text("steps: [restrat]\nunit: a b\n")
    result = runbook("validate", str(wrong), file, "/nope.yaml", "--output", "json")
    assert result.exit_code == errors.EXIT_INVALID
    found = [json.loads(line) for line in result.stdout.splitlines()]
    unknown = {"message": "unknown step type `restrat`", "hint": "did you mean `restart`?"}
    assert found == [
        {"file": str(wrong), "line": 1, "column": 9, **unknown},
        {"file": str(wrong), "line": 2, "column": 7, "message": found[1]["message"], "hint": ""},
        {"file": "/nope.yaml", "line": None, "column": None, "message": found[2]["message"], "hint": ""},
    ]
    assert "it contains a space" in found[1]["message"]
    assert found[2]["message"] == "cannot read /nope.yaml: no such file or directory"
    assert result.stderr.splitlines()[0] == f"{wrong}:1:9: unknown step type `restrat`; did you mean `restart`?"


@pytest.mark.parametrize(
    ("argv", "message"),
    [
        (["apply", "/nope.yaml", "--lock-wait", "soon"], "cannot read --lock-wait"),
        (["apply", "/nope.yaml", "--dry-run", "--lock-wait", "soon"], "cannot read --lock-wait"),
        (["resume", "--lock-wait", "soon"], "cannot read --lock-wait"),
        (["resume", "--abandon", "--skip", "x"], "cannot combine --abandon with --rerun or --skip"),
    ],
)
def test_a_wrong_option_is_an_error_before_the_file_is_read(argv: list[str], message: str) -> None:
    result = runbook(*argv)
    assert (result.exit_code, result.stdout) == (errors.EXIT_INVALID, "")
    assert result.stderr.startswith(f"runbook: {message}")
    line = json.loads(runbook(*argv, "--output", "json").stdout)
    event = "plan-finished" if "--dry-run" in argv else "run-finished"
    assert (line["event"], line["status"], line["exit"]) == (event, "invalid", 2)
    assert line["reason"].startswith(message)


def test_a_run_is_abandoned_without_systemd() -> None:
    past = wrote(begun(), STARTED, acting("x"))
    result = runbook("resume", "--abandon")
    assert (result.exit_code, result.stdout) == (0, f"{past.id} is abandoned; nothing was changed\n")
    assert past.reload().status == "abandoned"


def test_there_is_nothing_to_resume() -> None:
    wrote(begun(), STARTED, ended())
    assert runbook("resume").exit_code == errors.EXIT_NOT_BEGUN


@pytest.mark.parametrize(("code", "status"), [(4, 4), (-15, 143)])
def test_a_child_gets_standard_input_and_its_status_is_the_exit_status(
    code: int, status: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    inputs: list[object] = []

    def run(argv: list[str], *, input: bytes | None, check: bool) -> subprocess.CompletedProcess[bytes]:  # noqa: A002
        inputs.append(input)
        return subprocess.CompletedProcess(argv, code)

    monkeypatch.setattr(subprocess, "run", run)
    assert (runs._run_in_child("steps"), runs._run_in_child(None)) == (status, status)
    assert inputs == [b"steps", None]


def test_without_pygobject_the_message_names_the_package(file: str, monkeypatch: pytest.MonkeyPatch) -> None:
    import_ = builtins.__import__

    def missing(name: str, globals: Any = None, locals: Any = None, fromlist: Any = (), level: int = 0) -> Any:  # noqa: A002
        if name == "runbook.host" and "local" in (fromlist or ()):
            raise ModuleNotFoundError("No module named 'gi'", name="gi")
        return import_(name, globals, locals, fromlist, level)

    monkeypatch.setattr(builtins, "__import__", missing)
    result = runbook("check", file)
    assert result.exit_code == errors.EXIT_NOT_BEGUN
    assert "the Python module gi is missing" in result.stderr.replace("\n  ", " ")
    assert "apt install python3-gi" in result.stderr
