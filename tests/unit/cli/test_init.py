"""The command itself: its commands, its help, and its exit status for what no command handles."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable

import pytest
from typer.testing import CliRunner

from runbook import cli, errors
from runbook.cli.options import program_version


def test_the_commands_are_listed_in_their_order() -> None:
    result = CliRunner().invoke(cli.app, ["--help"])
    listed = re.findall(r"^  (\w+)", result.stdout.partition("Commands:")[2].partition("\n\n")[0], re.M)
    assert listed == [
        "doctor",
        "apply",
        "check",
        "remediate",
        "restart",
        "init",
        "validate",
        "resume",
        "history",
        "show",
        "guard",
        "schema",
        "steps",
    ]


def test_the_help_has_every_exit_status_and_the_marks() -> None:
    shown = CliRunner().invoke(cli.app, ["--help"]).stdout.partition("Exit status:")[2]
    statuses = set(map(int, re.findall(r"\b\d+\b", shown)))
    assert statuses == {*(value for name, value in vars(errors).items() if name.startswith("EXIT_")), 130, 143}
    assert "  --   The step failed.\n" in shown.partition("Marks in the output:")[2]


def test_without_a_command_it_shows_the_help() -> None:
    assert "Commands:" in CliRunner().invoke(cli.app, []).output


def test_the_version_is_printed() -> None:
    result = CliRunner().invoke(cli.app, ["--version"])
    assert (result.exit_code, result.stdout) == (0, f"runbook {program_version()}\n")


def failing(error: BaseException) -> Callable[..., None]:
    def app(*, standalone_mode: bool) -> None:
        raise error

    return app


@pytest.mark.parametrize(
    ("error", "status", "printed"),
    [
        (SystemExit(3), 3, ""),
        (errors.NotBegun("cannot begin", hint="begin later"), 5, "runbook: cannot begin\n  begin later\n"),
        (BrokenPipeError(), 1, ""),
        (OSError(28, "No space left on device"), 1, "runbook: cannot print: no space left on device\n"),
    ],
)
def test_an_error_becomes_a_message_and_an_exit_status(
    error: BaseException, status: int, printed: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cli, "app", failing(error))
    assert cli._run_app() == status
    assert capsys.readouterr() == ("", printed)


def test_a_wrong_option_is_an_error_of_usage(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["runbook", "apply", "--nope"])
    assert cli._run_app() == errors.EXIT_INVALID
    assert "No such option" in capsys.readouterr().err


@pytest.mark.parametrize("argv", [["apply"], ["apply", "--bogus", "x"], ["chek", "x"]])
def test_wrong_arguments_end_with_an_event_in_json(
    argv: list[str], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(sys, "argv", ["runbook", *argv, "--output", "json"])
    assert cli._run_app() == errors.EXIT_INVALID
    out, err = capsys.readouterr()
    assert json.loads(out)["event"] == "run-finished"
    assert "Error: " in err
