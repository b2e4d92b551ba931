"""How the invocation before ended, as systemd 252 and 257 write it. journalctl is played by a script."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runbook.host.journal import previous_exit, starts
from runbook.host.queries import PreviousExitQuery
from tests.unit.host.conftest import Ask

STARTED = starts.START_MESSAGE_IDS[1]
NOW = PreviousExitQuery("gw.service", "c")


def entry(invocation: str, message: str, **fields: str) -> dict[str, str]:
    return {"INVOCATION_ID": invocation, "MESSAGE_ID": message, **fields}


def exited(invocation: str, command: str, code: str, status: str) -> dict[str, str]:
    return entry(invocation, previous_exit.PROCESS_EXIT, COMMAND=command, EXIT_CODE=code, EXIT_STATUS=status)


def write(played: Path, *entries: dict[str, str]) -> None:
    """Write entries as they are given, and have them read the latest first."""
    (played / "entries").write_text("".join(json.dumps(each) + "\n" for each in reversed(entries)))


def told(answer_output: str) -> Any:
    return json.loads(answer_output) if answer_output else None


def test_the_end_of_the_invocation_before(played: Path, ask: Ask) -> None:
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
    killed = {"command": "ExecStart", "code": "killed", "status": 9, "result": "signal", "started": True}
    assert told(ask(NOW).output) == killed
    call = (played / "call").read_text()
    assert f" --reverse --lines={previous_exit.MAX_ENTRIES} _PID=1 UNIT=gw.service MESSAGE_ID=" in call


def test_what_came_after_is_of_no_account(played: Path, ask: Ask) -> None:
    write(
        played,
        entry("b", STARTED),
        entry("b", previous_exit.SUCCESS),
        entry("c", STARTED),
        exited("c", "ExecStart", "exited", "1"),
        entry("d", STARTED),
    )
    assert told(ask(NOW).output) == {"result": "success", "started": True}


def test_what_has_not_come_to_the_journal_yet(played: Path, ask: Ask) -> None:
    """Not the one that is asked for: what stands before it may be older than the invocation before."""
    write(played, entry("a", STARTED), exited("a", "ExecStart", "exited", "3"))
    answer = ask(NOW)
    assert (answer.ok, answer.output) == (True, "")


def test_a_journal_without_the_end_of_the_one_before(played: Path, ask: Ask) -> None:
    write(
        played, entry("a", STARTED), exited("a", "ExecStart", "exited", "3"), entry("b", STARTED), entry("c", STARTED)
    )
    assert told(ask(NOW).output) == {"result": "", "started": True}
    write(played, entry("c", STARTED))
    assert told(ask(NOW).output) == {"result": "", "started": False}


BEFORE = exited("b", "ExecStartPre", "exited", "0")
FAILED = entry("b", previous_exit.FAILURE, UNIT_RESULT="exit-code")


@pytest.mark.parametrize(
    ("between", "first"),
    [
        # A reload that failed, however long ago, ended nothing.
        ([exited("b", "ExecReload", "exited", "1"), exited("b", "ExecStart", "killed", "9")], "ExecStart"),
        # At the level debug systemd writes of good ends, too, and of those that a `-` has it ignore.
        (
            [{**exited("b", "ExecStartPre", "exited", "0"), "PRIORITY": "7"}, exited("b", "ExecStart", "exited", "1")],
            "ExecStart",
        ),
        ([exited("b", "ExecStartPost", "exited", "4"), exited("b", "ExecStart", "killed", "15")], "ExecStartPost"),
        ([exited("b", "ExecStop", "exited", "4"), exited("b", "ExecStart", "exited", "1")], "ExecStart"),
        ([exited("b", "ExecStopPost", "exited", "4")], "ExecStopPost"),
        ([], None),
    ],
)
def test_what_took_the_others_along(played: Path, ask: Ask, between: list[dict[str, str]], first: str | None) -> None:
    write(played, entry("b", STARTED), *between, FAILED, entry("c", STARTED))
    end = told(ask(NOW).output)
    assert (end.get("command"), end["result"]) == (first, "exit-code")


def test_a_start_that_did_not_come_to_its_end(played: Path, ask: Ask) -> None:
    write(
        played,
        entry("b", starts.START_MESSAGE_IDS[0]),
        entry("b", previous_exit.FAILURE, UNIT_RESULT="timeout"),
        entry("c", STARTED),
    )
    assert told(ask(NOW).output) == {"result": "timeout", "started": False}


def test_a_unit_of_the_users_own_is_his_managers(played: Path, ask: Ask) -> None:
    failed = {**exited("", "ExecStart", "exited", "3"), "USER_INVOCATION_ID": "b"}
    (played / "entries").write_text(json.dumps({"USER_INVOCATION_ID": "c"}) + "\n" + json.dumps(failed) + "\n")
    assert told(ask(PreviousExitQuery("gw.service", "c", of_user=True)).output)["status"] == 3
    assert f" _UID={os.getuid()} USER_UNIT=gw.service " in (played / "call").read_text()
