"""Which entries a run makes, of its events alone."""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from runbook.engine.execution.stream import EventStream
from runbook.events import Event, Notice, RunStarted
from runbook.report.journal import KILL_MESSAGE_ID, MESSAGE_IDS, JournalReport
from tests.unit.runs import FIX, incident, remediate, run, step

Entry = dict[str, list[str]]


def entries(events: Iterable[Event], scope: str = "system") -> list[Entry]:
    """Report events to the journal, and return the entries that it was sent."""
    sent: list[Entry] = []

    def send(fields: Iterable[tuple[str, str]]) -> None:
        entry: Entry = {}
        for name, value in fields:
            entry.setdefault(name, []).append(value)
        sent.append(entry)

    journal = JournalReport("user" if scope == "user" else "system", send)
    for event in events:
        journal(event)
    return sent


def mended() -> list[Event]:
    checks = (step("wait-ready", **{"healthy-for": "1s"}), step("verify-port-owner"))
    _, events = run(incident(), remediate(*checks, fix=tuple(step(kind) for kind in FIX)), name="mend it")
    return events


def test_an_entry_has_the_fields_to_search_for() -> None:
    sent = entries(mended())
    assert all(entry["SYSLOG_IDENTIFIER"] == ["runbook"] for entry in sent)
    assert all(entry["RUNBOOK_RUN"] == ["run-1"] and entry["RUNBOOK_NAME"] == ["mend it"] for entry in sent)
    assert all(entry["OBJECT_SYSTEMD_UNIT"] == entry["RUNBOOK_UNIT"] == ["gw.service"] for entry in sent)
    [ended] = [entry for entry in sent if entry.get("RUNBOOK_STEP") == ["remediate.fix.stop"]][1:]
    assert ended["RUNBOOK_TYPE"] == ["stop"]
    assert (ended["RUNBOOK_STATUS"], ended["RUNBOOK_VERDICT"]) == (["changed"], ["job-done"])
    assert ended["MESSAGE"][0].startswith("remediate.fix.stop: changed, job-done: ")


def test_an_entry_names_the_user_and_where_the_name_is_from() -> None:
    sent: list[tuple[str, str]] = []
    journal = JournalReport("system", sent.extend, "bob", "sudo")
    events = mended()
    for event in events:
        journal(event)
    count = len([name for name, _ in sent if name == "MESSAGE"])
    assert sent.count(("RUNBOOK_USER", "bob")) == sent.count(("RUNBOOK_USER_SOURCE", "sudo")) == count


def test_each_kind_of_message_has_an_id_of_its_own() -> None:
    assert len({*MESSAGE_IDS.values(), KILL_MESSAGE_ID}) == len(MESSAGE_IDS) + 1
    ids = [entry["MESSAGE_ID"][0] for entry in entries(mended())]
    assert (ids[0], ids[-1]) == (MESSAGE_IDS["run-started"], MESSAGE_IDS["run-finished"])
    assert ids.count(MESSAGE_IDS["fix-started"]) == 1


def test_only_a_process_to_kill_becomes_an_object_of_an_entry() -> None:
    [ending] = [entry for entry in entries(mended()) if "OBJECT_PID" in entry]
    assert (ending["OBJECT_PID"], ending["MESSAGE_ID"]) == (["74"], [KILL_MESSAGE_ID])


def test_a_user_s_unit_is_an_object_of_another_name() -> None:
    assert all("OBJECT_SYSTEMD_UNIT" not in entry for entry in entries(mended(), "user"))
    assert entries(mended(), "user")[0]["OBJECT_SYSTEMD_USER_UNIT"] == ["gw.service"]


@pytest.mark.parametrize(
    ("status", "priority"),
    [("failed", "3"), ("rolled-back", "4"), ("interrupted", "4"), ("changed", "5"), ("ok", "6")],
)
def test_what_matters_more_has_a_higher_priority(status: str, priority: str) -> None:
    [entry] = entries([Event(0, "run-1", "run-finished", {"status": status, "exit": 0, "reason": "so"})])
    assert entry["PRIORITY"] == [priority]


def test_a_secret_is_masked_before_the_journal_hears_of_it() -> None:
    sent: list[str] = []
    journal = JournalReport("system", lambda fields: sent.extend(value for _, value in fields))
    _, seen = run(incident(), step("restart"))
    events = EventStream("run-1", incident().clock, (journal,), ("sesame",))
    events.emit(RunStarted.from_data({**seen[0].data, "name": "open sesame"}))
    events.emit(Notice(text="it is sesame"))
    assert "it is ***" in sent
    assert not [text for text in sent if "sesame" in text]
