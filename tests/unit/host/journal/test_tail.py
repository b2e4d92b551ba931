"""The end of the journal. journalctl is played by a script that notes how it is called."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from runbook.host.queries import Answer, JournalLine, JournalTailQuery
from tests.unit.host.conftest import Ask


@pytest.fixture(autouse=True)
def said(played: Path) -> None:
    # The newest comes first.
    (played / "entries").write_text('{"MESSAGE": [104, 105, 255]}\n{"MESSAGE": "one\\n\\ntwo"}\n')


def texts(answer: Answer[tuple[JournalLine, ...]]) -> list[str]:
    return [line.text for line in answer.value or ()]


def test_its_lines_are_the_answer(played: Path, ask: Ask) -> None:
    answer = ask(JournalTailQuery("gw.service", 12.5, lines=5))
    assert (answer.ok, texts(answer)) == (True, ["one", "two", "hi\N{REPLACEMENT CHARACTER}"])
    call = (played / "call").read_text()
    assert call.endswith("--since=@12.500000 --reverse --lines=5 _SYSTEMD_UNIT=gw.service")


@pytest.mark.parametrize(("uid", "calls"), [(0, ["--sync", "--quiet"]), (1000, ["--quiet"])])
def test_what_was_just_said_is_waited_for_by_whoever_may(
    played: Path, ask: Ask, monkeypatch: pytest.MonkeyPatch, uid: int, calls: list[str]
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)
    assert ask(JournalTailQuery("gw.service", 0)).ok
    assert (played / "calls").read_text().split() == calls


def test_no_more_lines_than_were_asked_for(played: Path, ask: Ask) -> None:
    assert texts(ask(JournalTailQuery("gw.service", 0, lines=2))) == ["two", "hi\N{REPLACEMENT CHARACTER}"]


def test_a_unit_of_the_users_own_is_his_managers(played: Path, ask: Ask) -> None:
    ask(JournalTailQuery("gw.service", 0, of_user=True))
    call = (played / "call").read_text()
    assert call.endswith(f"_SYSTEMD_USER_UNIT=gw.service _UID={os.getuid()}")


@pytest.mark.parametrize(
    ("of_user", "whose"), [(False, "_PID=1 UNIT=gw.socket"), (True, f"_UID={os.getuid()} USER_UNIT=gw.socket")]
)
def test_for_a_socket_its_manager_speaks(played: Path, ask: Ask, of_user: bool, whose: str) -> None:
    ask(JournalTailQuery("gw.socket", 0, of_user=of_user))
    assert (played / "call").read_text().endswith(f" {whose}")


def test_a_journal_that_cannot_be_read_is_no_answer(played: Path, ask: Ask) -> None:
    (played / "status").write_text("1")
    assert not ask(JournalTailQuery("gw.service", 0)).ok


def test_no_process_speaks_for_another(played: Path, ask: Ask) -> None:
    """What str.splitlines() takes for the end of a line is none: behind it there would be a line of PID 7's."""
    said = json.dumps({"_PID": "6", "MESSAGE": "well\x0b7: a\x1c7: b\x857: c\u20287: d\r7: e"})
    (played / "entries").write_text(f"{said}\n")
    answer = ask(JournalTailQuery("", 0, pids=(6, 7)))
    assert answer.value == (JournalLine(6, "well\x0b7: a\x1c7: b\x857: c\u20287: d\r7: e"),)
