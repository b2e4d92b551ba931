"""Processes that hold a port and are hard to end, or must not be: `python3 actors.py PART PORT [MORE]`.

They need nothing but a Python's own library: in a machine they run with the distribution's.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import os
import shlex
import signal
import socket
import struct
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn

LIBC = ctypes.CDLL(None, use_errno=True)
PTRACE_SEIZE, PTRACE_O_TRACEEXIT = 0x4206, 0x40
FUSE_INIT = 26
QUICK = (
    "/usr/bin/perl",
    "-MSocket",
    "-e",
    "socket($s, PF_INET, SOCK_STREAM, 0); setsockopt($s, SOL_SOCKET, SO_REUSEADDR, 1);"
    " bind($s, sockaddr_in($ARGV[0], INADDR_LOOPBACK)) or die; listen($s, 64); sleep",
)
"""A server that listens a few milliseconds after its start: a Python takes half a second for that on a busy machine."""


def heed(_signum: int, _frame: object) -> None:
    """A handler that does nothing: the signal is taken, and waits where the process cannot take it."""


def listen(port: str) -> socket.socket:
    listener = socket.socket()
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    listener.bind(("127.0.0.1", int(port)))
    listener.listen(64)
    os.set_inheritable(listener.fileno(), True)
    return listener


def rest() -> NoReturn:
    while True:
        signal.pause()


def server(port: str) -> None:
    """Listens, and that is all."""
    _socket = listen(port)
    rest()


def named(port: str, title: str) -> None:
    """Listens under a name of its own (prctl(2), PR_SET_NAME), as tmux and sshd give themselves one."""
    LIBC.prctl(15, title.encode(), 0, 0, 0)
    server(port)


def parent(port: str, title: str) -> None:
    """A multiplexer: it listens on PORT, and a program that it started on the next."""
    if os.fork() == 0:
        os.execv("/usr/bin/python3", ["python3", __file__, "server", str(int(port) + 1)])
    named(port, title)


def client(port: str) -> None:
    """Is connected to a port, and stays so when the other end goes."""
    _socket = socket.create_connection(("127.0.0.1", int(port)))
    rest()


def deaf(port: str) -> None:
    """Heeds no TERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server(port)


def stopped(port: str) -> None:
    """Stops itself: TERM waits until somebody lets it go on."""
    _socket = listen(port)
    signal.signal(signal.SIGTERM, heed)
    os.kill(os.getpid(), signal.SIGSTOP)
    rest()


def vforked(port: str) -> None:
    """Waits in the kernel, uninterruptibly, for a child that neither execs nor exits (vfork(2))."""
    _socket = listen(port)
    signal.signal(signal.SIGTERM, heed)
    LIBC.vfork()
    rest()


def traced(port: str) -> None:
    """Is held by its tracer, a child of its parent, at the very moment of its end (PTRACE_O_TRACEEXIT)."""
    tracee = os.fork()
    if tracee == 0:
        server(port)
    if LIBC.ptrace(PTRACE_SEIZE, tracee, None, ctypes.c_void_p(PTRACE_O_TRACEEXIT)):
        raise OSError(ctypes.get_errno(), "ptrace")
    rest()


def disk(_port: str, folder: str) -> None:
    """A file system that takes questions and answers none but the first: a dead NFS server, played with FUSE.

    FOLDER.asked tells that somebody waits for an answer.
    """
    if not Path("/dev/fuse").exists():
        os.mknod("/dev/fuse", 0o600 | 0o020000, os.makedev(10, 229))
    fd = os.open("/dev/fuse", os.O_RDWR)
    Path(folder).mkdir(exist_ok=True)
    options = f"fd={fd},rootmode=40000,user_id=0,group_id=0"
    if LIBC.mount(b"dead", folder.encode(), b"fuse", 0, options.encode()):
        raise OSError(ctypes.get_errno(), "mount")
    while True:
        _length, code, unique = struct.unpack("=IIQ", os.read(fd, 65536)[:16])
        if code != FUSE_INIT:
            Path(f"{folder}.asked").touch()
        if code == FUSE_INIT:
            body = struct.pack("=IIIIHHIIHHIIHH24x", 7, 31, 0, 0, 1, 1, 4096, 1, 1, 0, 0, 0, 0, 0)[:64]
            os.write(fd, struct.pack("=IiQ", 16 + len(body), 0, unique) + body)


def hung(port: str, folder: str) -> None:
    """Asks that file system something, and waits for the answer in the kernel."""
    _socket = listen(port)
    os.listdir(folder)  # noqa: PTH208


def again(port: str, *argv: str) -> NoReturn:
    """A supervisor: it starts a server, and another one as soon as that has ended."""
    command = [*QUICK, port]
    if "shell" in argv:
        command = ["/bin/sh", "-c", f"{shlex.join(command)}; true"]
    while True:
        child = os.fork()
        if child == 0:
            os.execv(command[0], command)
        os.waitpid(child, 0)


def forgets(port: str) -> NoReturn:
    """Start a server whenever none runs, and leave it at once: the server has no parent that could be named."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        # The server holds the other end for as long as it runs. A look from time to time would come too late on a
        # busy machine: a port that stays free for half a second counts as free.
        ended, held = os.pipe()
        if os.fork() == 0:
            os.setsid()
            if os.fork():
                os._exit(0)
            with contextlib.suppress(OSError):
                server(port)
            os._exit(1)
        os.close(held)
        os.read(ended, 1)
        os.close(ended)


def guardians(port: str) -> NoReturn:
    """Many that watch over each other: whoever is missed is born again at once, by whoever sees it first."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    listener = listen(port)
    os.set_inheritable(listener.fileno(), True)
    shared = os.memfd_create("guardians")
    os.pwrite(shared, b"\0" * 64, 0)
    _guard(shared, 0)


def _guard(shared: int, mine: int, count: int = 8) -> NoReturn:
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    os.pwrite(shared, struct.pack("=Q", os.getpid()), 8 * mine)
    while True:
        for other in range(count):
            (pid,) = struct.unpack("=Q", os.pread(shared, 8, 8 * other))
            if other != mine and not (pid and Path(f"/proc/{pid}/stat").exists()) and os.fork() == 0:
                _guard(shared, other)
        time.sleep(0.001)


def comet(port: str) -> NoReturn:
    """Has another PID at every look: it forks, and the parent exits."""
    _socket = listen(port) if port != "0" else None
    while True:
        if LIBC.fork():
            LIBC._exit(0)


def crowd(port: str, count: str) -> None:
    """Many that hold no port."""
    for _ in range(int(count)):
        if os.fork() == 0:
            rest()
    rest()


def hands_on(port: str, path: str) -> None:
    """Gives its socket to a service when it gets TERM, and ends."""

    def give(_signum: int, _frame: object) -> None:
        to = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        to.connect(path)
        to.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener.fileno()]))])
        os._exit(0)

    signal.signal(signal.SIGTERM, give)
    listener = listen(port)
    rest()


def takes(_port: str, path: str) -> None:
    """Takes a socket, and keeps it."""
    at = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    at.bind(path)
    _taken = at.recvmsg(1, socket.CMSG_SPACE(4))
    rest()


def storm(_port: str, path: str) -> None:
    """Bears children by the hundred, and counts into PATH how many lived, and how many died of a signal."""
    lived = hit = 0
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    children: list[int] = []
    while True:
        while len(children) < 30:
            if (child := os.fork()) == 0:
                time.sleep(0.01)
                os._exit(0)
            children.append(child)
        _pid, status = os.waitpid(children.pop(0), 0)
        lived += os.WIFEXITED(status)
        hit += os.WIFSIGNALED(status)
        Path(f"{path}.new").write_text(f"{lived} {hit}")
        Path(f"{path}.new").replace(path)  # Who reads it meanwhile reads a whole one.


def churn(port: str) -> NoReturn:
    """Holders of one socket that come and go, exec, and lose their parents, for as long as the first one lives."""
    listener = listen(port)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    born = 0
    while True:
        born += 1
        if os.fork() == 0:
            if born % 3 == 0:
                os.execv("/usr/bin/sleep", ["sleep", "0.2"])
            if born % 3 == 1 and os.fork():
                os._exit(0)
            time.sleep(0.1)
            listener.close()
            time.sleep(0.1)
            os._exit(0)
        time.sleep(0.005)


PARTS: dict[str, Callable[..., object]] = {
    part.__name__: part
    for part in (
        server, named, parent, client, deaf, stopped, vforked, traced, disk, hung, again, forgets, guardians, comet,
        crowd, hands_on, takes, storm, churn,
    )
}  # fmt: skip

if __name__ == "__main__":
    PARTS[sys.argv[1]](*sys.argv[2:])
