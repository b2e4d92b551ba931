"""Questions that may take a while, answered beside: probes and looks at files in threads, commands in children.

Each is asked once and keeps its answer. None outlives its time-out, nor this program's orderly end.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import select
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, Protocol

from runbook.errors import HostError
from runbook.host.journal import previous_exit, starts, tail
from runbook.host.journal.search import JournalSearches
from runbook.host.kernel.accounts import command_environment
from runbook.host.loop import Loop
from runbook.host.queries import (
    Answer,
    Command,
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
from runbook.host.runners import files, netns
from runbook.host.runners.subreaper import Subreaper
from runbook.model import Port
from runbook.util.wording import describe_error

MAX_OUTPUT = 64 * 1024
"""Bytes that are kept of what a command prints or a page holds."""

PIPE_READS = 16
"""Reads of KEPT bytes that empty any pipe: it holds 1 MiB at most (fs.pipe-max-size)."""

CLOSE_WAIT = 0.5
"""Seconds that the end of the program waits for what it has just killed."""

MAX_ANSWERS = 256
"""How many questions keep their answers; a probe that is asked again and again is a new one each time."""


class _Work(Protocol):
    """Work of a thread's that can be ended early by another."""

    def run(self) -> tuple[bool, str, str]:
        """Do it: whether it is good, how it stands in words, and what was printed."""

    def abort(self) -> None:
        """End it. May be called at any moment."""


class _Connection(_Work, Protocol):
    """Such work that goes over a connection."""

    reached_port: Port | None
    """The port of this machine that it led to."""


@dataclass
class _PendingQuery:
    """One question on its way. `abort` ends the work on it early, and may be called at any moment.

    `reached` tells which port of this machine a connection led to.
    """

    until: float
    answer: Answer | None = None
    abort: Callable[[], None] = lambda: None
    find_reached_port: Callable[[], Port | None] = lambda: None
    thread: threading.Thread | None = None

    @property
    def left(self) -> float:
        return max(0.01, self.until - time.monotonic())


class QueryRunner:
    """Asks, and keeps the answers; each answer wakes the loop. `own`: the units are those of the user who asks."""

    def __init__(self, loop: Loop, manager_environment: Callable[[], Mapping[str, str]], *, own: bool = False) -> None:
        self._loop = loop
        self._manager_environment = manager_environment
        self._journal = JournalSearches(of_user=own)
        self._pending: dict[Query, _PendingQuery] = {}
        self._subreaper = Subreaper()
        # Readable from the moment of closing on, for every child that is still waited for.
        self._closing = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def close(self) -> None:
        """Stop everything that is still under way. Children are killed, with all that they started, and reaped."""
        if self._closing < 0:
            return
        os.eventfd_write(self._closing, 1)
        until = time.monotonic() + CLOSE_WAIT
        for asked in self._pending.values():
            asked.abort()
        threads = [asked.thread for asked in self._pending.values() if asked.thread is not None]
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        if not any(thread.is_alive() for thread in threads):
            os.close(self._closing)
            self._closing = -1
        self._pending.clear()

    def query(self, question: Query) -> Answer | None:
        """Give the answer, or None as long as it is on its way."""
        if question not in self._pending:
            self._start(question)
        return self._pending[question].answer

    def _start(self, question: Query) -> None:
        done = [known for known, asked in self._pending.items() if asked.answer is not None]
        for known in done[: max(0, len(done) - MAX_ANSWERS)]:
            del self._pending[known]
        asked = self._pending[question] = _PendingQuery(time.monotonic() + question.timeout)
        try:
            work = self._work(question.what, asked)
        except HostError as error:
            asked.answer = Answer(False, error.message)
            return

        def answer() -> None:
            started = time.monotonic()
            try:
                if question.netns_process is not None:
                    netns.enter_netns(question.netns_process)
                good, detail, output = work()
            except Exception as error:  # It would end the thread, and nobody would ever get an answer.
                good, detail, output = False, describe_error(error), ""
            # A late answer is none: the expiry has spoken already.
            took = time.monotonic() - started
            asked.answer = asked.answer or Answer(good, detail, output, took, asked.find_reached_port())
            self._loop.notify()

        def expire() -> None:
            late = Answer(False, f"no answer within {question.timeout:g}s", "", question.timeout)
            asked.answer = asked.answer or late
            asked.abort()
            self._loop.notify()

        # Past the time-outs of the work itself: it speaks only where that hangs, in a name server's silence,
        # or gets its answer drop by drop.
        self._loop.call_later(question.timeout + 0.1, expire)
        asked.thread = threading.Thread(target=answer, name=str(question.what), daemon=True)
        asked.thread.start()

    def _work(self, what: QueryKind, asked: _PendingQuery) -> Callable[[], tuple[bool, str, str]]:
        match what:
            case HttpProbe() | WebsocketProbe() | TcpProbe():
                connection = _connection(what, asked.until)
                asked.abort, asked.find_reached_port = connection.abort, lambda: connection.reached_port
                return connection.run
            case Command():
                surroundings = {**self._manager_environment(), **command_environment(what)}

                def run() -> tuple[bool, str, str]:
                    with self._subreaper.adopt_orphans():
                        return _run(what, asked, surroundings, self._closing)

                return run
        look = self._make_reader(what, asked.until)
        asked.abort = look.abort
        return look.run

    def _make_reader(
        self,
        what: JournalProbe | JournalTailQuery | StartTimesQuery | PreviousExitQuery | LatestChangeQuery,
        until: float,
    ) -> _Work:
        match what:
            case JournalProbe():
                return self._journal.new_search(what, until)
            case JournalTailQuery():
                return tail.JournalTail(what, until)
            case StartTimesQuery():
                return starts.StartTimesReader(what, until)
            case PreviousExitQuery():
                return previous_exit.PreviousExitReader(what, until)
            case LatestChangeQuery():
                return files.FileScan(what.paths, until)


def _connection(what: HttpProbe | WebsocketProbe | TcpProbe, until: float) -> _Connection:
    match what:
        case HttpProbe():
            # Only where it is needed: http.client takes 17 ms to load.
            from runbook.host.runners import http  # noqa: PLC0415

            return http.HttpRequest(what, until)
        case WebsocketProbe():
            from runbook.host.runners import websocket  # noqa: PLC0415

            return websocket.WebsocketConnection(what, until)
        case TcpProbe():
            return _TcpConnection(what, until)


@dataclass
class _TcpConnection:
    """A TCP connection to be made until a moment of CLOCK_MONOTONIC. It needs no cut: it ends at its time-out."""

    probe: TcpProbe
    until: float
    reached_port: Port | None = None

    def run(self) -> tuple[bool, str, str]:
        left = max(0.01, self.until - time.monotonic())
        try:
            with socket.create_connection((self.probe.host, self.probe.port), left) as connection:
                self.reached_port = netns.find_reached_port(connection)
                return True, "connected", ""
        except OSError as error:
            return False, describe_error(error), ""

    def abort(self) -> None:
        pass


def _run(
    command: Command, asked: _PendingQuery, surroundings: Mapping[str, str], closing: int
) -> tuple[bool, str, str]:
    """Run a command in a group of its own, which ends with it, at its time-out, or with this program."""
    try:
        # A thread is no place for code between fork and exec; all of this is done in C.
        child = subprocess.Popen(  # noqa: S603 - the operator's own words, as argv
            command.argv,
            cwd=command.cwd or "/",
            env=surroundings,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            start_new_session=True,
            **_user_arguments(command.user),
        )
    except OSError as error:
        return False, f"cannot run {command}: {describe_error(error)}", ""
    assert child.stdout is not None
    with child, child.stdout as pipe:
        ended, output = _follow(child.pid, pipe.fileno(), asked, closing)
        # Its PID is not free before it is reaped, so the group is still its own.
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child.pid, signal.SIGKILL)
        status = child.wait()
    text = output.decode(errors="replace")
    if not ended:
        return False, "did not end in time and was stopped", text
    if status < 0:
        return False, f"was killed by signal {-status}", text
    return status == 0, f"ended with status {status}", text


def _follow(pid: int, pipe: int, asked: _PendingQuery, closing: int) -> tuple[bool, bytes]:
    """Read a child's output until it ends; tell whether it did. Somebody else may keep the pipe open."""
    output = bytearray()
    os.set_blocking(pipe, False)
    child = os.pidfd_open(pid)
    try:
        poll = select.poll()
        for fd in (child, pipe, closing):
            poll.register(fd, select.POLLIN)
        while asked.until > time.monotonic():
            ready = dict(poll.poll(asked.left * 1000))
            if child in ready:
                # What it wrote before it ended is in the pipe by now; what others go on writing is not waited for.
                for _ in range(PIPE_READS):
                    if not _read_once(pipe, output):
                        break
                return True, bytes(output)
            if pipe in ready and not _read_once(pipe, output):
                poll.unregister(pipe)
            if closing in ready:
                break
        return False, bytes(output)
    finally:
        os.close(child)


def _read_once(pipe: int, output: bytearray) -> bool:
    """Read once, and keep KEPT bytes in all; tell whether there was anything."""
    try:
        part = os.read(pipe, MAX_OUTPUT)
    except BlockingIOError:
        return False
    output += part[: MAX_OUTPUT - len(output)]
    return bool(part)


def _user_arguments(user: str) -> dict[str, Any]:
    """Give the arguments that let a child of root's be another user."""
    if not user or os.geteuid() != 0:
        return {}
    account = pwd.getpwnam(user)
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
