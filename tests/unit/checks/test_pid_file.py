"""What is in PIDFile= while systemd waits for it, and which process it names."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.checks.pid_file import describe_last_read, describe_pid_file, is_pid_file_lost
from runbook.host.facts import ActiveState, Unit
from runbook.host.queries import FileText
from tests.unit.fake_machine import EPOCH, FakeMachine, process, unit

FILE = "/run/gw.pid"
NOW = EPOCH + 1000
RELOADED = (
    "; systemd was reloaded during the start, and has not watched the file since (systemctl restart gw.service st"
)


def awaiting(**changes: Any) -> Unit:
    facts: dict[str, Any] = {
        "active_state": ActiveState.ACTIVATING,
        "sub_state": "start",
        "type": "forking",
        "main_pid": 0,
        "pid_file": FILE,
        "inactive_exit": int((NOW - 100) * 1e6),
    }
    return unit(**{**facts, **changes})


def machine(text: str | None, **facts: Any) -> FakeMachine:
    files = {} if text is None else {FILE: FileText(FILE, text, **{"changed": NOW - 0.1, **facts})}
    made = FakeMachine(files=files, units={"gw.service": awaiting()})
    made.processes = {100: process(100), 77: process(77, name="db", cgroup="/system.slice/db.service")}
    made.processes[78] = process(78, dead=True)
    return made


@pytest.mark.parametrize(
    ("text", "facts", "reason"),
    [
        (None, {}, "it does not exist, and PID 100 (gateway) runs in gw.service"),
        ("", {}, "it is empty"),
        (" \n", {}, "it is empty"),
        ("root:secret\n", {}, "it does not contain a PID"),
        ("٣\n", {}, "it does not contain a PID"),
        ("12345678901234567890", {}, "it does not contain a PID"),
        ("", {"error": "it is not a regular file"}, "it cannot be read: it is not a regular file"),
        ("79\n", {}, "it names PID 79, and no such process runs"),
        ("78\n", {}, "it names PID 78, and no such process runs"),
        ("79\n", {"changed": NOW - 500}, "it is older than this start, and names PID 79, and no such process runs"),
        ("77\n", {}, "it names PID 77 (db), in db.service and not in gw.service"),
        (
            "77\n",
            {"uid": 1000},
            "it names PID 77 (db), in db.service and not in gw.service; "
            "systemd accepts that only in a file of root's, and it belongs to uid 1000",
        ),
        ("100\nmore\n", {}, "it names PID 100 (gateway) of gw.service"),
        (
            "100\n",
            {"changed": NOW - 50},
            "it names PID 100 (gateway) of gw.service, which systemd has not taken as the main process",
        ),
    ],
)
def test_what_it_contains(text: str | None, facts: dict[str, Any], reason: str) -> None:
    assert describe_pid_file(machine(text, **facts), awaiting()) == reason


@pytest.mark.parametrize(
    ("began", "control_exit", "loaded", "is_lost"),
    [(900, 910, 905, False), (900, 910, 920, True), (900, 0, 920, True), (900, 0, 890, False), (900, 910, 0, False)],
)
def test_a_reload_during_the_start(began: int, control_exit: int, loaded: int, is_lost: bool) -> None:
    """One that came before systemd began to watch the file does no harm. After one, the time of the exit is lost."""
    host = machine("100\n")
    host.unit_load = loaded
    waits = awaiting(inactive_exit_monotonic=began, control_exit_monotonic=control_exit)
    assert (RELOADED in describe_pid_file(host, waits)) is is_lost
    assert is_pid_file_lost(host, waits) is is_lost


@pytest.mark.parametrize(
    ("changes", "is_awaited"),
    [
        ({}, True),
        ({"sub_state": "start-post"}, True),
        ({"sub_state": "start-post", "type": "simple"}, True),
        ({"type": "simple"}, False),
        ({"control_pid": 7}, False),
        ({"pid_file": ""}, False),
        ({"active_state": ActiveState.ACTIVE}, False),
        ({"sub_state": "start-pre"}, False),
    ],
)
def test_when_systemd_waits_for_it(changes: dict[str, Any], is_awaited: bool) -> None:
    assert awaiting(**changes).awaits_pid_file is is_awaited
    assert bool(describe_pid_file(machine("100\n"), awaiting(**changes))) is is_awaited


def test_what_is_read_while_systemd_ends_the_start_is_no_cause() -> None:
    host = machine("79\n")
    host.units["gw.service"] = awaiting(sub_state="stop-sigterm", active_state=ActiveState.DEACTIVATING)
    assert describe_pid_file(host, awaiting()) == ""


def test_what_was_read_last() -> None:
    assert describe_last_read("it is empty") == "; when PIDFile= was last read: it is empty"
    assert describe_last_read("") == ""
