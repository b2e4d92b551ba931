"""How the invocation before ended, as the manager wrote it into the journal: with a restart systemd forgets it."""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Mapping
from typing import Any

from runbook.host.journalctl import Look
from runbook.host.starts import BEGAN
from runbook.host.tasks import EndBefore

PROCESS_EXIT = "98e322203f7a4ed290d09fe03c09fe15"
SUCCESS = "7ad2d189f7e94e70a38c781354912448"
FAILURE = "d9b373ed55a64feb8242e02dbe79a49c"
"""MESSAGE_ID= of "Main process exited, …", "Deactivated successfully." and "Failed with result …"
(systemd, src/systemd/sd-messages.h)."""

ENTRIES = 50
"""How far back it is looked: a start writes two of these entries at most, an end one more than processes failed."""


class Ending(Look[EndBefore]):
    """One look for it."""

    def get(self) -> tuple[bool, str, str]:
        """Look; the answer's output tells the end. Raises HostError."""
        kinds = [f"MESSAGE_ID={word}" for word in (*BEGAN, PROCESS_EXIT, SUCCESS, FAILURE)]
        arguments = ("--reverse", f"--lines={ENTRIES}", *self.by_manager(self._wanted.unit), *kinds)
        fields = ("MESSAGE_ID", "COMMAND", "EXIT_CODE", "EXIT_STATUS", "UNIT_RESULT", self.invocation)
        self._reader.catch_up()
        with contextlib.closing(self._reader.entries(*arguments, fields=fields)) as entries:
            found = _end_before(entries, self.invocation, self._wanted.invocation)
        if self._reader.over:
            return False, "no answer in time", ""
        return True, "", json.dumps(found) if found else ""


def _end_before(entries: Iterable[Mapping[str, Any]], field: str, invocation: str) -> dict[str, Any]:
    """Find the end of the invocation before one; the entries come latest first."""
    found: dict[str, Any] = {}
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
        told = entry.get("MESSAGE_ID")
        if told == PROCESS_EXIT:
            # The first process that failed took the others along, and is met last.
            status = str(entry.get("EXIT_STATUS", ""))
            found |= {
                "command": str(entry.get("COMMAND", "")),
                "code": str(entry.get("EXIT_CODE", "")),
                "status": int(status) if status.isdecimal() else 0,
            }
        elif told in (FAILURE, SUCCESS):
            found["result"] = str(entry.get("UNIT_RESULT") or "success")
    return found
