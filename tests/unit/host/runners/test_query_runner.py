"""Probes against real servers that misbehave, commands that do."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runbook.host.loop import Loop
from runbook.host.queries import Command, FileChange, HttpProbe, LatestChangeQuery, Query, TcpProbe
from runbook.host.runners.query_runner import MAX_OUTPUT, QueryRunner, _read_until_exit
from runbook.host.runners.subreaper import _children
from runbook.model import Deadline, Port, Wake
from tests.unit.host.conftest import PATIENCE, PROMPT, Ask, Handler


def script(text: str, **options: object) -> Command:
    return Command(("/bin/sh", "-e", "-c", text), **{"cwd": "/", **options})  # type: ignore[arg-type]


# Commands


def test_what_a_command_sees(ask: Ask, tmp_path: Path) -> None:
    answer = ask(script("pwd; echo $LANG $X; cat; echo oops >&2", cwd=str(tmp_path), env={"X": "a b"}))
    assert answer.ok
    assert answer.detail == "exited with status 0"
    assert answer.value == f"{tmp_path}\nC.UTF-8 a b\noops\n"


def test_it_sees_nothing_of_this_program(ask: Ask, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRIVATE", "x")
    names = {line.partition("=")[0] for line in (ask(Command(("env",), cwd="/")).value or "").splitlines()}
    assert names == {"PATH", "LANG", "HOME", "USER", "LOGNAME", "SHELL"}


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


class Lifeline:
    """A FIFO that processes hold open for writing, so that their end can be seen."""

    def __init__(self, path: Path) -> None:
        self.path = path
        os.mkfifo(path)
        self.reader = os.open(path, os.O_RDONLY | os.O_NONBLOCK)

    def held(self) -> bool:
        """Whether anybody holds it now."""
        try:
            return bool(os.read(self.reader, 1))
        except BlockingIOError:
            return True

    def ended(self) -> bool:
        """Wait until nobody holds it any more."""
        poll = select.poll()
        poll.register(self.reader, 0)
        return bool(poll.poll(1000 * PATIENCE))


@pytest.fixture
def lifeline(tmp_path: Path) -> Iterator[Lifeline]:
    made = Lifeline(tmp_path / "lifeline")
    yield made
    os.close(made.reader)


def test_at_its_time_out_a_command_ends_with_its_group(ask: Ask, lifeline: Lifeline) -> None:
    answer = ask(script(f"trap '' TERM; exec 3> {lifeline.path}; (trap '' TERM; sleep 60) & echo there; sleep 60"), 1)
    assert not answer.ok
    assert answer.detail == "did not exit in time and was stopped"
    assert answer.value == "there\n"
    assert ask.seconds < PROMPT
    assert lifeline.ended()


def test_what_a_command_leaves_in_its_group_ends_with_it(ask: Ask, lifeline: Lifeline) -> None:
    """It keeps the pipe open, too: the end of the command counts, not that of its output."""
    answer = ask(script(f"exec 3> {lifeline.path}; sleep 60 & echo done"))
    assert answer.ok
    assert answer.value == "done\n"
    assert ask.seconds < PROMPT
    assert lifeline.ended()


@pytest.mark.parametrize(
    "away",
    [
        "setsid sleep 60 &",
        "(setsid sh -c 'sleep 60 & sleep 60' &)",
        "setsid --fork env -i setsid --fork sleep 60",
        "set -m; (sleep 60 & sleep 60) &",
    ],
)
@pytest.mark.parametrize("end", ["exit 0", "sleep 60"])
def test_what_left_the_group_ends_too(ask: Ask, lifeline: Lifeline, away: str, end: str) -> None:
    answer = ask(script(f"exec 3> {lifeline.path}; {away}\nsleep 0.1; exec 3>&-; {end}"), 0.5)
    assert answer.ok == (end == "exit 0")
    assert lifeline.ended()
    began = time.monotonic()
    while _children():  # They are waited for, too.
        assert time.monotonic() - began < PATIENCE


def test_what_was_there_before_is_let_be(ask: Ask, lifeline: Lifeline) -> None:
    """A child that this program was started with, and one that comes while a command is asked; and theirs."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as before:
        with subprocess.Popen(["sh", "-c", "sleep 0.2; sleep 60 & echo $!"], stdout=subprocess.PIPE) as child:
            assert ask(script("sleep 0.5; setsid sleep 60 &")).ok
            assert child.stdout is not None
            pid = int(child.stdout.readline())
            os.kill(pid, signal.SIGTERM)  # It is still there.
        assert before.poll() is None
        before.kill()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def test_a_command_that_runs_beside_keeps_what_it_started(
    queries: QueryRunner, ask: Ask, loop: Loop, tmp_path: Path
) -> None:
    slow = Query(script("(setsid sh -c 'sleep 0.6; echo well' &); sleep 1"), 1, PATIENCE)
    assert queries.query(slow) is None
    assert ask(script("sleep 0.2")).ok
    while (answer := queries.query(slow)) is None:
        loop.wait(Wake(pending=True, within=PATIENCE), Deadline.after(loop.clock, PATIENCE))
    assert answer.value == "well\n"


def test_endless_output_is_bounded_and_stopped(ask: Ask) -> None:
    answer = ask(Command(("yes",), cwd="/"), 0.3)
    assert not answer.ok
    assert len(answer.value or "") == MAX_OUTPUT
    assert ask.seconds < PROMPT


def test_a_burst_at_the_end_is_taken_whole(ask: Ask) -> None:
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


def test_it_cannot_read_what_this_program_is_given(ask: Ask) -> None:
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


def test_output_that_is_no_text(ask: Ask) -> None:
    assert ask(script("printf 'a\\377b'")).value == "a\N{REPLACEMENT CHARACTER}b"


def test_a_question_is_asked_once(queries: QueryRunner, ask: Ask, loop: Loop, tmp_path: Path) -> None:
    count = tmp_path / "count"
    question = Query(script(f"echo once >> {count}"), 1, PATIENCE)
    while queries.query(question) is None:
        loop.wait(Wake(pending=True, within=PATIENCE), Deadline.after(loop.clock, PATIENCE))
    again = Query(script(f"echo once >> {count}"), 1, PATIENCE)
    assert queries.query(again) is queries.query(question)
    assert count.read_text() == "once\n"
    ask(question.kind)  # the same, asked at another time
    assert count.read_text() == "once\nonce\n"


def test_the_end_of_the_program_ends_what_is_asked(loop: Loop, queries: QueryRunner, lifeline: Lifeline) -> None:
    question = Query(script(f"exec 3> {lifeline.path}; trap '' TERM; sleep 60"), 1, 60)
    assert queries.query(question) is None
    began = time.monotonic()
    while not lifeline.held():
        assert time.monotonic() - began < PATIENCE
    began = time.monotonic()
    queries.close()
    assert time.monotonic() - began < PROMPT
    assert lifeline.ended()


# Probes


def replying(text: str) -> Handler:
    def reply(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(text.replace("\n", "\r\n").encode())

    return reply


OK = "HTTP/1.1 200 OK\nContent-Length: 5\n\nhello"


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


def test_tcp_with_nobody_there(ask: Ask) -> None:
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # bound, so that nobody else listens there; never listening
        answer = ask(TcpProbe("127.0.0.1", held.getsockname()[1]))
    assert (answer.ok, answer.detail) == (False, "connection refused")


def test_http(ask: Ask, server: Callable[[Handler], str]) -> None:
    answer = ask(HttpProbe(server(replying(OK))))
    assert (answer.ok, answer.detail, answer.value) == (True, "answered 200", "hello")


def test_http_asks_what_the_url_says(ask: Ask, server: Callable[[Handler], str]) -> None:
    asked: list[str] = []

    def reply(connection: socket.socket) -> None:
        asked.append(connection.recv(65536).decode())
        connection.sendall(OK.replace("\n", "\r\n").encode())

    ask(HttpProbe(f"{server(reply)}/a/b?c=d#e", headers=(("Authorization", "Bearer x"),)))
    assert asked[0].startswith("GET /a/b?c=d HTTP/1.1\r\n")
    assert "\r\nAuthorization: Bearer x\r\n" in asked[0]


@pytest.mark.parametrize(
    ("probe", "text", "good", "detail"),
    [
        ({"status": (200, 204)}, "HTTP/1.1 204 No\n\n", True, "answered 204"),
        ({}, "HTTP/1.1 503 Bad\nContent-Length: 0\n\n", False, "answered 503; expected 200"),
        ({}, "HTTP/1.1 302 F\nLocation: /in\n\n", False, "answered 302, to /in; expected 200"),
        ({"status": (302,)}, "HTTP/1.1 302 F\nLocation: /in\n\n", True, "answered 302"),
        ({"body": "h.llo"}, OK, True, "answered 200"),
        ({"body": "bye"}, OK, False, "answered 200, without `bye` in it"),
        ({"body": "(h.*)*x"}, OK, False, "answered 200, without `(h.*)*x` in it"),
        (
            {"body": "(a+)+$"},
            f"HTTP/1.1 200 OK\n\n{'a' * 40}b",
            False,
            "answered 200, but cannot search for `(a+)+$`: it takes too long",
        ),
        ({}, "SSH-2.0-OpenSSH_9.2\n", False, "SSH-2.0-OpenSSH_9.2\r\n"),
        ({}, "", False, "it closed the connection without an answer"),
    ],
)
def test_http_answers(
    ask: Ask, server: Callable[[Handler], str], probe: dict[str, object], text: str, good: bool, detail: str
) -> None:
    answer = ask(HttpProbe(server(replying(text)), **probe))  # type: ignore[arg-type]
    assert (answer.ok, answer.detail) == (good, detail)


def test_http_goes_through_no_proxy(
    ask: Ask, server: Callable[[Handler], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("http_proxy", "http://127.0.0.1:1")
    assert ask(HttpProbe(server(replying(OK)))).ok


def test_http_that_never_answers(ask: Ask, server: Callable[[Handler], str]) -> None:
    def hang(connection: socket.socket) -> None:
        while connection.recv(65536):
            pass

    answer = ask(HttpProbe(server(hang)), 0.2)
    assert (answer.ok, answer.detail) == (False, "no answer in time")
    assert ask.seconds < PROMPT


def test_http_that_answers_drop_by_drop(ask: Ask, server: Callable[[Handler], str]) -> None:
    """Each drop comes in time; the answer does not."""

    def drip(connection: socket.socket) -> None:
        connection.sendall(b"HTTP/1.1 200 OK\r\n")
        while True:
            connection.sendall(b"X: y\r\n")
            time.sleep(0.05)

    began = time.monotonic()
    answer = ask(HttpProbe(server(drip)), 0.3)
    assert (answer.ok, answer.detail) == (False, "no answer within 0.3s")
    assert time.monotonic() - began < PROMPT


def test_a_body_that_does_not_end(ask: Ask, server: Callable[[Handler], str]) -> None:
    """As of an event stream: it has answered, and goes on."""

    def stream(connection: socket.socket) -> None:
        connection.recv(65536)
        connection.sendall(b"HTTP/1.1 200 OK\r\n\r\nevent\n")
        while connection.recv(65536):
            pass

    answer = ask(HttpProbe(server(stream), body="event"), 0.2)
    assert (answer.ok, answer.value) == (True, "event\n")


def test_a_body_is_read_in_part(ask: Ask, server: Callable[[Handler], str]) -> None:
    answer = ask(HttpProbe(server(replying("HTTP/1.1 200 OK\n\n" + "x" * 100_000))))
    assert answer.ok
    assert len(answer.value or "") == MAX_OUTPUT


def test_no_url(ask: Ask) -> None:
    assert ask(HttpProbe("ftp://127.0.0.1/")).detail == "ftp://127.0.0.1/ is not an http or https URL"
    assert not ask(HttpProbe("http://127.0.0.1:notaport/")).ok


def test_a_pattern_that_is_none_does_not_leave_the_question_open(ask: Ask, server: Callable[[Handler], str]) -> None:
    assert not ask(HttpProbe(server(replying(OK)), body="(")).ok


def test_the_latest_change_of_files(ask: Ask, tmp_path: Path) -> None:
    (tmp_path / "a").touch()
    answer = ask(LatestChangeQuery((str(tmp_path / "*"),)))
    assert answer.value == FileChange(f"{tmp_path}/a", (tmp_path / "a").stat().st_ctime_ns / 1e9, 1)
    missing = ask(LatestChangeQuery((str(tmp_path / "b"),)))
    assert (missing.ok, missing.detail) == (False, f"there is no file {tmp_path}/b")


def test_nothing_is_left(queries: QueryRunner, ask: Ask) -> None:
    before = len(list(Path("/proc/self/fd").iterdir()))
    for _ in range(5):
        ask(script("true"))
        ask(TcpProbe("127.0.0.1", 1))
    assert len(list(Path("/proc/self/fd").iterdir())) == before
    with pytest.raises(ChildProcessError):
        os.waitid(os.P_ALL, 0, os.WEXITED | os.WNOHANG)
