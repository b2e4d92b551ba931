"""An update judged by the version that is installed before and after its command."""

from __future__ import annotations

import pytest

from runbook.actions.update_result import InstalledVersion
from runbook.checks.versions import VERSION
from runbook.host.queries import Answer, CommandResult


def installed(printed: str, previous: str | None = "1.0.0", *, secret: bool = False) -> InstalledVersion:
    """Return the answer of a version command that printed this."""
    return InstalledVersion(Answer(True, "", printed), "`app --version`", VERSION, "1.1.0", previous, secret)


@pytest.mark.parametrize(
    ("printed", "previous", "verdict", "reason"),
    [
        ("1.1.0", None, "up-to-date", "1.1.0 is installed already"),
        ("1.1.0", "1.0.0", "updated", "1.0.0 -> 1.1.0"),
        ("1.0.0", None, "version-mismatch", "run `install`; 1.0.0 is installed"),
        ("", None, "version-mismatch", "run `install`; no version is installed (`app --version` prints nothing)"),
    ],
)
def test_before_the_command(printed: str, previous: str | None, verdict: str, reason: str) -> None:
    found = installed(printed, previous).judge_before("`install`")
    assert (found.verdict, found.reason) == (verdict, reason)


@pytest.mark.parametrize(
    ("printed", "verdict"), [("1.1.0", "updated"), ("1.0.0", "version-mismatch"), ("", "version-mismatch")]
)
def test_after_the_command(printed: str, verdict: str) -> None:
    assert installed(printed).judge_after().verdict == verdict


@pytest.mark.parametrize(
    ("printed", "left"),
    [("1.0.0", "1.0.0 is installed still"), ("1.1.0", "1.1.0 is installed"), ("", "cannot be determined")],
)
def test_what_a_command_that_failed_left(printed: str, left: str) -> None:
    failed = installed(printed).judge_failure("`install`", CommandResult("exit-code", 1, ""))
    assert failed.verdict == "update-failed"
    assert left in failed.reason


def test_a_secret_output_is_in_no_message() -> None:
    assert "hidden" not in installed("hidden", secret=True).describe_missing()
