"""How the previous invocation ended, as systemd 252 and 257 log it. A script stands in for journalctl."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runbook.host.journal import previous_exit, starts
from runbook.host.queries import PreviousExit, PreviousExitQuery
from tests.unit.host.conftest import Ask

STARTED = starts.START_MESSAGE_IDS[1]
NOW = PreviousExitQuery("gw.service", "c")


def entry(invocation: str, message: str, **fields: str) -> dict[str, str]:
    return {"INVOCATION_ID": invocation, "MESSAGE_ID": message, **fields}


def exited(invocation: str, command: str, code: str, status: str) -> dict[str, str]:
    return entry(invocation, previous_exit.PROCESS_EXIT, COMMAND=command, EXIT_CODE=code, EXIT_STATUS=status)


def write(played: Path, *entries: dict[str, str]) -> None:
    """Write entries in the order of time; journalctl prints the latest first."""
    (played / "entries").write_text("".join(json.dumps(each) + "\n" for each in reversed(entries)))


def test_the_exit_of_the_previous_invocation(played: Path, ask: Ask) -> None:
    write(
        played,
        entry("a", STARTED),
        exited("a", "ExecStart", "exited", "3"),
        entry("b", STARTED),
        exited("b", "ExecStart", "killed", "9"),
        exited("b", "ExecStopPost", "exited", "4"),
        entry("b", previous_exit.FAILURE, UNIT_RESULT="signal"),
        entry("c", STARTED),
    )
    assert ask(NOW).value == PreviousExit("signal", True, "ExecStart", "killed", 9)
    call = (played / "call").read_text()
    assert f" --reverse --lines={previous_exit.MAX_ENTRIES} _PID=1 UNIT=gw.service MESSAGE_ID=" in call


def test_entries_of_a_later_invocation_are_ignored(played: Path, ask: Ask) -> None:
    write(
        played,
        entry("b", STARTED),
        entry("b", previous_exit.SUCCESS),
        entry("c", STARTED),
        exited("c", "ExecStart", "exited", "1"),
        entry("d", STARTED),
    )
    assert ask(NOW).value == PreviousExit("success", True)


def test_an_invocation_that_is_not_in_the_journal_yet(played: Path, ask: Ask) -> None:
    """The entries there may be older than those of the previous invocation."""
    write(played, entry("a", STARTED), exited("a", "ExecStart", "exited", "3"))
    answer = ask(NOW)
    assert (answer.ok, answer.value) == (True, None)


def test_a_journal_without_the_previous_exit(played: Path, ask: Ask) -> None:
    write(
        played, entry("a", STARTED), exited("a", "ExecStart", "exited", "3"), entry("b", STARTED), entry("c", STARTED)
    )
    assert ask(NOW).value == PreviousExit("", True)
    write(played, entry("c", STARTED))
    assert ask(NOW).value == PreviousExit("", False)


BEFORE = exited("b", "ExecStartPre", "exited", "0")
FAILED = entry("b", previous_exit.FAILURE, UNIT_RESULT="exit-code")


@pytest.mark.parametrize(
    ("between", "first"),
    [
        # A failed reload, however long ago, ends no invocation.
        ([exited("b", "ExecReload", "exited", "1"), exited("b", "ExecStart", "killed", "9")], "ExecStart"),
        # At the level debug, systemd logs successful exits too, and those that it ignores because of a `-`.
        (
            [{**exited("b", "ExecStartPre", "exited", "0"), "PRIORITY": "7"}, exited("b", "ExecStart", "exited", "1")],
            "ExecStart",
        ),
        ([exited("b", "ExecStartPost", "exited", "4"), exited("b", "ExecStart", "killed", "15")], "ExecStartPost"),
        ([exited("b", "ExecStop", "exited", "4"), exited("b", "ExecStart", "exited", "1")], "ExecStart"),
        ([exited("b", "ExecStopPost", "exited", "4")], "ExecStopPost"),
        ([], ""),
    ],
)
def test_the_first_process_that_failed(played: Path, ask: Ask, between: list[dict[str, str]], first: str) -> None:
    write(played, entry("b", STARTED), *between, FAILED, entry("c", STARTED))
    found = ask(NOW).value
    assert found is not None
    assert (found.command, found.result) == (first, "exit-code")


def test_a_start_that_did_not_complete(played: Path, ask: Ask) -> None:
    write(
        played,
        entry("b", starts.START_MESSAGE_IDS[0]),
        entry("b", previous_exit.FAILURE, UNIT_RESULT="timeout"),
        entry("c", STARTED),
    )
    assert ask(NOW).value == PreviousExit("timeout", False)


def test_a_unit_of_the_users_own_manager(played: Path, ask: Ask) -> None:
    failed = {**exited("", "ExecStart", "exited", "3"), "USER_INVOCATION_ID": "b"}
    (played / "entries").write_text(json.dumps({"USER_INVOCATION_ID": "c"}) + "\n" + json.dumps(failed) + "\n")
    found = ask(PreviousExitQuery("gw.service", "c", of_user=True)).value
    assert found is not None
    assert found.status == 3
    assert f" _UID={os.getuid()} USER_UNIT=gw.service " in (played / "call").read_text()
