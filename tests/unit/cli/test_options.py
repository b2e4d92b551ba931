"""The options that several commands share."""

from __future__ import annotations

from importlib.metadata import version
from typing import get_args

from runbook.cli import options


def test_the_formats_are_those_of_the_contract() -> None:
    assert [str(output) for output in options.Output] == ["auto", "plain", "json"]


def test_every_shared_option_has_a_help_text() -> None:
    shared = [value for name, value in vars(options).items() if name.endswith(("Option", "Argument"))]
    assert len(shared) == 14
    assert all(get_args(option)[1].help.endswith(".") for option in shared)


def test_the_version_is_that_of_the_distribution() -> None:
    assert options.program_version() == version("systemd-runbook")
