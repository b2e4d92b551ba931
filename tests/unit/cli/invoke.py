"""Runs a command of the program in this process."""

from __future__ import annotations

from typer.testing import CliRunner, Result

from runbook import cli, errors


def runbook(*argv: str) -> Result:
    """Return the result of `runbook ARGV…`."""
    return CliRunner().invoke(cli.app, list(argv))


def failure(*argv: str) -> errors.RunbookError:
    """Return the error with which `runbook ARGV…` ends."""
    error = runbook(*argv).exception
    assert isinstance(error, errors.RunbookError)
    return error
