"""The end of the journal. A script that records its arguments stands in for journalctl."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest

from runbook.host.queries import Answer, JournalLine, JournalTailQuery
from tests.unit.host.conftest import Ask


@pytest.fixture(autouse=True)
def entries(played: Path) -> None:
    # The newest comes first.
    (played / "entries").write_text('{"MESSAGE": [104, 105, 255]}\n{"MESSAGE": "one\\n\\ntwo"}\n')


def texts(answer: Answer[tuple[JournalLine, ...]]) -> list[str]:
    return [line.text for line in answer.value or ()]


def test_the_lines_are_the_value(played: Path, ask: Ask) -> None:
    answer = ask(JournalTailQuery("gw.service", 12.5, lines=5))
    assert (answer.ok, texts(answer)) == (True, ["one", "two", "hi\N{REPLACEMENT CHARACTER}"])
    call = (played / "call").read_text()
    assert call.endswith("--since=@12.500000 --reverse --lines=5 _SYSTEMD_UNIT=gw.service")


@pytest.mark.parametrize(("uid", "calls"), [(0, ["--sync", "--quiet"]), (1000, ["--quiet"])])
def test_root_syncs_the_journal_first(
    played: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch, uid: int, calls: list[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert ask(JournalTailQuery("gw.service", 0)).ok
    assert (played / "calls").read_text().split() == calls


def test_no_more_lines_than_requested(played: Path, ask: Ask) -> None:
    assert texts(ask(JournalTailQuery("gw.service", 0, lines=2))) == ["two", "hi\N{REPLACEMENT CHARACTER}"]


def test_a_line_of_a_megabyte_is_cut_off(played: Path, ask: Ask) -> None:
    (played / "entries").write_text(json.dumps({"MESSAGE": "x" * 1_000_000}) + "\n")
    assert texts(ask(JournalTailQuery("gw.service", 0))) == ["x" * 2000 + "..."]


def test_a_unit_of_the_users_own_manager(played: Path, ask: Ask) -> None:
    ask(JournalTailQuery("gw.service", 0, of_user=True))
    call = (played / "call").read_text()
    assert call.endswith(f"_UID={os.getuid()} _SYSTEMD_USER_UNIT=gw.service")


@pytest.mark.parametrize(
    ("of_user", "matches"), [(False, "_PID=1 UNIT=gw.socket"), (True, f"_UID={os.getuid()} USER_UNIT=gw.socket")]
)
def test_a_socket_has_the_entries_of_its_manager(played: Path, ask: Ask, of_user: bool, matches: str) -> None:
    ask(JournalTailQuery("gw.socket", 0, of_user=of_user))
    assert (played / "call").read_text().endswith(f" {matches}")


def test_a_journal_that_cannot_be_read_is_no_answer(played: Path, ask: Ask) -> None:
    (played / "status").write_text("1")
    assert not ask(JournalTailQuery("gw.service", 0)).ok


def test_no_process_writes_lines_of_another(played: Path, ask: Ask) -> None:
    """str.splitlines() would end a line at these characters, but they do not begin a new line of the entry."""
    entry = json.dumps({"_PID": "6", "MESSAGE": "well\x0b7: a\x1c7: b\x857: c\u20287: d\r7: e"})
    (played / "entries").write_text(f"{entry}\n")
    answer = ask(JournalTailQuery("", 0, pids=(6, 7)))
    assert answer.value == (JournalLine(6, "well\x0b7: a\x1c7: b\x857: c\u20287: d\r7: e"),)


# What the manager logged


LOGGED = """
{"MESSAGE": "gw.service: three", "__REALTIME_TIMESTAMP": "9000000"}
{"MESSAGE": "gw.service: two", "__REALTIME_TIMESTAMP": "8500000"}
{"MESSAGE": "Failed to start gw.", "MESSAGE_ID": "be02cf6855d2428ba40df7e9d022f03d"}
{"MESSAGE": "Failed with result.", "MESSAGE_ID": "d9b373ed55a64feb8242e02dbe79a49c"}
{"MESSAGE": "gw.service: three", "__REALTIME_TIMESTAMP": "7000000"}
{"MESSAGE": "gw.service: one", "__REALTIME_TIMESTAMP": "6000000"}
"""


@pytest.mark.parametrize(
    ("fields", "lines"),
    [
        ({}, ["gw.service: one", "gw.service: three", "gw.service: two"]),
        ({"lines": 2}, ["gw.service: three", "gw.service: two"]),
        ({"latest": True}, ["gw.service: two", "gw.service: three"]),
    ],
)
def test_what_the_manager_logged_once_each(played: Path, ask: Ask, fields: dict[str, Any], lines: list[str]) -> None:
    (played / "entries").write_text(LOGGED.lstrip())
    assert texts(ask(JournalTailQuery("gw.service", 1.0, of_manager=True, **fields))) == lines


@pytest.mark.parametrize(
    ("of_user", "manager", "child"),
    [
        (False, "_PID=1 UNIT=gw.service INVOCATION_ID=i", "_UID=0 UNIT=gw.service INVOCATION_ID=i"),
        (True, f"_UID={os.getuid()} USER_UNIT=gw.service USER_INVOCATION_ID=i", None),
    ],
)
def test_only_the_manager_is_believed(played: Path, ask: Ask, of_user: bool, manager: str, child: str | None) -> None:
    """Any process may write UNIT=, so each half of the match has a field that journald adds."""
    ask(JournalTailQuery("gw.service", 1.0, of_user=of_user, of_manager=True, invocation="i"))
    levels = " ".join(f"PRIORITY={level}" for level in range(5))
    spawned = "MESSAGE_ID=641257651c1b4ec9a8624d7a40a9e1e7"
    assert (played / "call").read_text().endswith(f" {manager} {levels} + {child or manager} {spawned}")
