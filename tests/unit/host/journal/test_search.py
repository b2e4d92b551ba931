"""A search in the journal. A script with some of its options stands in for journalctl, and records each call."""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from runbook.host.journal import reader, search
from runbook.host.loop import Loop
from runbook.host.queries import Answer, Command, JournalProbe, Query
from runbook.host.runners.query_runner import QueryRunner
from runbook.model import Deadline, Wake
from tests.unit.host.conftest import PATIENCE, PROMPT, Ask

STAND_IN = """
import json, pathlib, sys, time
here = pathlib.Path(__file__).parent
with open(here / "calls", "a") as calls:
    print(*sys.argv[1:], file=calls)
after = [a.partition("=")[2] for a in sys.argv if a.startswith("--after-cursor=")]
matches = dict(a.split("=", 1) for a in sys.argv[1:] if not a.startswith("-"))
passing = bool(after)
time.sleep(0.6 if (here / "slow").exists() else 0)
with open(here / "entries", "rb") as entries:
    for line in entries:
        if line == b"hang\\n":
            sys.stdout.flush()
            time.sleep(60)
        entry = json.loads(line)
        if not passing and all(entry.get(name) == value for name, value in matches.items()):
            sys.stdout.buffer.write(line)
        passing = passing and entry["__CURSOR"] != after[0]
sys.exit(int((here / "status").read_text()))
"""

NOW, EARLIER = "a" * 32, "e" * 32


class Played:
    """The journal, as the stand-in reads it."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        program = folder / "journalctl"
        # Not the virtual environment's: a `#!` line ends at a space, which the path of a checkout may have.
        program.write_text(f"#!{Path(sys.executable).resolve()}\n{STAND_IN}")
        program.chmod(0o755)
        (folder / "entries").touch()
        (folder / "status").write_text("0")
        self._count = 0

    def says(self, message: Any, *, invocation: str = NOW, pid: int = 100, stream: str = "", **fields: str) -> None:
        self._count += 1
        entry = {"__CURSOR": f"c{self._count}", reader.INVOCATION: invocation, "_PID": str(pid), "MESSAGE": message}
        entry |= {"_SYSTEMD_UNIT": "gw.service", **fields}
        with (self.folder / "entries").open("a") as entries:
            entries.write(json.dumps(entry | ({"_STREAM_ID": stream} if stream else {})) + "\n")

    def hangs(self) -> None:
        with (self.folder / "entries").open("a") as entries:
            entries.write("hang\n")

    @property
    def calls(self) -> list[str]:
        calls = self.folder / "calls"
        return calls.read_text().splitlines() if calls.exists() else []


@pytest.fixture
def played(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Played:
    folder = tmp_path / "var" / "machine"
    folder.mkdir(parents=True)
    (folder / "system.journal").touch()
    monkeypatch.setattr(reader, "PATH", str(tmp_path))
    monkeypatch.setattr(reader, "FOLDERS", (tmp_path / "var",))
    return Played(tmp_path)


def probe(pattern: str = "ready", **options: Any) -> JournalProbe:
    return JournalProbe(pattern, **{"unit": "gw.service", "invocation": NOW, **options})


def test_it_searches_one_invocation(ask: Ask, played: Played) -> None:
    played.says("ready", invocation=EARLIER)
    answer = ask(probe())
    assert (answer.ok, answer.detail) == (False, "there is no entry of this invocation yet")
    played.says("starting")
    assert ask(probe()).detail == "`ready` is not in this invocation's 1 entry yet"
    played.says("more")
    assert ask(probe()).detail == "`ready` is not in this invocation's 2 entries yet"
    played.says("ready")
    assert (ask(probe()).ok, ask(probe()).detail) == (True, "`ready` is there")
    assert played.calls[0].endswith(f" _SYSTEMD_INVOCATION_ID={NOW} _SYSTEMD_UNIT=gw.service")


def test_an_entry_of_another_unit_does_not_count(ask: Ask, played: Played) -> None:
    """Any user's own manager may claim the invocation of a system service, for a unit of the same name, too."""
    played.says("ready", _SYSTEMD_UNIT="user@1000.service", _SYSTEMD_USER_UNIT="gw.service", _UID="1000")
    played.says("starting")
    assert ask(probe()).detail == "`ready` is not in this invocation's 1 entry yet"


def test_it_continues_where_it_ended(ask: Ask, played: Played) -> None:
    for number in range(1000):
        played.says(f"line {number}")
    ask(probe())
    played.says("later")
    assert ask(probe()).detail == "`ready` is not in this invocation's 1001 entries yet"
    assert "--after-cursor=c1000 " in played.calls[1]
    # Another pattern is another search.
    assert ask(probe("line 7")).ok


def test_what_was_found_stays_found(ask: Ask, played: Played) -> None:
    """This holds for the invocation even if journald has removed the entry. journalctl is not started again."""
    played.says("ready")
    assert ask(probe()).ok
    (played.folder / "entries").write_text("")
    assert ask(probe()).ok
    assert len(played.calls) == 1
    assert not ask(probe(invocation="b" * 32)).ok


@pytest.mark.parametrize(
    ("message", "pattern", "good"),
    [
        ("ready", "^ready$", True),
        ("one\nready\ntwo", "^ready$", True),
        ([114, 1, 255, 101], "r\\x01.e", True),
        (["other", "ready"], "^ready$", True),
        (["other", [114, 101]], "^re$", True),
        (None, "", False),
        ("☃ ready", "☃", True),
        ("a" * 40 + "b", "(a+)+$", False),
        ("x" * 60000 + " ready", "x ready", True),
    ],
)
def test_kinds_of_messages(ask: Ask, played: Played, message: Any, pattern: str, good: bool) -> None:
    played.says(message)
    assert ask(probe(pattern)).ok == good


def test_a_pattern_does_not_span_two_entries(ask: Ask, played: Played) -> None:
    played.says("one")
    played.says("two")
    assert not ask(probe(r"one\s+two")).ok
    assert ask(probe("^two$")).ok


def test_a_pattern_that_never_ends(ask: Ask, played: Played) -> None:
    played.says("a" * 40 + "b")
    assert ask(probe("(a+)+$")).detail == "cannot search for `(a+)+$`: it takes too long"


def test_an_entry_that_is_too_long_is_skipped(ask: Ask, played: Played) -> None:
    played.says("x" * 3_000_000)
    played.says("ready")
    assert ask(probe()).ok
    played.says("ready later")
    assert ask(probe("later$")).ok


def test_entries_of_leftovers_do_not_count(ask: Ask, played: Played) -> None:
    """journald files them under the current invocation. One is recognised by its PID, another by its stream."""
    played.says("old", invocation=EARLIER, stream="s1")
    played.says("ready", pid=74)
    assert not ask(probe(leftovers=(74,))).ok
    played.says("ready", pid=75, stream="s1")
    played.says("ready", pid=76, stream="s1")
    assert not ask(probe(leftovers=(74,))).ok
    assert len([call for call in played.calls if "_STREAM_ID=s1" in call]) == 1
    played.says("ready", stream="s1")
    assert not ask(probe(leftovers=(74,))).ok
    played.says("ready", stream="s2")
    assert ask(probe(leftovers=(74,))).ok


def test_a_long_journal_is_read_in_parts(ask: Ask, played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    """A query does not read again what an earlier one has searched."""
    monkeypatch.setattr(search, "BATCH", 100)
    for number in range(50):
        played.says(f"line {number}")
    played.hangs()
    answer = ask(probe(), 0.5)
    assert not answer.ok
    assert ask.seconds < PROMPT
    prefix = "`ready` is not in this invocation's first "
    assert answer.detail.startswith(prefix)
    assert answer.detail.endswith(" entries; there are more to read")
    assert int(answer.detail.removeprefix(prefix).split()[0]) >= 40
    ask(probe(), 0.5)
    assert "--after-cursor=c4" in played.calls[1]


def test_it_ends_at_the_first_match(ask: Ask, played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "BATCH", 1)
    played.says("ready")
    played.says("more")
    played.hangs()
    answer = ask(probe())
    assert answer.ok
    assert ask.seconds < PROMPT


def test_the_exit_of_the_program_ends_it(queries: QueryRunner, played: Played, monkeypatch: pytest.MonkeyPatch) -> None:
    played.hangs()
    assert queries.query(Query(probe(), 1, 60)) is None
    began = time.monotonic()
    while not played.calls:
        assert time.monotonic() - began < PATIENCE
    began = time.monotonic()
    monkeypatch.setattr("runbook.host.runners.query_runner.CLOSE_WAIT", PATIENCE)
    queries.close()
    assert time.monotonic() - began < PROMPT
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)


def test_a_command_that_exits_meanwhile_does_not_end_it(
    loop: Loop, queries: QueryRunner, ask: Ask, played: Played
) -> None:
    """What a command leaves behind is killed with it; journalctl is not a child of the command."""
    (played.folder / "slow").touch()
    played.says("ready")
    seen: list[Answer[None] | None] = []

    def reading() -> None:
        seen.append(queries.query(Query(probe(), 1, PATIENCE)))

    loop.call_later(0.1, reading)
    assert ask(Command(("/bin/sh", "-c", "sleep 0.3; setsid sleep 60 &"), cwd="/")).ok
    assert seen == [None]
    while (answer := queries.query(Query(probe(), 1, PATIENCE))) is None:
        loop.wait(Wake(pending=True, within=PATIENCE), Deadline.after(loop.clock, PATIENCE))
    assert (answer.ok, answer.detail) == (True, "`ready` is there")


def test_journalctl_fails(ask: Ask, played: Played) -> None:
    (played.folder / "status").write_text("3")
    assert ask(probe()).detail == "journalctl exited with status 3"


def test_no_journalctl(ask: Ask, played: Played) -> None:
    (played.folder / "journalctl").unlink()
    assert ask(probe()).detail == "there is no journalctl on this machine"


@pytest.mark.parametrize(("own", "hint"), [(True, False), (False, True)])
def test_whose_journal_may_be_read(played: Played, monkeypatch: pytest.MonkeyPatch, own: bool, hint: bool) -> None:
    """The entries of a user's own processes have a file of their own; those of the system's services do not."""
    mine = played.folder / "var" / "machine" / f"user-{os.getuid()}.journal"
    mine.touch()
    monkeypatch.setattr(os, "access", lambda file, mode: file == mine or not str(file).endswith(".journal"))
    answer = search.JournalSearch(search.JournalSearches(of_user=own), probe(), time.monotonic() + PATIENCE).run()
    assert not answer.ok
    assert ("this user may not read all of it" in answer.detail) == hint


def test_no_journal(ask: Ask, played: Played) -> None:
    (played.folder / "var" / "machine" / "system.journal").unlink()
    assert ask(probe()).detail == (
        "there is no entry of this invocation: there is no journal on this machine (Storage= in journald.conf)"
    )


@pytest.mark.parametrize("apart", [False, True])
def test_journals_of_their_own(ask: Ask, played: Played, apart: bool) -> None:
    """A unit with LogNamespace= has its own journal. An older journalctl has no option for that."""
    if apart:
        (played.folder / "var" / "machine.web").mkdir()
    ask(probe())
    assert ("--namespace=*" in played.calls[0]) == apart


def test_nothing_is_left(ask: Ask, played: Played, queries: QueryRunner) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        ask(probe())
    assert len(list(Path("/proc/self/fd").iterdir())) == before


def test_journald_is_stopped_if_its_cgroup_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(search, "find_cgroup_mount", lambda: tmp_path)
    assert search.describe_stopped() == "", "without system.slice there is no systemd to run it"
    cgroup = tmp_path / search.JOURNALD_CGROUP
    cgroup.parent.mkdir()
    assert search.describe_stopped() == "systemd-journald does not run"
    cgroup.mkdir()
    assert search.describe_stopped() == ""
