"""The group of all commands, which makes a command from its function only when that command is called.

typer makes all of them at each start: it evaluates each function's type hints, which takes 5 ms.
"""

from __future__ import annotations

import inspect
from collections import UserDict
from collections.abc import Callable
from typing import Any, ClassVar

from typer._click import Context, HelpFormatter  # typer has no public name for them.
from typer.core import TyperGroup
from typer.main import get_command_from_info
from typer.models import CommandInfo

Functions = dict[str, Callable[..., None]]
"""The function of each command, in the order of `--help`. Its docstring is the command's help."""


Notes = dict[str, dict[str, str]]
"""Tables at the end of `--help`, by their titles."""


class LazyGroup(TyperGroup):
    """A group of the commands whose functions a subclass lists."""

    functions: ClassVar[Functions]
    notes: ClassVar[Notes] = {}

    def __init__(self, **settings: Any) -> None:
        super().__init__(**settings)
        self.commands = _Commands(self.functions)

    def format_commands(self, ctx: Context, formatter: HelpFormatter) -> None:
        """Write each command with the first paragraph of its function's docstring. This makes no command."""
        with formatter.section("Commands"):
            formatter.write_dl([(name, _summary(function)) for name, function in self.functions.items()])
        for title, rows in self.notes.items():
            with formatter.section(title):
                formatter.write_dl([*rows.items()])


class _Commands(UserDict[str, Any]):
    """The commands by name. Each is made when it is read."""

    def __getitem__(self, name: str) -> Any:
        info = CommandInfo(name=name, callback=super().__getitem__(name))
        return get_command_from_info(info, pretty_exceptions_short=False, rich_markup_mode=None)


def _summary(function: Callable[..., None]) -> str:
    return (inspect.getdoc(function) or "").partition("\n\n")[0]
