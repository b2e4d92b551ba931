"""How the invocation before ended, as systemd 252 and 257 write it. journalctl is played by a script."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from runbook.host import ends, starts
from runbook.host.tasks import EndBefore

from .conftest import Ask

STARTED = starts.BEGAN[1]
NOW = EndBefore("gw.service", "c")


def entry(invocation: str, message: str, **fields: str) -> dict[str, str]:
    return {"INVOCATION_ID": invocation, "MESSAGE_ID": message, **fields}


def exited(invocation: str, command: str, code: str, status: str) -> dict[str, str]:
    return entry(invocation, ends.PROCESS_EXIT, COMMAND=command, EXIT_CODE=code, EXIT_STATUS=status)


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
        entry("b", ends.FAILURE, UNIT_RESULT="signal"),
        entry("c", STARTED),
    )
    assert told(ask(NOW).output) == {"command": "ExecStart", "code": "killed", "status": 9, "result": "signal"}
    call = (played / "call").read_text()
    assert f" --reverse --lines={ends.ENTRIES} _PID=1 UNIT=gw.service MESSAGE_ID=" in call


def test_what_came_after_is_of_no_account(played: Path, ask: Ask) -> None:
    write(
        played,
        entry("b", STARTED),
        entry("b", ends.SUCCESS),
        entry("c", STARTED),
        exited("c", "ExecStart", "exited", "1"),
        entry("d", STARTED),
    )
    assert told(ask(NOW).output) == {"result": "success"}


def test_what_has_not_come_to_the_journal_yet(played: Path, ask: Ask) -> None:
    """Not the one that is asked for: what stands before it may be older than the invocation before."""
    write(played, entry("a", STARTED), exited("a", "ExecStart", "exited", "3"))
    answer = ask(NOW)
    assert (answer.good, answer.output) == (True, "")


def test_a_journal_without_the_one_before(played: Path, ask: Ask) -> None:
    write(
        played, entry("a", STARTED), exited("a", "ExecStart", "exited", "3"), entry("b", STARTED), entry("c", STARTED)
    )
    assert ask(NOW).output == ""


def test_a_unit_of_the_users_own_is_his_managers(played: Path, ask: Ask) -> None:
    failed = {**exited("", "ExecStart", "exited", "3"), "USER_INVOCATION_ID": "b"}
    (played / "entries").write_text(json.dumps({"USER_INVOCATION_ID": "c"}) + "\n" + json.dumps(failed) + "\n")
    assert told(ask(EndBefore("gw.service", "c", of_user=True)).output)["status"] == 3
    assert f" _UID={os.getuid()} USER_UNIT=gw.service " in (played / "call").read_text()
