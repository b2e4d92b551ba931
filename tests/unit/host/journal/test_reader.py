"""journalctl as a child: its time, its errors, and what an entry contains."""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import pytest

from runbook.errors import HostError
from runbook.host.journal import reader
from runbook.host.journal.reader import Journalctl, describe_unreadable, message_texts, parse_pid
from tests.unit.host.conftest import PATIENCE, PROMPT


def read(*arguments: str, timeout: float = PATIENCE) -> list[dict[str, Any]]:
    return list(Journalctl(time.monotonic() + timeout).entries(*arguments, fields=("MESSAGE",)))


def test_the_entries(played: Path) -> None:
    (played / "entries").write_text('{"MESSAGE": "a"}\n{"MESSAGE": "b"}\n')
    assert read("UNIT=gw.service") == [{"MESSAGE": "a"}, {"MESSAGE": "b"}]
    call = (played / "call").read_text()
    assert call == "--quiet --no-pager --all --output=json --output-fields=MESSAGE UNIT=gw.service"


def test_journals_of_namespaces_are_read_if_there_are_any(
    played: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reader, "FOLDERS", (tmp_path / "log",))
    (tmp_path / "log" / "0123.example").mkdir(parents=True)
    read()
    assert (played / "call").read_text().endswith(" --namespace=*")


def test_an_entry_that_is_too_long_is_skipped(played: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "MAX_ENTRY", 100)
    monkeypatch.setattr(reader, "READ_BYTES", 50)
    entries = (f'{{"MESSAGE": "{text}"}}\n' for text in ("a", "b" * 1000, "c"))
    (played / "entries").write_text("".join(entries))
    assert read() == [{"MESSAGE": "a"}, {"MESSAGE": "c"}]


def test_its_time_is_over(played: Path) -> None:
    (played / "journalctl").write_text("#!/bin/sh\nexec sleep 60\n")
    began = time.monotonic()
    assert read(timeout=0.2) == []
    assert time.monotonic() - began < PROMPT


def test_a_reader_that_was_aborted_before_it_began(played: Path) -> None:
    journalctl = Journalctl(time.monotonic() + PATIENCE)
    journalctl.abort()
    assert journalctl.is_over
    journalctl.sync()
    assert not (played / "call").exists()


@pytest.mark.parametrize(
    ("message", "texts"),
    [
        ("ready", ["ready"]),
        ([104, 105, 255], ["hi\N{REPLACEMENT CHARACTER}"]),
        (["one", [116, 119, 111]], ["one", "two"]),
        (None, []),
        ([], []),
    ],
)
def test_the_messages_of_an_entry(message: object, texts: list[str]) -> None:
    assert list(message_texts(message)) == texts


@pytest.mark.parametrize(("pid", "number"), [("74", 74), (None, 0), ("x", 0), (["74"], 0)])
def test_the_process_that_wrote_an_entry(pid: object, number: int) -> None:
    assert parse_pid({"_PID": pid}) == number


def test_what_the_caller_may_not_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reader, "FOLDERS", (tmp_path,))
    assert describe_unreadable(own=False).startswith("there is no journal on this machine")
    (tmp_path / "machine").mkdir()
    system, own = tmp_path / "machine" / "system.journal", tmp_path / "machine" / f"user-{os.getuid()}.journal"
    system.touch()
    own.touch()
    readable = {own}
    monkeypatch.setattr(os, "access", lambda file, mode: file in readable)
    assert describe_unreadable(own=True) == ""
    assert describe_unreadable(own=False).startswith("this user may not read all of it")
    readable.add(system)
    assert describe_unreadable(own=False) == ""


def test_an_error(played: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (played / "status").write_text("1")
    monkeypatch.setattr(reader, "describe_unreadable", lambda *, own: "")
    with pytest.raises(HostError, match=r"^journalctl exited with status 1$"):
        read()
