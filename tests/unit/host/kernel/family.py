"""A parent and its children, which only hold one listening socket; children are started and killed on demand.

They differ only in their PID and their start time. SIGTERM is blocked in them: a signal that was sent stays pending,
and /proc/PID/status shows it.
"""

from __future__ import annotations

import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from runbook.host.holders import Holder, Listener, Role
from runbook.host.kernel import processes
from runbook.host.kernel.sock_diag import SocketTable
from runbook.model import Port

PARENT = """
import os, signal, socket, sys
signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTERM})
listener = socket.socket()
listener.bind(("127.0.0.1", 0))
listener.listen()
print(listener.getsockname()[1], flush=True)

def bear(wanted):
    while True:
        if wanted:
            with open("/proc/sys/kernel/ns_last_pid", "w") as last:
                last.write(str(wanted - 1))
        child = os.fork()
        if child == 0:
            while True:
                signal.pause()
        if wanted in (0, child):
            return child
        end(child)  # Another process forked in between: try again.

def end(child):
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)

for line in sys.stdin:
    what, pid = line.split()
    print({"bear": bear, "end": end}[what](int(pid)) or 0, flush=True)
"""

LAST_PID = Path("/proc/sys/kernel/ns_last_pid")


def list_listeners(port: Port) -> tuple[Listener, ...]:
    """List the sockets that listen on a port, read once."""
    with SocketTable() as table:
        return table.list_listeners(port)


def may_choose_pids() -> bool:
    """True if this process may choose the next PID (CAP_CHECKPOINT_RESTORE, or root)."""
    try:
        LAST_PID.write_text(LAST_PID.read_text())
    except OSError:
        return False
    return True


class Family:
    """The parent, which listens, and the children that it forks."""

    def __init__(self) -> None:
        self.parent = subprocess.Popen(
            [sys.executable, "-c", PARENT], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.port = Port(int(self._answer()))
        self.children: set[int] = set()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, _type: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        for child in list(self.children):
            self.end(child)
        self.parent.communicate()

    def bear(self, pid: int = 0) -> int:
        """Fork a child, with this PID if one is passed."""
        child = self._ask("bear", pid)
        self.children.add(child)
        return child

    def end(self, pid: int) -> None:
        """Kill a child and reap it, which frees its PID."""
        self._ask("end", pid)
        self.children.discard(pid)

    def replace(self, pid: int) -> None:
        """Kill a child, and fork another one with its PID."""
        self.end(pid)
        self.bear(pid)

    def judged(self, pid: int) -> Holder:
        """Return a child as an orphan that holds the port, once its start is a tick of the clock ago."""
        process = processes.read_process(pid)
        assert process is not None
        while time.clock_gettime(time.CLOCK_BOOTTIME) * processes.CLOCK_TICKS < process.id.start + 2:
            time.sleep(0.001)
        return Holder(process, Role.ORPHAN, "no unit", "", list_listeners(self.port))

    def sockets(self) -> set[int]:
        """Return the inode of the socket that they all hold."""
        return {listener.inode for listener in list_listeners(self.port)}

    def _ask(self, what: str, pid: int) -> int:
        assert self.parent.stdin is not None
        self.parent.stdin.write(f"{what} {pid}\n")
        self.parent.stdin.flush()
        return int(self._answer())

    def _answer(self) -> str:
        assert self.parent.stdout is not None
        return self.parent.stdout.readline()


def was_hit(pid: int) -> bool:
    """True if a SIGTERM was sent to a child and is pending."""
    pending = re.search(r"^ShdPnd:\s*([0-9a-f]+)", Path(f"/proc/{pid}/status").read_text(), re.MULTILINE)
    assert pending is not None
    return bool(int(pending[1], 16) & 1 << signal.SIGTERM - 1)
