"""The exit statuses of systemd, and the sentences that name them."""

from __future__ import annotations

import pytest

from runbook.host.exit_status import describe_exec_failure, describe_exit_status
from runbook.host.queries import CommandResult


@pytest.mark.parametrize("status", [0, 1, 78, 127, 199, 223, 234, 246, 255])
def test_a_status_of_the_program_itself(status: int) -> None:
    assert describe_exit_status(status) == f"exited with status {status}"
    assert not describe_exec_failure(status)


@pytest.mark.parametrize("status", [*range(200, 223), *range(224, 234), *range(235, 246)])
def test_a_status_by_which_systemd_reports_that_it_executed_nothing(status: int) -> None:
    certain = describe_exec_failure(status, certain=True)
    assert certain.startswith("was not executed: systemd could not ")
    assert f"(status {status}/" in certain
    open_ = describe_exit_status(status)
    assert open_ == certain[:-1] + ", unless the program itself exits with that)"


def test_the_script_of_a_step_exits_by_itself() -> None:
    """It runs in a shell, and what systemd needs for that is checked before."""
    assert CommandResult("exit-code", 217).describe() == "exited with status 217"
