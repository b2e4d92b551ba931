"""Queries from their start to their answer: commands, TCP probes, files, time-outs, and the exit of the program."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from runbook.host.loop import Loop
from runbook.host.queries import Command, FileChange, HttpProbe, LatestChangeQuery, Query, QueryKind, TcpProbe
from runbook.host.runners.query_runner import MAX_OUTPUT, QueryRunner, _read_until_exit
from runbook.model import Deadline, Port, Wake
from tests.unit.host.conftest import PATIENCE, PROMPT, Ask, Handler
from tests.unit.host.runners.conftest import OK, Lifeline, replying, script

# Commands


def test_the_folder_and_environment_of_a_command(ask: Ask, tmp_path: Path) -> None:
    answer = ask(
        script("pwd; echo $LANG $X $HOME; cat; echo oops >&2", cwd=str(tmp_path), env={"X": "a b", "HOME": "/x"})
    )
    assert answer.ok
    assert answer.detail == "exited with status 0"
    assert answer.value == f"{tmp_path}\nC.UTF-8 a b /x\noops\n"


def test_a_command_does_not_get_this_program_s_environment(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVATE", "x")
    names = {line.partition("=")[0] for line in (ask(Command(("env",), cwd="/")).value or "").splitlines()}
    assert names == {"PATH", "LANG", "HOME", "USER", "LOGNAME", "SHELL"}


SHOW_ARGUMENTS = "tr '\\0' ' ' </proc/$$/cmdline; readlink /proc/$$/fd/3 || echo closed; exit 3 # hidden"


@pytest.mark.parametrize("user", ["", pytest.param("nobody", marks=pytest.mark.root)])
def test_a_script_is_not_in_the_arguments(ask: Ask, user: str) -> None:
    """`ps` shows the arguments of every process to every user."""
    answer = ask(script(SHOW_ARGUMENTS, user=user))
    assert answer.detail == "exited with status 3"
    assert answer.value == "/bin/sh -e /dev/fd/3 closed\n"


def test_a_script_of_any_length(ask: Ask) -> None:
    assert ask(script(f"# {'x' * 300_000}\necho done")).value == "done\n"


def test_the_messages_of_the_shell_have_the_lines_of_the_script(ask: Ask) -> None:
    printed = ask(script("true\nnosuchcommand\n")).value or ""
    assert re.search(r": (?:line )?2: ", printed)


@pytest.mark.root
def test_another_user(ask: Ask) -> None:
    answer = ask(script("id -un; id -Gn; echo $USER $HOME", user="nobody"))
    assert answer.value == "nobody\nnogroup\nnobody /nonexistent\n"


def test_a_user_that_does_not_exist(ask: Ask) -> None:
    answer = ask(script("true", user="nosuchuser"))
    assert not answer.ok
    assert answer.detail == "cannot run a command as nosuchuser: there is no such user"


@pytest.mark.parametrize(
    ("command", "detail"),
    [
        (script("exit 3"), "exited with status 3"),
        (script("kill -9 $$"), "was killed by signal 9"),
        (Command(("/nowhere/at/all",), cwd="/"), "cannot run /nowhere/at/all: no such file or directory"),
        (Command(("nowhere",), cwd="/"), "cannot run nowhere: no such file or directory"),
        (Command(("true",), cwd="/nowhere"), "cannot run true: no such file or directory"),
    ],
)
def test_a_command_that_fails(ask: Ask, command: Command, detail: str) -> None:
    answer = ask(command)
    assert not answer.ok
    assert answer.detail == detail


def test_at_its_time_out_a_command_ends_with_its_group(ask: Ask, lifeline: Lifeline) -> None:
    answer = ask(script(f"trap '' TERM; exec 3> {lifeline.path}; (trap '' TERM; sleep 60) & echo there; sleep 60"), 1)
    assert not answer.ok
    assert answer.detail == "did not exit in time and was stopped"
    assert answer.value == "there\n"
    assert ask.seconds < PROMPT
    assert lifeline.ended()


def test_what_a_command_leaves_in_its_group_ends_with_it(ask: Ask, lifeline: Lifeline) -> None:
    """The process that is left keeps the pipe open: the exit of the command counts, not the end of its output."""
    answer = ask(script(f"exec 3> {lifeline.path}; sleep 60 & echo done"))
    assert answer.ok
    assert answer.value == "done\n"
    assert ask.seconds < PROMPT
    assert lifeline.ended()


def test_endless_output_is_bounded_and_stopped(ask: Ask) -> None:
    answer = ask(Command(("yes",), cwd="/"), 0.3)
    assert not answer.ok
    assert len(answer.value or "") == MAX_OUTPUT
    assert ask.seconds < PROMPT


def test_a_burst_of_output_at_the_end_is_read_whole(ask: Ask) -> None:
    answer = ask(script("head -c 60000 /dev/zero | tr '\\0' x"))
    assert answer.value == "x" * 60000


def test_what_is_in_the_pipe_when_the_command_has_ended_is_read() -> None:
    with subprocess.Popen(["echo", "late"], stdout=subprocess.PIPE) as child:
        assert child.stdout is not None
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        never = os.eventfd(0)
        until = time.monotonic() + PATIENCE
        assert _read_until_exit(child.pid, child.stdout.fileno(), until, never) == (True, b"late\n")
        os.close(never)


def test_a_command_cannot_read_this_program_s_input(ask: Ask) -> None:
    reader, writer = os.pipe()
    os.write(writer, b"typed")
    before = os.dup(0)
    os.dup2(reader, 0)
    try:
        assert ask(Command(("cat",), cwd="/")).value == ""
    finally:
        os.dup2(before, 0)
        for fd in (reader, writer, before):
            os.close(fd)


def test_output_that_is_not_utf_8(ask: Ask) -> None:
    assert ask(script("printf 'a\\377b'")).value == "a\N{REPLACEMENT CHARACTER}b"


def test_a_query_runs_once(queries: QueryRunner, ask: Ask, loop: Loop, tmp_path: Path) -> None:
    count = tmp_path / "count"
    query = Query(script(f"echo once >> {count}"), 1, PATIENCE)
    while queries.query(query) is None:
        loop.wait(Wake(pending=True, within=PATIENCE), Deadline.after(loop.clock, PATIENCE))
    again = Query(script(f"echo once >> {count}"), 1, PATIENCE)
    assert queries.query(again) is queries.query(query)
    assert count.read_text() == "once\n"
    ask(query.kind)  # the same kind with another id
    assert count.read_text() == "once\nonce\n"


def test_the_exit_of_the_program_ends_all_queries(loop: Loop, queries: QueryRunner, lifeline: Lifeline) -> None:
    query = Query(script(f"exec 3> {lifeline.path}; trap '' TERM; sleep 60"), 1, 60)
    assert queries.query(query) is None
    began = time.monotonic()
    while not lifeline.held():
        assert time.monotonic() - began < PATIENCE
    began = time.monotonic()
    queries.close()
    assert time.monotonic() - began < PROMPT
    assert lifeline.ended()


# Probes


def test_tcp(ask: Ask, server: Callable[[Handler], str]) -> None:
    port = int(server(lambda _: None).rpartition(":")[2])
    assert ask(TcpProbe("127.0.0.1", port)).ok


@pytest.mark.parametrize("name", ["127.0.0.1", "localhost", "127.1", "[::ffff:127.0.0.1]"])
@pytest.mark.parametrize("kind", ["tcp", "http"])
def test_which_port_of_this_machine_answered(ask: Ask, server: Callable[[Handler], str], name: str, kind: str) -> None:
    url = server(replying(OK))
    number = int(url.rpartition(":")[2].strip("/"))
    probe = TcpProbe(name.strip("[]"), number) if kind == "tcp" else HttpProbe(f"http://{name}:{number}/")
    assert ask(probe).reached_port == Port(number, address="127.0.0.1")


def test_tcp_without_a_listener(ask: Ask) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, so that no other process listens there; never listening
        answer = ask(TcpProbe("127.0.0.1", held.getsockname()[1]))
    assert (answer.ok, answer.detail) == (False, "connection refused")


def test_the_latest_change_of_files(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    answer = ask(LatestChangeQuery((str(tmp_path / "*"),)))
    assert answer.value == FileChange(f"{tmp_path}/a", (tmp_path / "a").stat().st_ctime_ns / 1e9, 1)
    missing = ask(LatestChangeQuery((str(tmp_path / "b"),)))
    assert (missing.ok, missing.detail) == (False, f"there is no file {tmp_path}/b")


def test_a_kind_without_a_runner(queries: QueryRunner) -> None:
    with pytest.raises(TypeError, match="no runner"):
        queries.query(Query(QueryKind(), 1, PATIENCE))


def test_nothing_is_left(queries: QueryRunner, ask: Ask) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        ask(script("true"))
        ask(TcpProbe("127.0.0.1", 1))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
