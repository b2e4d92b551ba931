"""Each exception leads to its exit status."""

from __future__ import annotations

import signal

import pytest

from runbook import errors
from runbook.errors import DocumentError, HostError, Interrupted, Problem, RunbookError


def test_each_exception_has_its_exit_status() -> None:
    kinds = [errors.UsageError, errors.NotBegun, errors.BusUnavailable, errors.Locked, errors.HostError, errors.BusLost]
    assert [kind.exit_status for kind in kinds] == [2, 5, 5, 75, 1, 1]
    assert DocumentError([]).exit_status == 2


@pytest.mark.parametrize(("signum", "status"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
def test_an_interruption_has_the_status_of_its_signal(signum: signal.Signals, status: int) -> None:
    interrupted = Interrupted(signum)
    assert (interrupted.exit_status, str(interrupted)) == (status, f"interrupted by {signum.name}")


def test_the_problems_of_a_file_have_the_format_that_editors_read() -> None:
    problems = [Problem("a.yaml", 3, 7, "no such step"), Problem("a.yaml", 9, 1, "no such field")]
    error = DocumentError(problems)
    assert str(error) == "a.yaml:3:7: no such step\na.yaml:9:1: no such field"
    assert error.problems == problems


def test_a_host_error_has_a_hint_and_the_dbus_error() -> None:
    error = HostError("cannot stop gw.service: no permission", hint="sudo", dbus_error="org.example.Denied")
    assert isinstance(error, RunbookError)
    assert (str(error), error.message, error.hint, error.dbus_error) == (
        "cannot stop gw.service: no permission", "cannot stop gw.service: no permission", "sudo", "org.example.Denied"
    )  # fmt: skip
