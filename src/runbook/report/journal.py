"""The report of a run in the journal: one entry for each event that matters to a reader of the journal.

Each kind of message has a MESSAGE_ID, which never changes, because other programs may search for it.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping
from enum import IntEnum
from typing import Any, Literal

from runbook import events
from runbook.model import RunStatus
from runbook.util.stdio import escape_controls

MESSAGE_IDS: Mapping[str, str] = {
    events.EventName.RUN_STARTED: "1a96052838114eed995f32f7cfda32c4",
    events.EventName.RUN_RESUMED: "c297acd7940a4297aea33a6613735555",
    events.EventName.RUN_FINISHED: "145027819395443b9386deea7c755f2f",
    events.EventName.STEP_ACTING: "e73161c7d2dc4f1c81c053abfad98f01",
    events.EventName.STEP_FINISHED: "522add6d48bd434d8eb9ffe531e2ea91",
    events.EventName.FIX_STARTED: "bd1dfd4e714f47f083d87a94d46f6787",
    events.EventName.ROLLBACK_STARTED: "a71705331fdc43fcb5fabfbe13fac219",
    events.EventName.NOTICE: "a43d1ee7439b4e5c829bdb86f3688278",
}
"""The events that become entries, with the MESSAGE_ID of each."""

KILL_MESSAGE_ID = "d99fa678bb9b42c4a89aac7377b61dff"  # of the entry about a process that is about to be killed
KILLED_ROLES = ("orphan", "leftover")  # the roles of processes that may be killed

OBJECTS = {"system": "OBJECT_SYSTEMD_UNIT", "user": "OBJECT_SYSTEMD_USER_UNIT"}
"""The field by which `journalctl --unit` finds entries of other programs about a unit (systemd.journal-fields(7))."""


class Priority(IntEnum):
    """The priority of an entry (syslog(3))."""

    ERROR = 3
    WARNING = 4
    NOTICE = 5
    INFO = 6


_PRIORITIES: Mapping[str, Priority] = {
    RunStatus.FAILED: Priority.ERROR,
    RunStatus.INTERRUPTED: Priority.WARNING,
    RunStatus.NOT_BEGUN: Priority.WARNING,
    RunStatus.ROLLED_BACK: Priority.WARNING,
    RunStatus.STILL_STARTING: Priority.WARNING,
    RunStatus.CHANGED: Priority.NOTICE,
    RunStatus.REMEDIATED: Priority.NOTICE,
}


class JournalReport:
    """Writes the events of a run into the journal."""

    def __init__(
        self,
        scope: Literal["system", "user"],
        send: Callable[[Iterable[tuple[str, str]]], None],
        user: str = "",
        user_source: str = "",
    ) -> None:
        self._object = OBJECTS[scope]
        self._operator = {"RUNBOOK_USER": user, "RUNBOOK_USER_SOURCE": user_source}
        self._send = send
        self._name = ""
        self._units: tuple[str, ...] = ()
        self._step_units: dict[str, tuple[str, ...]] = {}

    def __call__(self, event: events.Event) -> None:
        """Send an entry about an event, if it is one of MESSAGE_IDS."""
        payload = event.payload
        if isinstance(payload, events.RunStarted | events.RunResumed):
            self._name, self._units = payload.name, tuple(payload.units)
        elif isinstance(payload, events.StepStarted):
            self._step_units[payload.id] = tuple(payload.units)
        if event.event not in MESSAGE_IDS:
            return
        message, priority = _sentence(event.run, payload)
        self._entry(event, MESSAGE_IDS[event.event], message, priority)
        for holder in _find_kill_targets(payload):
            text = f"about to kill PID {holder['pid']} ({holder['command']}): {holder['why']}"
            self._entry(event, KILL_MESSAGE_ID, text, Priority.NOTICE, OBJECT_PID=str(holder["pid"]))

    def _entry(self, event: events.Event, id_: str, message: str, priority: Priority, **more: str) -> None:
        data = event.data
        known = {
            "RUNBOOK_RUN": event.run,
            "RUNBOOK_NAME": self._name,
            "RUNBOOK_STEP": data.get("id") or data.get("step"),
            "RUNBOOK_TYPE": data.get("type"),
            "RUNBOOK_STATUS": data.get("status"),
            "RUNBOOK_VERDICT": data.get("verdict"),
            **self._operator,
            **more,
        }
        fields = [
            # Of a message with control characters journalctl shows only the length.
            ("MESSAGE", escape_controls(message)),
            ("PRIORITY", str(int(priority))),
            ("SYSLOG_IDENTIFIER", "runbook"),
            ("MESSAGE_ID", id_),
            *((name, str(value)) for name, value in known.items() if value),
        ]
        # A `run` step names no unit: its entries belong to the units of the runbook.
        for unit in self._step_units.get(str(data.get("id"))) or self._units:
            fields += [("RUNBOOK_UNIT", unit), (self._object, unit)]
        self._send(fields)


def _sentence(run: str, payload: events.Payload | None) -> tuple[str, Priority]:
    match payload:
        case events.RunStarted(name=name):
            return f"run {run} begins: {name}", Priority.INFO
        case events.RunResumed(name=name):
            return f"run {run} is resumed: {name}", Priority.INFO
        case events.RunFinished(status=status, reason=reason):
            return f"run {run} ended, {status}: {reason}", _PRIORITIES.get(status, Priority.INFO)
        case events.StepActing(id=step, reason=reason):
            return f"{step}: about to {reason}", Priority.NOTICE
        case events.StepFinished(id=step, status=status, verdict=verdict, reason=reason):
            found = f", {verdict}" if verdict else ""
            return f"{step}: {status}{found}: {reason}", _PRIORITIES.get(status, Priority.INFO)
        case events.FixStarted(id=step, round=number, because=because):
            return f"{step}: round {number} of the fix begins, for {because}", Priority.NOTICE
        case events.RollbackStarted(failed=step):
            return f"the rollback begins: {step} failed", Priority.WARNING
        case events.Notice(text=text):
            return text, Priority.NOTICE
    raise AssertionError(f"no entry for {payload}")


def _find_kill_targets(payload: events.Payload | None) -> Iterator[Mapping[str, Any]]:
    """Return the processes that a step is about to kill, each once: journald can still add their fields."""
    if not isinstance(payload, events.StepActing):
        return
    seen = set()
    for port in payload.evidence.get("ports", ()):
        for holder in port["holders"]:
            if holder["role"] in KILLED_ROLES and holder["pid"] not in seen:
                seen.add(holder["pid"])
                yield holder
