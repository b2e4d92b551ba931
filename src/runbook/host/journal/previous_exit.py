"""How the invocation before ended, as the manager wrote it into the journal: with a restart systemd forgets it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from runbook.host.journal.reader import JournalReader
from runbook.host.journal.starts import START_MESSAGE_IDS
from runbook.host.queries import PreviousExitQuery

PROCESS_EXIT = "98e322203f7a4ed290d09fe03c09fe15"
SUCCESS = "7ad2d189f7e94e70a38c781354912448"
FAILURE = "d9b373ed55a64feb8242e02dbe79a49c"
"""MESSAGE_ID= of "Main process exited, …", "Deactivated successfully." and "Failed with result …"
(systemd, src/systemd/sd-messages.h)."""

_KINDS = {START_MESSAGE_IDS[1]: "started", PROCESS_EXIT: "exit", SUCCESS: "end", FAILURE: "end"}

DEBUG = "7"
"""The PRIORITY= of an exit that systemd takes for a success, and of one that a `-` has it ignore."""

START_SETTINGS = ("ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost")

MAX_ENTRIES = 50
"""How far back it is looked: a start writes two of these entries at most, an end one more than processes failed."""


class PreviousExitReader(JournalReader[PreviousExitQuery]):
    """One look for it."""

    def run(self) -> tuple[bool, str, str]:
        """Look; the answer's output tells the end. Raises HostError."""
        kinds = [f"MESSAGE_ID={word}" for word in (*START_MESSAGE_IDS, PROCESS_EXIT, SUCCESS, FAILURE)]
        arguments = ("--reverse", f"--lines={MAX_ENTRIES}", *self.manager_matches(self._wanted.unit), *kinds)
        fields = ("MESSAGE_ID", "PRIORITY", "COMMAND", "EXIT_CODE", "EXIT_STATUS", "UNIT_RESULT", self.invocation_field)
        self._reader.sync()
        with contextlib.closing(self._reader.entries(*arguments, fields=fields)) as entries:
            found = _find_previous_exit(entries, self.invocation_field, self._wanted.invocation)
        if self._reader.is_over:
            return False, "no answer in time", ""
        return True, "", "" if found is None else json.dumps(found)


def _find_previous_exit(entries: Iterable[Mapping[str, Any]], field: str, invocation: str) -> dict[str, Any] | None:
    """Find the end of the invocation before one; None where that one is not to be seen. Latest entries come first."""
    found: dict[str, Any] = {"result": "", "started": False}
    failed: list[dict[str, Any]] = []
    before = ""
    begun = False
    for entry in entries:
        of = str(entry.get(field) or "")
        # What comes after the one that is asked for is newer than the question.
        begun = begun or of == invocation
        if not begun or of == invocation:
            continue
        before = before or of
        if of != before:
            break
        match _KINDS.get(str(entry.get("MESSAGE_ID"))):
            case "exit" if entry.get("PRIORITY") != DEBUG and entry.get("COMMAND") != "ExecReload":
                failed.append(_exit(entry))
            case "end":
                found["result"] = str(entry.get("UNIT_RESULT") or "success")
            case "started":
                found["started"] = True
    # The first that failed took the others along. What comes after a start's own commands is cleaning up.
    failed.reverse()
    failed.sort(key=lambda one: one["command"] not in START_SETTINGS)
    return found | (failed[0] if failed else {}) if begun else None


def _exit(entry: Mapping[str, Any]) -> dict[str, Any]:
    status = str(entry.get("EXIT_STATUS", ""))
    code, command = str(entry.get("EXIT_CODE", "")), str(entry.get("COMMAND", ""))
    return {"command": command, "code": code, "status": int(status) if status.isdecimal() else 0}
