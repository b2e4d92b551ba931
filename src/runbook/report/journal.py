"""A run as the journal has it: one entry for each thing that a person who looks there later should find.

Each kind of message has an id of its own (MESSAGE_ID), which never changes: others may search for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Any, Literal

from runbook.model import Event
from runbook.util.stdio import escape_controls

MESSAGE_IDS = {
    "run-started": "1a96052838114eed995f32f7cfda32c4",
    "run-resumed": "c297acd7940a4297aea33a6613735555",
    "run-finished": "145027819395443b9386deea7c755f2f",
    "step-acting": "e73161c7d2dc4f1c81c053abfad98f01",
    "step-finished": "522add6d48bd434d8eb9ffe531e2ea91",
    "fix-started": "bd1dfd4e714f47f083d87a94d46f6787",
    "rollback-started": "a71705331fdc43fcb5fabfbe13fac219",
    "notice": "a43d1ee7439b4e5c829bdb86f3688278",
}
"""The events that become entries, and the id of each."""

KILL_MESSAGE_ID = "d99fa678bb9b42c4a89aac7377b61dff"
"""The id of the entry about a process that is about to be ended."""

KILLED_ROLES = ("orphan", "leftover")
"""What a process that holds a port must be to be ended."""

OBJECTS = {"system": "OBJECT_SYSTEMD_UNIT", "user": "OBJECT_SYSTEMD_USER_UNIT"}
"""The field by which `journalctl --unit` finds what others say of a unit (systemd.journal-fields(7))."""


class Priority(IntEnum):
    """How much an entry matters (syslog(3))."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6


_PRIORITIES = {
    "failed": Priority.ERROR,
    "interrupted": Priority.WARNING,
    "not-begun": Priority.WARNING,
    "rolled-back": Priority.WARNING,
    "still-starting": Priority.WARNING,
    "changed": Priority.NOTICE,
    "remediated": Priority.NOTICE,
}


class JournalReport:
    """Puts the events of a run into the journal."""

    def __init__(
        self,
        scope: Literal["system", "user"],
        send: Callable[[Iterable[tuple[str, str]]], None],
    ) -> None:
        self._object = OBJECTS[scope]
        self._send = send
        self._name = ""
        self._units: tuple[str, ...] = ()
        self._step_units: dict[str, tuple[str, ...]] = {}

    def __call__(self, event: Event) -> None:
        """Send an entry about an event, if it becomes one."""
        data = event.data
        if event.event in ("run-started", "run-resumed"):
            self._name, self._units = str(data["name"]), tuple(data["units"])
        elif event.event == "step-started":
            self._step_units[data["id"]] = tuple(data["units"])
        if event.event not in MESSAGE_IDS:
            return
        message, priority = _sentence(event)
        self._entry(event, MESSAGE_IDS[event.event], message, priority)
        for holder in _find_kill_targets(event):
            said = f"about to end PID {holder['pid']} ({holder['command']}): {holder['why']}"
            self._entry(event, KILL_MESSAGE_ID, said, Priority.NOTICE, OBJECT_PID=str(holder["pid"]))

    def _entry(self, event: Event, id_: str, message: str, priority: Priority, **more: str) -> None:
        data = event.data
        known = {
            "RUNBOOK_RUN": event.run,
            "RUNBOOK_NAME": self._name,
            "RUNBOOK_STEP": data.get("id") or data.get("step"),
            "RUNBOOK_TYPE": data.get("type"),
            "RUNBOOK_STATUS": data.get("status"),
            "RUNBOOK_VERDICT": data.get("verdict"),
            **more,
        }
        fields = [
            # journalctl shows none of a message with control characters in it, only how long it is.
            ("MESSAGE", escape_controls(message)),
            ("PRIORITY", str(int(priority))),
            ("SYSLOG_IDENTIFIER", "runbook"),
            ("MESSAGE_ID", id_),
            *((name, str(value)) for name, value in known.items() if value),
        ]
        # A command has no unit of its own; it is for the runbook's.
        for unit in self._step_units.get(str(data.get("id"))) or self._units:
            fields += [("RUNBOOK_UNIT", unit), (self._object, unit)]
        self._send(fields)


def _sentence(event: Event) -> tuple[str, Priority]:
    data = event.data
    priority = _PRIORITIES.get(str(data.get("status")), Priority.INFO)
    match event.event:
        case "run-started":
            return f"run {event.run} begins: {data['name']}", priority
        case "run-resumed":
            return f"run {event.run} goes on: {data['name']}", priority
        case "run-finished":
            return f"run {event.run} ended, {data['status']}: {data['reason']}", priority
        case "step-acting":
            return f"{data['id']}: about to {data['reason']}", Priority.NOTICE
        case "step-finished":
            found = f", {data['verdict']}" if data["verdict"] else ""
            return f"{data['id']}: {data['status']}{found}: {data['reason']}", priority
        case "fix-started":
            return f"{data['id']}: round {data['round']} of the fix begins, for {data['because']}", Priority.NOTICE
        case "rollback-started":
            return f"the roll back begins: {data['failed']} failed", Priority.WARNING
        case _:
            return str(data["text"]), Priority.NOTICE


def _find_kill_targets(event: Event) -> Iterator[Mapping[str, Any]]:
    """Give the processes that a step is about to end, each once: journald still finds who they are."""
    if event.event != "step-acting":
        return
    seen = set()
    for port in event.data["evidence"].get("ports", ()):
        for holder in port["holders"]:
            if holder["role"] in KILLED_ROLES and holder["pid"] not in seen:
                seen.add(holder["pid"])
                yield holder
