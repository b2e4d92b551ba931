"""The one place where the program waits: a GLib main context for the bus, processes, sockets and signals.

Nothing is missed between a look and a wait. A bus signal that arrives while nobody waits is kept as news
until somebody looks at its unit or waits for it, and a change of sockets counts from the last look of a
check, not from the moment when the waiting began.
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
from runbook.model import Clock, Deadline, Port, ProcessId, SystemClock, Wake

SOCKET_POLL = 0.01
"""Seconds between two looks at the sockets. The kernel tells nobody of a listen(2); a look costs 0.1 ms."""

INTERRUPTED_SETTLE = 0.5
"""Seconds that the answer to a request which begins something may still take after SIGTERM."""

ANY_TOPIC = "*"
"""The topic that wakes whoever waits, whatever for."""


class Loop:
    """Waits in the default main context. It belongs to the main thread; only `tell` may be called by others.

    `look` gives the identity of the sockets that listen on a port; `pidfd` a descriptor that becomes readable
    when this very process ends, or None if it has.
    """

    def __init__(
        self,
        *,
        look: Callable[[Port], frozenset[int]],
        pidfd: Callable[[ProcessId], int | None],
    ) -> None:
        self.clock: Clock = SystemClock()
        self._look = look
        self._pidfd = pidfd
        self._context = GLib.MainContext.default()
        self._news: set[str] = set()
        self._sockets: dict[Port, frozenset[int]] = {}
        self._ended: set[ProcessId] = set()
        self._signum = 0
        self._raised = False
        self._undo = contextlib.ExitStack()
        if threading.current_thread() is threading.main_thread():
            self._catch_signals()

    def close(self) -> None:
        """Give the signals back to whoever had them."""
        self._undo.close()

    @property
    def interrupted(self) -> int:
        """The number of the SIGINT or SIGTERM that has arrived, else 0."""
        return self._signum

    def notify(self, topics: Iterable[str] = (ANY_TOPIC,)) -> None:
        """Wake whoever waits for one of these topics, now or next. Any thread may call it."""
        self._news.update(topics)
        self._context.wakeup()

    def call_later(self, seconds: float, call: Callable[[], object]) -> None:
        """Have something called once, in so many seconds, whatever is waited for by then."""

        def once() -> bool:
            call()
            return False

        GLib.timeout_add(math.ceil(seconds * 1000), once)

    def discard(self, topics: Iterable[str]) -> None:
        """Drop the news of topics that were just looked at."""
        self._news.difference_update(topics)

    def record_sockets(self, port: Port, sockets: frozenset[int]) -> None:
        """Remember the sockets that a check saw: `wait` returns when they are others."""
        self._sockets[port] = sockets

    def wait(self, wake: Wake, deadline: Deadline) -> None:
        """Return when something of `wake` happened, or its `within` or the deadline is over.

        Units are told of by `tell`, under the names that they were looked at. Raises Interrupted.
        """
        self.raise_if_interrupted()
        wanted = {*wake.units, ANY_TOPIC}
        ended: set[ProcessId] = set()
        with contextlib.ExitStack() as watches:
            for process in wake.processes - self._ended:
                watches.enter_context(self._watch(process, ended))
            for port in wake.ports - self._sockets.keys():
                self.record_sockets(port, self._look(port))
            if wake.ports:
                watches.enter_context(_timer(SOCKET_POLL))
            self.run_until(
                lambda: bool(ended) or not self._news.isdisjoint(wanted) or self._changed(wake.ports),
                min(wake.within, deadline.remaining),
            )
        self._news -= wanted
        # Told once: a step that goes on naming a process that is gone must not make its wait return at once.
        self._ended |= ended

    def run_until(self, done: Callable[[], bool], seconds: float, *, settle: bool = False) -> bool:
        """Serve the main context until `done` or the time is over; tell whether it is done.

        Raises Interrupted, once, when SIGINT or SIGTERM has arrived. With `settle` a signal that arrives in
        the middle waits for the end, SETTLE at most, so that what was begun is known to whoever must end it.
        """
        # No check before: a request has gone out by now, and to drop its answer is what `settle` is against.
        until = self.clock.monotonic() + seconds
        if self._serve(done, seconds):
            return True
        if self._is_interrupt_pending and settle:
            left = until - self.clock.monotonic()
            if self._serve(done, min(INTERRUPTED_SETTLE, left), deaf=True):
                return True
        self.raise_if_interrupted()
        return False

    def raise_if_interrupted(self) -> None:
        """Raise Interrupted if SIGINT or SIGTERM has arrived and nobody was told yet.

        Only once, so that what cleans up afterwards can use the same calls; all of them are bounded.
        """
        if self._is_interrupt_pending:
            self._raised = True
            raise Interrupted(self._signum)

    @property
    def _is_interrupt_pending(self) -> bool:
        return bool(self._signum) and not self._raised

    def _serve(self, done: Callable[[], bool], seconds: float, *, deaf: bool = False) -> bool:
        until = self.clock.monotonic() + seconds
        with _timer(seconds):
            while not done():
                if (self._is_interrupt_pending and not deaf) or self.clock.monotonic() >= until:
                    return False
                self._context.iteration(True)
        return True

    def _changed(self, ports: Iterable[Port]) -> bool:
        changed = False
        for port in ports:
            now = self._look(port)
            changed |= now != self._sockets[port]
            self.record_sockets(port, now)
        return changed

    @contextlib.contextmanager
    def _watch(self, process: ProcessId, ended: set[ProcessId]) -> Iterator[None]:
        """Add the process to `ended` when it is gone."""
        try:
            fd = self._pidfd(process)
        except HostError:
            # It cannot be watched (no descriptor left): the wake's `within` is what is left.
            yield
            return
        if fd is None:
            ended.add(process)
            yield
            return
        source = _on_readable(fd, lambda: ended.add(process))
        try:
            yield
        finally:
            GLib.source_remove(source)
            os.close(fd)

    def _catch_signals(self) -> None:
        """Let the handlers only take a note, and let a signal wake the context from its poll.

        The descriptor does that: the kernel may deliver a signal to any thread, and PyGObject wakes by itself
        only in `MainLoop.run`.
        """
        reader, writer = socket.socketpair()
        for end in (reader, writer):
            end.setblocking(False)
        self._undo.callback(writer.close)
        self._undo.callback(reader.close)
        before = signal.set_wakeup_fd(writer.fileno(), warn_on_full_buffer=False)
        self._undo.callback(signal.set_wakeup_fd, before)
        self._undo.callback(GLib.source_remove, _on_readable(reader.fileno(), lambda: _drain(reader)))
        # SIGHUP gets a function rather than SIG_IGN, which the commands that are started would inherit.
        handlers = {signal.SIGINT: self._record_signal, signal.SIGTERM: self._record_signal, signal.SIGHUP: _let_pass}
        for signum, handler in handlers.items():
            former = signal.signal(signum, handler)
            self._undo.callback(signal.signal, signum, signal.SIG_DFL if former is None else former)

    def _record_signal(self, signum: int, _frame: FrameType | None) -> None:
        self._signum = self._signum or signum


def _let_pass(_signum: int, _frame: FrameType | None) -> None:
    """A lost terminal does not end a run."""


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
    # Rounded up: one that fires a moment before the clock agrees would let another whole turn pass.
    source = GLib.timeout_add(max(1, math.ceil(seconds * 1000)), lambda: True)
    try:
        yield
    finally:
        GLib.source_remove(source)
