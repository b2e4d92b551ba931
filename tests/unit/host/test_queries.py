"""Queries as values: what makes two of them equal, and how they read in a message."""

from __future__ import annotations

import pytest

from runbook.host.queries import (
    Command,
    CommandResult,
    HttpProbe,
    JournalProbe,
    JournalTailQuery,
    LatestChangeQuery,
    PreviousExitQuery,
    Query,
    QueryKind,
    StartTimesQuery,
    TcpProbe,
    WebsocketProbe,
)

SCRIPT = ("/bin/sh", "-e", "-c", "echo a; echo b")


def test_a_script_is_named_by_its_text() -> None:
    assert (Command(SCRIPT).script, str(Command(SCRIPT))) == ("echo a; echo b", "echo a; echo b")
    for argv in (SCRIPT[:3], (*SCRIPT, "x"), ("/bin/sh", "-c", "-e", "x")):
        assert (Command(argv).script, str(Command(argv))) == (None, " ".join(argv))


def test_queries_are_equal_by_what_they_ask_and_by_id() -> None:
    query = Query(Command(("a",), env={"X": "1", "Y": "2"}), 1, 5.0)
    assert {query: "known"}[Query(Command(("a",), env={"Y": "2", "X": "1"}), 1, 5.0)] == "known"
    assert query != Query(Command(("a",), env={"X": "1", "Y": "2"}), 2, 5.0)
    assert query != Query(Command(("a",), env={"X": "1"}), 1, 5.0)


@pytest.mark.parametrize(
    ("result", "text"),
    [
        (CommandResult("success", 0), "exited with status 0"),
        (CommandResult("exit-code", 3), "exited with status 3"),
        (CommandResult("signal", 9), "was killed by signal 9"),
        (CommandResult("core-dump", 6), "was killed by signal 6"),
        (CommandResult("timeout", 15), "did not exit in time and was stopped"),
        (CommandResult("oom-kill", 9), "failed (oom-kill)"),
    ],
)
def test_the_result_of_a_command(result: CommandResult, text: str) -> None:
    assert result.describe() == text
    assert result.succeeded is (result.result == "success")


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (TcpProbe("::1", 80), "tcp ::1:80"),
        (HttpProbe("http://a/"), "http http://a/"),
        (WebsocketProbe("ws://a/"), "websocket ws://a/"),
        (JournalProbe("ready", "gw.service", "i"), "journal ready"),
        (LatestChangeQuery(("/a", "/b")), "latest change of /a, /b"),
        (JournalTailQuery("gw.service", 0.0), "journal tail of gw.service"),
        (JournalTailQuery("", 0.0, pids=(6, 7)), "journal tail of PID 6, 7"),
        (StartTimesQuery("gw.service", 0.0), "starts of gw.service"),
        (PreviousExitQuery("gw.service", "i"), "exit before i of gw.service"),
    ],
)
def test_how_a_query_reads(kind: QueryKind[object], text: str) -> None:
    assert str(kind) == text
