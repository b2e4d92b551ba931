"""An update judged by the version that is installed before and after its command."""

from __future__ import annotations

import pytest

from runbook.actions.update_result import InstalledVersion
from runbook.checks.versions import VERSION
from runbook.host.queries import Answer, CommandResult
from runbook.model import FindingState


def installed(printed: str, previous: str | None = "1.0.0", *, secret: bool = False) -> InstalledVersion:
    """Return the answer of a version command that printed this."""
    return InstalledVersion(Answer(True, "", printed), "`app --version`", VERSION, "1.1.0", previous, secret)


@pytest.mark.parametrize(
    ("printed", "previous", "verdict", "reason"),
    [
        ("1.1.0", None, "up-to-date", "1.1.0 is installed already"),
        ("1.1.0", "1.0.0", "updated", "1.0.0 -> 1.1.0"),
        ("1.0.0", None, "version-mismatch", "run `install`: 1.0.0 -> 1.1.0"),
        (
            "",
            None,
            "version-mismatch",
            "run `install`: nothing -> 1.1.0 (no version is installed: `app --version` prints nothing)",
        ),
    ],
)
def test_before_the_command(printed: str, previous: str | None, verdict: str, reason: str) -> None:
    found = installed(printed, previous).judge_before("`install`")
    assert (found.verdict, found.reason) == (verdict, reason)


def test_a_lower_version_is_refused_unless_it_is_asked_for() -> None:
    refused = installed("1.2.0", None).judge_before("`install`")
    assert (refused.state, refused.evidence["downgrade"]) == (FindingState.FAILS, True)
    assert refused.reason == "1.2.0 -> 1.1.0 is a downgrade, and a downgrade is refused unless it is asked for"
    permitted = installed("1.2.0", None).judge_before("`install`", downgrade=True)
    assert (permitted.state, permitted.reason) == (
        FindingState.TO_DO,
        "run `install`: 1.2.0 -> 1.1.0, a downgrade",
    )


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
