"""A command is made from its function when it is called."""

from __future__ import annotations

from typing import Any

import pytest
import typer
from typer.main import get_command_from_info
from typer.models import CommandInfo
from typer.testing import CliRunner, Result

from runbook.cli import group


def greet(name: str) -> None:
    """Greet one by name."""
    typer.echo(f"hello {name}")


def leave() -> None:
    """Leave.

    This is not in the list.
    """
    typer.echo("goodbye")


class Greetings(group.LazyGroup):
    functions = {"greet": greet, "leave": leave}  # noqa: RUF012 - declared as a ClassVar in the base class.


@pytest.fixture
def made(monkeypatch: pytest.MonkeyPatch) -> list[str | None]:
    """Return the names of the commands that are made from now on."""
    names: list[str | None] = []

    def note(info: CommandInfo, **settings: Any) -> object:
        names.append(info.name)
        return get_command_from_info(info, **settings)

    monkeypatch.setattr(group, "get_command_from_info", note)
    return names


def run(*argv: str) -> Result:
    app = typer.Typer(cls=Greetings, add_completion=False, rich_markup_mode=None)
    app.callback()(lambda: None)
    return CliRunner().invoke(app, argv)


def test_only_the_called_command_is_made(made: list[str | None]) -> None:
    assert run("greet", "you").stdout == "hello you\n"
    assert set(made) == {"greet"}


def test_the_help_lists_the_first_paragraphs_and_makes_no_command(made: list[str | None]) -> None:
    listed = run("--help").stdout.partition("Commands:\n")[2]
    assert listed == "  greet  Greet one by name.\n  leave  Leave.\n"
    assert made == []


def test_a_command_shows_its_own_help() -> None:
    assert "Greet one by name." in run("greet", "--help").stdout


def test_an_unknown_command_is_an_error_that_names_a_similar_one() -> None:
    result = run("gret")
    assert result.exit_code == 2
    assert "No such command 'gret'. Did you mean 'greet'?" in result.stderr
