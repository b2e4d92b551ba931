"""Processes that hold a port and are hard to kill, or must not be killed: `python3 actors.py PART PORT [MORE]`.

They need only the standard library of Python, as they run with the distribution's.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import itertools
import os
import shlex
import signal
import socket
import struct
import sys
import threading
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
"""A server that listens a few milliseconds after its start. Python takes half a second on a busy machine."""


def handle(_signum: int, _frame: object) -> None:
    """Do nothing. With this handler a signal stays pending while the process cannot handle it."""


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
    """Listen, and do nothing else."""
    _socket = listen(port)
    rest()


def named(port: str, title: str) -> None:
    """Listen under another process name (prctl(2), PR_SET_NAME), as tmux and sshd have."""
    LIBC.prctl(15, title.encode(), 0, 0, 0)
    server(port)


def parent(port: str, title: str) -> None:
    """Act as a multiplexer: listen on PORT, and start a program that listens on the next port."""
    if os.fork() == 0:
        os.execv("/usr/bin/python3", ["python3", __file__, "server", str(int(port) + 1)])
    named(port, title)


def client(port: str) -> None:
    """Connect to a port, and keep the connection open when the other end exits."""
    _socket = socket.create_connection(("127.0.0.1", int(port)))
    rest()


def deaf(port: str) -> None:
    """Listen, and ignore TERM."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    server(port)


def accepts(port: str) -> None:
    """Listen on TCP and UDP with a thread in accept(2). On TERM, close the TCP socket, and exit three seconds later.

    Until then the kernel keeps that socket for the thread, and no descriptor shows it.
    """
    signal.signal(signal.SIGTERM, handle)
    listener = listen(port)
    datagrams = socket.socket(type=socket.SOCK_DGRAM)
    datagrams.bind(("127.0.0.1", int(port)))
    threading.Thread(target=listener.accept, daemon=True).start()
    signal.pause()
    os.close(listener.fileno())
    time.sleep(3)
    os._exit(0)


def stopped(port: str) -> None:
    """Listen, and stop with SIGSTOP: TERM is pending until SIGCONT."""
    _socket = listen(port)
    signal.signal(signal.SIGTERM, handle)
    os.kill(os.getpid(), signal.SIGSTOP)
    rest()


def vforked(port: str) -> None:
    """Listen, and wait uninterruptibly in the kernel for a child that neither execs nor exits (vfork(2))."""
    _socket = listen(port)
    signal.signal(signal.SIGTERM, handle)
    LIBC.vfork()
    rest()


def traced(port: str) -> None:
    """Listen in a child whose tracer stops it at the moment of its exit (PTRACE_O_TRACEEXIT)."""
    tracee = os.fork()
    if tracee == 0:
        server(port)
    if LIBC.ptrace(PTRACE_SEIZE, tracee, None, ctypes.c_void_p(PTRACE_O_TRACEEXIT)):
        raise OSError(ctypes.get_errno(), "ptrace")
    rest()


def disk(_port: str, folder: str) -> None:
    """Serve a FUSE file system that answers only the first request, like a dead NFS server.

    FOLDER.asked is made when a process waits for an answer.
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
    """Listen, and wait in the kernel for an answer of that file system."""
    _socket = listen(port)
    os.listdir(folder)  # noqa: PTH208


def again(port: str, *argv: str) -> NoReturn:
    """Act as a supervisor: start a server, and another one whenever it exits."""
    command = [*QUICK, port]
    if "shell" in argv:
        command = ["/bin/sh", "-c", f"{shlex.join(command)}; true"]
    while True:
        child = os.fork()
        if child == 0:
            os.execv(command[0], command)
        os.waitpid(child, 0)


def prefork(port: str, path: str) -> NoReturn:
    """A master of the same program: it starts a worker that listens, and another when that ends; PATH has the count."""
    for count in itertools.count(1):
        Path(path).write_text(str(count))
        child = os.fork()
        if child == 0:
            server(port)
        os.waitpid(child, 0)
    raise AssertionError


def watched(port: str, *argv: str) -> NoReturn:
    """A launcher that starts nothing again. Its one child listens, its other one starts the next when that ends."""
    child = os.fork()
    if child == 0:
        os.execv("/usr/bin/python3", ["python3", __file__, "server", port])
    if os.fork() == 0:
        while Path(f"/proc/{child}/stat").exists() and "Z" not in Path(f"/proc/{child}/stat").read_text().split():
            time.sleep(0.02)
        again(port)
    rest()


def forgets(port: str) -> NoReturn:
    """Start a server whenever none is running, from a child that exits at once, so that the server has no parent."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    while True:
        # The server holds the other end of the pipe while it runs. Polling would be too late on a busy machine, as a
        # port that is free for half a second counts as free.
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
    """Start many processes that watch each other. If one is missing, the first that notices it forks it again."""
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
    """Fork and exit all the time, so that each reading finds another PID."""
    _socket = listen(port) if port != "0" else None
    while True:
        if LIBC.fork():
            LIBC._exit(0)


def flips(port: str) -> NoReturn:
    """Listen, ignore TERM, and move from one cgroup to the other and back all the time."""
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    _socket = listen(port)
    groups = [Path(f"/sys/fs/cgroup/flips-{name}") for name in "ab"]
    for group in groups:
        group.mkdir(exist_ok=True)
    while True:
        for group in groups:
            (group / "cgroup.procs").write_text("0")


def crowd(port: str, count: str) -> None:
    """Start many processes that hold no port."""
    for _ in range(int(count)):
        if os.fork() == 0:
            rest()
    rest()


def hands_on(port: str, path: str) -> None:
    """Listen. On TERM pass the socket to a service, and exit."""

    def give(_signum: int, _frame: object) -> None:
        to = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        to.connect(path)
        to.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, array.array("i", [listener.fileno()]))])
        os._exit(0)

    signal.signal(signal.SIGTERM, give)
    listener = listen(port)
    rest()


def takes(_port: str, path: str) -> None:
    """Receive a socket, and keep it."""
    at = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    at.bind(path)
    _taken = at.recvmsg(1, socket.CMSG_SPACE(4))
    rest()


def storm(_port: str, path: str) -> None:
    """Fork hundreds of children, and write to PATH how many exited and how many were killed by a signal."""
    exited = killed = 0
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    children: list[int] = []
    while True:
        while len(children) < 30:
            if (child := os.fork()) == 0:
                time.sleep(0.01)
                os._exit(0)
            children.append(child)
        _pid, status = os.waitpid(children.pop(0), 0)
        exited += os.WIFEXITED(status)
        killed += os.WIFSIGNALED(status)
        Path(f"{path}.new").write_text(f"{exited} {killed}")
        Path(f"{path}.new").replace(path)  # A reader always finds a complete file.


def churn(port: str) -> NoReturn:
    """Fork holders of one socket all the time, which exec, exit, and lose their parents."""
    listener = listen(port)
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    forked = 0
    while True:
        forked += 1
        if os.fork() == 0:
            if forked % 3 == 0:
                os.execv("/usr/bin/sleep", ["sleep", "0.2"])
            if forked % 3 == 1 and os.fork():
                os._exit(0)
            time.sleep(0.1)
            listener.close()
            time.sleep(0.1)
            os._exit(0)
        time.sleep(0.005)


PARTS: dict[str, Callable[..., object]] = {
    part.__name__: part
    for part in (
        server, named, parent, client, deaf, accepts, stopped, vforked, traced, disk, hung, again, prefork, watched,
        forgets, guardians, comet, flips, crowd, hands_on, takes, storm, churn,
    )
}  # fmt: skip

if __name__ == "__main__":
    PARTS[sys.argv[1]](*sys.argv[2:])
