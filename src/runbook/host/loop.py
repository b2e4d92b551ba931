"""The only place where the program waits: a GLib main context for the bus, processes, sockets and signals.

Nothing is missed between a check and a wait. The topic of a bus signal that arrives outside of a wait is kept until its
unit is read or waited for. A change of sockets counts from the last read by a check, not from the beginning of the
wait.
"""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import threading
from collections.abc import Callable, Iterable, Iterator
from types import FrameType

from gi.repository import GLib

from runbook.errors import HostError, Interrupted
from runbook.host.kernel.look_limit import LOOK_TIMEOUT, LookLimit
from runbook.model import Clock, Deadline, Port, ProcessId, SystemClock, Wake

SOCKET_POLL = 0.01  # seconds between two reads of the sockets: listen(2) causes no event, and a read takes 0.1 ms
INTERRUPTED_SETTLE = 0.5  # seconds that the answer to a request which starts something may still take after SIGTERM
INTERRUPTED_LOOK = 0.3  # seconds after SIGTERM in which the machine may still be looked at, for the final message
UNREADABLE = frozenset({-1})  # stands for the sockets of a port that cannot be read
ANY_TOPIC = "*"  # the topic that wakes every wait


class Loop:
    """Waits in the default main context. Use it in the main thread; only `notify` may be called by other threads.

    `look` returns the inodes of the sockets that listen on a port. `pidfd` returns a descriptor that becomes readable
    when this very process exits, or None if it has exited.
    """

    def __init__(self, *, look: Callable[[Port], frozenset[int]], pidfd: Callable[[ProcessId], int | None]) -> None:
        self.clock: Clock = SystemClock()
        self._look = look
        self._pidfd = pidfd
        self._context = GLib.MainContext.default()
        self._news: set[str] = set()
        self._sockets: dict[Port, frozenset[int]] = {}
        self._exited: set[ProcessId] = set()
        self._signum = 0
        self._interrupted_at = 0.0
        self._raised = False
        self._undo = contextlib.ExitStack()
        if threading.current_thread() is threading.main_thread():
            self._catch_signals()

    def close(self) -> None:
        """Restore the earlier signal handlers."""
        self._undo.close()

    @property
    def interrupted(self) -> int:
        """The number of the SIGINT or SIGTERM that has arrived, else 0."""
        return self._signum

    def limit_look(self) -> LookLimit:
        """Return the limit of a look at the machine that begins now."""
        left = LOOK_TIMEOUT
        if self._raised:
            left = self._interrupted_at + INTERRUPTED_LOOK - self.clock.monotonic()
        return LookLimit(left, lambda: self._is_interrupt_pending)

    def notify(self, topics: Iterable[str] = (ANY_TOPIC,)) -> None:
        """Wake the wait for one of these topics, the present one or the next. Any thread may call it."""
        self._news.update(topics)
        self._context.wakeup()

    def call_later(self, seconds: float, call: Callable[[], object]) -> None:
        """Call a function once, after so many seconds, in whatever wait is under way then."""

        def once() -> bool:
            call()
            return False

        GLib.timeout_add(math.ceil(seconds * 1000), once)

    def discard(self, topics: Iterable[str]) -> None:
        """Drop topics whose units were just read."""
        self._news.difference_update(topics)

    def record_sockets(self, port: Port, sockets: frozenset[int]) -> None:
        """Remember the sockets that a check has read: `wait` returns when they change."""
        self._sockets[port] = sockets

    def wait(self, wake: Wake, deadline: Deadline) -> None:
        """Return when something of `wake` happened, or its `within` or the deadline is over.

        `notify` reports units, by the names under which they were read. Raises Interrupted.
        """
        self.raise_if_interrupted()
        wanted = {*wake.units, ANY_TOPIC}
        exited: set[ProcessId] = set()
        with contextlib.ExitStack() as watches:
            for process in wake.processes - self._exited:
                self._watch(process, exited, watches)
            for port in wake.ports - self._sockets.keys():
                self.record_sockets(port, self._read_sockets(port))
            if wake.ports:
                watches.enter_context(_timer(SOCKET_POLL))
            self.run_until(
                lambda: bool(exited) or not self._news.isdisjoint(wanted) or self._changed(wake.ports),
                min(wake.within, deadline.remaining),
            )
        self._news -= wanted
        # Reported once: a step that continues to name a process that is gone would never wait.
        self._exited |= exited

    def sleep(self, seconds: float) -> None:
        """Serve the main context for so many seconds. Raises Interrupted."""
        self.run_until(lambda: False, seconds)

    def run_until(self, done: Callable[[], bool], seconds: float, *, await_answer: bool = False) -> bool:
        """Serve the main context until `done` or until the time is over; return whether it is done.

        Raises Interrupted, once, if SIGINT or SIGTERM has arrived. With `await_answer`, it is raised only when `done`,
        or after INTERRUPTED_SETTLE: the caller must learn what was started, to be able to stop it.
        """
        # No check for a signal before: a request has been sent by now, and `await_answer` is there to get its answer.
        until = self.clock.monotonic() + seconds
        if self._serve(done, seconds):
            return True
        if self._is_interrupt_pending and await_answer:
            left = until - self.clock.monotonic()
            if self._serve(done, min(INTERRUPTED_SETTLE, left), ignore_interrupt=True):
                return True
        self.raise_if_interrupted()
        return False

    def raise_if_interrupted(self) -> None:
        """Raise Interrupted if SIGINT or SIGTERM has arrived and was not raised yet.

        Only once, so that the cleanup afterwards can use the same calls; all of them are bounded.
        """
        if self._is_interrupt_pending:
            self._raised = True
            raise Interrupted(self._signum)

    @property
    def _is_interrupt_pending(self) -> bool:
        return bool(self._signum) and not self._raised

    def _serve(self, done: Callable[[], bool], seconds: float, *, ignore_interrupt: bool = False) -> bool:
        until = self.clock.monotonic() + seconds
        with _timer(seconds):
            while not done():
                if (self._is_interrupt_pending and not ignore_interrupt) or self.clock.monotonic() >= until:
                    return False
                self._context.iteration(True)
        return True

    def _changed(self, ports: Iterable[Port]) -> bool:
        now = {port: self._read_sockets(port) for port in ports}
        changed = any(self._sockets[port] != sockets for port, sockets in now.items())
        self._sockets.update(now)
        return changed

    def _read_sockets(self, port: Port) -> frozenset[int]:
        try:
            return self._look(port)
        except HostError:
            return UNREADABLE  # The next check reports why.

    def _watch(self, process: ProcessId, exited: set[ProcessId], watches: contextlib.ExitStack) -> None:
        """Add the process to `exited` when it is gone."""
        try:
            fd = self._pidfd(process)
        except HostError:
            return  # It cannot be watched (no descriptor left); the wake's `within` ends the wait.
        if fd is None:
            exited.add(process)
            return
        watches.callback(os.close, fd)
        watches.callback(GLib.source_remove, _on_readable(fd, lambda: exited.add(process)))

    def _catch_signals(self) -> None:
        """Install handlers that only record a signal, and let the signal wake the context from its poll.

        A descriptor does that: the kernel may deliver a signal to any thread, and PyGObject wakes by itself only in
        `MainLoop.run`.
        """
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        self._undo.callback(writer.close)
        self._undo.callback(reader.close)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._undo.callback(signal.set_wakeup_fd, before)
        self._undo.callback(GLib.source_remove, _on_readable(reader.fileno(), lambda: _drain(reader)))
        for signum in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            former = signal.signal(signum, self._record_signal)
            self._undo.callback(signal.signal, signum, signal.SIG_DFL if former is None else former)

    def _record_signal(self, signum: int, _frame: FrameType | None) -> None:
        # A lost terminal (SIGHUP) does not end a run. It has this handler, as commands would inherit SIG_IGN.
        if signum != signal.SIGHUP:
            self._interrupted_at = self._interrupted_at or self.clock.monotonic()
            self._signum = self._signum or signum


def _drain(reader: socket.socket) -> None:
    with contextlib.suppress(BlockingIOError):
        while reader.recv(4096):
            pass


def _on_readable(fd: int, call: Callable[[], object]) -> int:
    def readable(*_: object) -> bool:
        call()
        return True

    source: int = GLib.unix_fd_add_full(GLib.PRIORITY_DEFAULT, fd, GLib.IOCondition.IN, readable)
    return source


@contextlib.contextmanager
def _timer(seconds: float) -> Iterator[None]:
    """Wake the main context every so many seconds."""
    # Rounded up: if it fired a moment before the time is over by the clock, another whole turn would pass.
    source = GLib.timeout_add(max(1, math.ceil(seconds * 1000)), lambda: True)
    try:
        yield
    finally:
        GLib.source_remove(source)
