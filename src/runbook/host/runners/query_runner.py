"""Runs queries in the background: probes and reads in threads, commands as children.

Each query runs once and keeps its answer. None runs past its time-out, nor past an orderly exit of this program.

                    ┌─ work ends, in a thread ──► its answer, or the message of what it raised ─┐
    query() ── start┤                                                                           ├─ the first one counts
                    └─ time-out, in the loop ───► "no answer within 5s"; the work is aborted ───┘
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
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol, TypeVar

from runbook.errors import HostError
from runbook.host import queries
from runbook.host.journal import previous_exit, starts, tail
from runbook.host.kernel.accounts import account_environment
from runbook.host.loop import Loop
from runbook.host.queries import Answer, Command, Query, QueryKind, TcpProbe
from runbook.host.runners import file_text, files, netns, other_managers
from runbook.host.runners.subreaper import Subreaper
from runbook.util.wording import describe_error

if TYPE_CHECKING:
    from runbook.host.journal.search import JournalSearches

T = TypeVar("T")

MAX_OUTPUT = 64 * 1024  # bytes of a command's output that are kept
MAX_GREETING = 512  # bytes of what a server sends first
PIPE_READS = 16  # reads of MAX_OUTPUT bytes that empty any pipe: it holds at most 1 MiB (fs.pipe-max-size)
CLOSE_WAIT = 0.5  # seconds that the exit of the program waits for the children that it has just killed
EXPIRY_DELAY = 0.5  # seconds by which the loop's time-out is later than the work's own, whose message is better
MAX_ANSWERS = 256  # how many queries keep their answers. Each round of a probe is a new query


class _Work(Protocol):
    """What a thread does for a query."""

    def run(self) -> Answer[Any]:
        """Do it, and return the answer. The message of an exception becomes a bad answer."""

    def abort(self) -> None:
        """End it, from another thread. May be called at any moment."""


@dataclass
class _PendingQuery:
    answer: Answer[Any] | None = None
    work: _Work | None = None
    thread: threading.Thread | None = None


class QueryRunner:
    """Runs queries and keeps the answers; each answer wakes the loop. `own`: units belong to the caller's manager."""

    def __init__(self, loop: Loop, manager_environment: Callable[[], Mapping[str, str]], *, own: bool = False) -> None:
        self._loop = loop
        self._manager_environment = manager_environment
        self._of_user = own
        self._journal_searches: JournalSearches | None = None
        self._pending: dict[Query[Any], _PendingQuery] = {}
        self._subreaper = Subreaper()
        # Readable from close() on: it ends the wait for every child at once.
        self._closing = os.eventfd(0, os.EFD_CLOEXEC | os.EFD_NONBLOCK)

    def close(self) -> None:
        """End all queries. Children are killed, with all that they started, and reaped."""
        if self._closing < 0:
            return
        os.eventfd_write(self._closing, 1)
        until = time.monotonic() + CLOSE_WAIT
        for pending in self._pending.values():
            if pending.work is not None:
                pending.work.abort()
        threads = [pending.thread for pending in self._pending.values() if pending.thread is not None]
        for thread in threads:
            thread.join(max(0.0, until - time.monotonic()))
        # A thread that still runs would poll a closed descriptor, or another file with the same number.
        if not any(thread.is_alive() for thread in threads):
            os.close(self._closing)
            self._closing = -1
        self._pending.clear()

    def query(self, query: Query[T]) -> Answer[T] | None:
        """Return the answer, or None while the query runs."""
        if query not in self._pending:
            self._start(query)
        return self._pending[query].answer

    def _start(self, query: Query[Any]) -> None:
        answered = [known for known, pending in self._pending.items() if pending.answer is not None]
        for known in answered[: max(0, len(answered) - MAX_ANSWERS)]:
            del self._pending[known]
        pending = self._pending[query] = _PendingQuery()
        try:
            work = pending.work = self._make_work(query.kind, time.monotonic() + query.timeout)
        except HostError as error:
            pending.answer = Answer(False, error.message)
            return

        def run() -> None:
            try:
                if query.netns_process is not None:
                    netns.enter_netns(query.netns_process)
                answer = work.run()
            except Exception as error:  # It would end the thread, and the query would never be answered.
                answer = Answer(False, describe_error(error))
            pending.answer = pending.answer or answer
            self._loop.notify()

        def expire() -> None:
            pending.answer = pending.answer or Answer(False, f"no answer within {query.timeout:g}s")
            work.abort()
            self._loop.notify()

        # For work that exceeds its own time-out: a name server that is silent, an answer that arrives byte by byte.
        self._loop.call_later(query.timeout + EXPIRY_DELAY, expire)
        pending.thread = threading.Thread(target=run, name=type(query.kind).__name__, daemon=True)
        pending.thread.start()

    def _make_work(self, kind: QueryKind[Any], until: float) -> _Work:
        """Return the work that answers a kind of query. Raises HostError if it cannot begin."""
        match kind:
            case queries.HttpProbe():
                # Imported only if needed: http.client takes 17 ms to load, a search 2 ms.
                from runbook.host.runners import http  # noqa: PLC0415

                return http.HttpRequest(kind, until)
            case queries.WebsocketProbe():
                from runbook.host.runners import websocket  # noqa: PLC0415

                return websocket.WebsocketConnection(kind, until)
            case TcpProbe():
                return _TcpConnection(kind, until)
            case Command():
                environment = {**self._manager_environment(), **account_environment(kind.user), **kind.env}
                return _ChildCommand(kind, until, environment, self._closing, self._subreaper)
            case queries.JournalProbe():
                from runbook.host.journal import search  # noqa: PLC0415

                self._journal_searches = self._journal_searches or search.JournalSearches(of_user=self._of_user)
                return search.JournalSearch(self._journal_searches, kind, until)
            case queries.JournalTailQuery():
                return tail.JournalTail(kind, until)
            case queries.StartTimesQuery():
                return starts.StartTimesReader(kind, until)
            case queries.PreviousExitQuery():
                return previous_exit.PreviousExitReader(kind, until)
            case queries.LatestChangeQuery():
                return files.FileScan(kind.paths, until)
            case queries.OtherManagersQuery():
                return other_managers.OtherManagerSearch(kind)
            case queries.FileTextsQuery():
                return file_text.FileTextReader(kind.paths)
        raise TypeError(f"no runner for {kind!r}")


@dataclass
class _TcpConnection:
    """A TCP connection that is established until a moment of CLOCK_MONOTONIC."""

    probe: TcpProbe
    until: float

    def run(self) -> Answer[str]:
        try:
            timeout, greeting = _seconds_left(self.until), b""
            with socket.create_connection((self.probe.host, self.probe.port), timeout) as connection:
                if self.probe.greeting_wait:
                    connection.settimeout(self.probe.greeting_wait)
                    with contextlib.suppress(OSError):
                        greeting = connection.recv(MAX_GREETING)
                reached = netns.find_reached_port(connection)
                return Answer(True, "connected", greeting.decode(errors="replace"), reached_port=reached)
        except OSError as error:
            return Answer(False, describe_error(error))

    def abort(self) -> None:
        pass  # connect(2) ends at its own time-out.


@dataclass
class _ChildCommand:
    """A command in a process group of its own, which is killed when it exits, at its time-out, or with this program."""

    command: Command
    until: float
    environment: Mapping[str, str]
    closing: int  # A descriptor that becomes readable when this program exits
    subreaper: Subreaper

    def abort(self) -> None:
        pass  # `until` and `closing` end it.

    def run(self) -> Answer[str]:
        with self.subreaper.adopt_orphans():
            return self._run()

    def _run(self) -> Answer[str]:
        try:
            script, user = self.command.script, _user_arguments(self.command.user)
            with _open_script(script, user.get("user")) as stdin:
                # No preexec_fn: Python code between fork and exec may deadlock if there are threads.
                child = subprocess.Popen(  # noqa: S603 - the operator's own words, as argv
                    self.command.argv if script is None else _SCRIPT_ARGV,
                    cwd=self.command.cwd or "/",
                    env=self.environment,
                    stdin=stdin,
                    stdout=subprocess.PIPE,
                    stderr=subprocess.STDOUT,
                    start_new_session=True,
                    **user,
                )
        except OSError as error:
            return Answer(False, f"cannot run {self.command}: {describe_error(error)}")
        assert child.stdout is not None
        with child, child.stdout as pipe:
            exited, output = _read_until_exit(child.pid, pipe.fileno(), self.until, self.closing)
            # Until the child is reaped, its PID, and so its group, is not used again.
            with contextlib.suppress(ProcessLookupError):
                os.killpg(child.pid, signal.SIGKILL)
            status = child.wait()
        detail = f"exited with status {status}" if status >= 0 else f"was killed by signal {-status}"
        detail = detail if exited else "did not exit in time and was stopped"
        text, wrong = output.decode(errors="replace"), exited and status > 0
        return Answer(exited and status == 0, detail, text, is_wrong=wrong)


# `ps` shows every user the arguments of a process, and a script may contain a secret. So the script is an open file,
# which the shell reads as /dev/fd/3; its first words close that descriptor.
_SCRIPT_ARGV = ("/bin/sh", "-c", "exec /bin/sh -e /dev/fd/3 3<&0 </dev/null")
_MFD_NOEXEC_SEAL = 8  # the file can never be executed: sysctl vm.memfd_noexec=2 demands it. Linux 6.3


@contextlib.contextmanager
def _open_script(script: str | None, owner: int | None) -> Iterator[int]:
    """Open a script that only its owner can read, in memory; without a script, /dev/null."""
    if script is None:
        yield subprocess.DEVNULL
        return
    try:
        fd = os.memfd_create("script", os.MFD_CLOEXEC | _MFD_NOEXEC_SEAL)
    except OSError:
        fd = os.memfd_create("script", os.MFD_CLOEXEC)
    with os.fdopen(fd, "wb") as file:
        # On the script's first line: the shell's messages contain line numbers.
        file.write(f"exec 3<&-; {script}\n".encode(errors="surrogateescape"))
        file.flush()
        os.fchmod(fd, 0o400)
        if owner is not None:
            os.fchown(fd, owner, -1)
        yield fd


def _read_until_exit(pid: int, pipe: int, until: float, closing: int) -> tuple[bool, bytes]:
    """Read a child's output until it exits; return whether it did. Other processes may keep the pipe open."""
    output = bytearray()
    os.set_blocking(pipe, False)
    child = os.pidfd_open(pid)
    try:
        poll = select.poll()
        for fd in (child, pipe, closing):
            poll.register(fd, select.POLLIN)
        while until > time.monotonic():
            ready = dict(poll.poll(_seconds_left(until) * 1000))
            if child in ready:
                # All that it wrote is in the pipe. What its children write from now on is not waited for.
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
    """Read once, and keep MAX_OUTPUT bytes in all; return whether there was anything to read."""
    try:
        part = os.read(pipe, MAX_OUTPUT)
    except BlockingIOError:
        return False
    output += part[: MAX_OUTPUT - len(output)]
    return bool(part)


def _seconds_left(until: float) -> float:
    """Return the seconds until a moment of CLOCK_MONOTONIC, and more than 0: sockets take 0 for "do not block"."""
    return max(0.01, until - time.monotonic())


def _user_arguments(user: str) -> dict[str, Any]:
    """Return the arguments of Popen that let root start a child as another user."""
    if not user or os.geteuid() != 0:
        return {}
    account = pwd.getpwnam(user)
    groups = os.getgrouplist(account.pw_name, account.pw_gid)
    return {"user": account.pw_uid, "group": account.pw_gid, "extra_groups": groups}
