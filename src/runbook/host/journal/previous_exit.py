"""How the previous invocation ended, as the manager logged it: systemd itself forgets it when it restarts the unit."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from runbook.host.journal.reader import JournalReader
from runbook.host.journal.starts import START_MESSAGE_IDS
from runbook.host.queries import Answer, PreviousExit, PreviousExitQuery

PROCESS_EXIT = "98e322203f7a4ed290d09fe03c09fe15"
SUCCESS = "7ad2d189f7e94e70a38c781354912448"
FAILURE = "d9b373ed55a64feb8242e02dbe79a49c"
"""MESSAGE_ID= of "Main process exited, …", "Deactivated successfully." and "Failed with result …"
(systemd, src/systemd/sd-messages.h)."""

_EVENTS = {START_MESSAGE_IDS[1]: "started", PROCESS_EXIT: "exit", SUCCESS: "end", FAILURE: "end"}

DEBUG = "7"  # the PRIORITY= of an exit that counts as a success, and of one that systemd ignores because of a `-`

START_SETTINGS = ("ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost")

MAX_ENTRIES = 50  # entries that are read: a start writes at most two, an end one more than the processes that failed


class PreviousExitReader(JournalReader[PreviousExitQuery]):
    """Reads the exit of the invocation before the one that the query names."""

    def run(self) -> Answer[PreviousExit]:
        """Return the exit, or no value if the journal does not have the invocation yet. Raises HostError."""
        kinds = [f"MESSAGE_ID={word}" for word in (*START_MESSAGE_IDS, PROCESS_EXIT, SUCCESS, FAILURE)]
        arguments = ("--reverse", f"--lines={MAX_ENTRIES}", *self.manager_matches(self._query.unit), *kinds)
        fields = ("MESSAGE_ID", "PRIORITY", "COMMAND", "EXIT_CODE", "EXIT_STATUS", "UNIT_RESULT", self.invocation_field)
        entries = self.read_all(*arguments, fields=fields)
        return Answer(True, "", _find_previous_exit(entries, self.invocation_field, self._query.invocation))


def _find_previous_exit(
    entries: Sequence[Mapping[str, Any]], invocation_field: str, invocation: str
) -> PreviousExit | None:
    """Return the exit of the invocation before this one; None if this one is not found. The latest entry is first."""
    invocations = [str(entry.get(invocation_field) or "") for entry in entries]
    if invocation not in invocations:
        return None
    previous_exit = PreviousExit()
    failures: list[PreviousExit] = []
    previous = ""
    # Entries before the first of this invocation are newer than the query.
    for entry, current in list(zip(entries, invocations, strict=True))[invocations.index(invocation) :]:
        if current == invocation:
            continue
        previous = previous or current
        if current != previous:
            break
        match _EVENTS.get(str(entry.get("MESSAGE_ID"))):
            case "exit" if entry.get("PRIORITY") != DEBUG and entry.get("COMMAND") != "ExecReload":
                failures.append(_parse_exit(entry))
            case "end":
                previous_exit = previous_exit._replace(result=str(entry.get("UNIT_RESULT") or "success"))
            case "started":
                previous_exit = previous_exit._replace(started=True)
    # systemd stops the other processes after the first failure. Settings after those of the start are cleanup.
    failures.reverse()
    failures.sort(key=lambda exit_: exit_.command not in START_SETTINGS)
    return (
        failures[0]._replace(result=previous_exit.result, started=previous_exit.started) if failures else previous_exit
    )


def _parse_exit(entry: Mapping[str, Any]) -> PreviousExit:
    status = str(entry.get("EXIT_STATUS", ""))
    code, command = str(entry.get("EXIT_CODE", "")), str(entry.get("COMMAND", ""))
    return PreviousExit(command=command, code=code, status=int(status) if status.isdecimal() else 0)
