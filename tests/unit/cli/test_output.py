"""What commands print: messages, errors, and the last event of a run that could not begin."""

from __future__ import annotations

import io
import json
from typing import Any

import pytest
import typer

from runbook import errors
from runbook.cli import output as output_module
from runbook.cli.options import Output
from runbook.cli.output import (
    print_error,
    print_message,
    print_problems,
    print_result,
    report_usage_error,
    run_with_report,
    wrap,
)

WRONG_FILE = errors.DocumentError([errors.Problem("f", 1, 2, "x" * 100), errors.Problem("f", 3, 4, "y")])


def failing(error: Exception) -> Any:
    def act(_: object) -> int:
        raise error

    return act


def reported(output: Output, act: Any, *, plan: bool = False) -> int:
    """Return the exit status."""
    with pytest.raises(typer.Exit) as caught:
        run_with_report(output, act, plan=plan)
    return caught.value.exit_code


def test_the_exit_status_is_that_of_the_run() -> None:
    assert reported(Output.PLAIN, lambda _: 3) == 3


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (errors.UsageError("why"), "invalid"),
        (errors.NotBegun("why"), "not-begun"),
        (errors.Locked("why"), "locked"),
        (errors.HostError("why"), "failed"),
        (errors.Interrupted(15), "interrupted"),
    ],
)
def test_in_json_an_error_is_the_last_line(
    error: errors.RunbookError, status: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reported(Output.JSON, failing(error)) == error.exit_status
    out, err = capsys.readouterr()
    line = json.loads(out)
    assert (line["event"], line["status"], line["exit"]) == ("run-finished", status, error.exit_status)
    assert (line["reason"], err) == (error.message, "")


def test_a_plan_ends_with_an_event_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    reported(Output.JSON, failing(errors.NotBegun("why", hint="how")), plan=True)
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["hint"]) == ("plan-finished", "how")


def test_in_text_an_error_and_its_hint_are_messages(capsys: pytest.CaptureFixture[str]) -> None:
    assert reported(Output.PLAIN, failing(errors.Locked("why", hint="how"))) == errors.EXIT_LOCKED
    assert capsys.readouterr() == ("", "runbook: why\n  how\n")


@pytest.mark.parametrize("output", [Output.PLAIN, Output.JSON])
def test_errors_of_a_file_are_on_standard_error_in_every_format(
    output: Output, capsys: pytest.CaptureFixture[str]
) -> None:
    assert reported(output, failing(WRONG_FILE)) == errors.EXIT_INVALID
    assert capsys.readouterr().err.splitlines() == [f"f:1:2: {'x' * 100}", "f:3:4: y"]


def test_an_internal_error_is_reported_with_its_traceback(capsys: pytest.CaptureFixture[str]) -> None:
    assert reported(Output.JSON, failing(ZeroDivisionError("odd"))) == errors.EXIT_FAILED
    out, err = capsys.readouterr()
    line = json.loads(out)
    assert (line["status"], line["reason"]) == ("failed", "internal error: ZeroDivisionError: odd")
    assert "Traceback" in err


def test_an_internal_error_shows_no_secret(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Its text may quote whatever the program works with."""
    monkeypatch.setattr(output_module, "_secrets", [])
    output_module.hide_secrets(["", "p4ss'w\"ord"])
    assert reported(Output.JSON, failing(KeyError("x p4ss'w\"ord y"))) == errors.EXIT_FAILED
    out, err = capsys.readouterr()
    assert "***" in out
    assert "p4ss" not in out + err


@pytest.mark.parametrize("option", [["--output", "json"], ["--output=json"]])
@pytest.mark.parametrize(
    ("command", "event"),
    [
        ("apply", "run-finished"),
        ("apply --dry-run", "plan-finished"),
        ("check", "run-finished"),
        ("aply", "run-finished"),
    ],
)
def test_in_json_wrong_arguments_are_the_last_line(
    command: str, event: str, option: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    report_usage_error([*command.split(), *option], "Missing argument 'FILE'.")
    line = json.loads(capsys.readouterr().out)
    assert (line["event"], line["status"], line["exit"]) == (event, "invalid", errors.EXIT_INVALID)
    assert line["reason"] == "missing argument 'FILE'"


@pytest.mark.parametrize("argv", ["apply", "apply --output plain", "show --output json x", "validate --output json"])
def test_without_json_or_without_a_run_wrong_arguments_are_no_event(
    argv: str, capsys: pytest.CaptureFixture[str]
) -> None:
    report_usage_error(argv.split(), "why")
    assert capsys.readouterr().out == ""


def test_a_problem_has_its_position_and_its_hint(capsys: pytest.CaptureFixture[str]) -> None:
    print_problems("f", errors.DocumentError([errors.Problem("f", 1, 2, "why", "how")]))
    print_problems("g", errors.UsageError("cannot", hint="do"))
    assert [json.loads(line) for line in capsys.readouterr().out.splitlines()] == [
        {"file": "f", "line": 1, "column": 2, "message": "why", "hint": "how"},
        {"file": "g", "line": None, "column": None, "message": "cannot", "hint": "do"},
    ]


def test_a_path_is_never_broken() -> None:
    path = "/" + "very-long-" * 12
    lines = wrap(f"cannot write {path}: no space left on device").splitlines()
    assert f"  {path}:" in lines
    assert all(len(line) <= 80 or path in line for line in lines)


def test_control_characters_are_printed_as_escapes(capsys: pytest.CaptureFixture[str]) -> None:
    print_result("a\x1b[2J")
    print_message("b\x07")
    print_error(errors.UsageError("c\r"))
    assert capsys.readouterr() == ("a\\x1b[2J\n", "b\\x07\nrunbook: c\n")


def test_a_message_that_cannot_be_printed_is_dropped(monkeypatch: pytest.MonkeyPatch) -> None:
    class Full(io.StringIO):
        def write(self, text: str) -> int:
            raise OSError(28, "No space left on device")

    monkeypatch.setattr("sys.stderr", Full())
    print_message("x")
