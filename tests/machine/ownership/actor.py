"""A process that holds a port in one of many ways: `actor.py VERB…` does one after the other, then waits.

    listen=ADDRESS:PORT[,udp][,v6only][,reuseport][,reuseaddr][,device=NAME][,join=GROUP][,bound]
    adopt         take the sockets that systemd passed       store         store its sockets in systemd
    fork          fork a child, which holds the same         daemon        continue as a double-forked child
    leave=PATH    continue as a child; exit once PATH exists thread        continue in a thread with its own descriptors
    send=PATH     pass its sockets on to PATH                receive=PATH  receive sockets at PATH
    flight        send its sockets to itself, unreceived      close         close its sockets
    child         continue as a child; the parent waits      drop=UID      continue as another user
    bus           leave its sockets in the queue of the system's message bus
    open=PATH     keep a file open                           kvm           create a virtual machine; close /dev/kvm
    group=NAME    enter a cgroup below its own, or /NAME     become=ID     continue with this INVOCATION_ID
    main          notify systemd that it is the main process ready         notify systemd that it is ready
    await=PATH    wait until the file exists                 touch=PATH    make the file
    pidfile=PATH  write its PID to the file          answer=TEXT   answer each HTTP request with a text
    hide          continue in a second thread; the first one exits

It needs only the standard library of Python, so that it can run in a service's sandbox and in other namespaces.
"""

from __future__ import annotations

import array
import contextlib
import ctypes
import fcntl
import os
import re
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

CLONE_FILES = 0x400
KVM_CREATE_VM = 0xAE01
SD_LISTEN_FDS_START = 3
SYS_EXIT = {"x86_64": 60, "aarch64": 93}  # exit(2) of one thread, which libc has no function for


class Actor:
    """The process, with its sockets and the verbs still to do."""

    def __init__(self, verbs: list[str]) -> None:
        self.verbs = verbs
        self.sockets: list[socket.socket] = []
        self.files: list[int] = []

    def play(self) -> None:
        """Do one verb after the other, then sleep."""
        while self.verbs:
            verb, _, value = self.verbs.pop(0).partition("=")
            plain: dict[str, Callable[[], None]] = {
                "adopt": self.adopt,
                "fork": self.fork,
                "daemon": self.daemon,
                "thread": self.thread,
                "flight": self.flight,
                "child": self.child,
                "close": self.close,
                "bus": self.bus,
                "kvm": self.kvm,
                "hide": self.hide,
                "main": lambda: notify(f"MAINPID={os.getpid()}\nREADY=1"),
                "ready": lambda: notify("READY=1"),
                "store": lambda: notify("FDSTORE=1\nFDNAME=kept", self.sockets),
            }
            with_value: dict[str, Callable[[str], None]] = {
                "listen": self.listen,
                "await": await_file,
                "leave": self.leave,
                "send": self.send,
                "receive": self.receive,
                "group": enter,
                "become": self.become,
                "answer": self.answer,
                "drop": lambda uid: os.setuid(int(uid)),
                "open": lambda path: self.files.append(os.open(path, os.O_RDONLY | os.O_CREAT)),
                "pidfile": lambda path: write(path, f"{os.getpid()}\n"),
                "touch": lambda path: write(path, ""),
            }
            with_value[verb](value) if verb in with_value else plain[verb]()
        while True:
            time.sleep(3600)

    def listen(self, where: str) -> None:
        address, *flags = where.split(",")
        host, _, port = address.rpartition(":")
        host = host.strip("[]")
        udp = "udp" in flags
        named = dict(flag.partition("=")[::2] for flag in flags)
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        new = socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM)
        bound = "bound" in flags  # It does not listen, and does not let others bind the address.
        if "reuseaddr" in flags or not (udp or bound):
            new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if device := named.get("device"):
            new.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, device.encode())
        if group := named.get("join"):
            member = socket.inet_aton(group) + socket.inet_aton("127.0.0.1")
            new.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, member)
        if "reuseport" in flags:
            new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        if family == socket.AF_INET6:
            new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, int("v6only" in flags))
        new.bind(socket.getaddrinfo(host, int(port), family, new.type)[0][4])  # with the scope of fe80::1%eth0
        if not (udp or bound):
            new.listen()
        self.sockets.append(new)

    def adopt(self) -> None:
        count = int(os.environ.get("LISTEN_FDS", "0"))
        self.sockets += [socket.socket(fileno=SD_LISTEN_FDS_START + at) for at in range(count)]

    def fork(self) -> None:
        if os.fork() == 0:
            self.verbs.clear()

    def close(self) -> None:
        for one in self.sockets:
            one.close()
        self.sockets.clear()

    def child(self) -> None:
        if os.fork():
            self.verbs.clear()

    def kvm(self) -> None:
        device = os.open("/dev/kvm", os.O_RDWR)
        self.files.append(fcntl.ioctl(device, KVM_CREATE_VM, 0))
        os.close(device)

    def daemon(self) -> None:
        if os.fork():
            os.wait()
            self.verbs.clear()
            return
        os.setsid()
        if os.fork():
            os._exit(0)

    def leave(self, path: str) -> None:
        if os.fork():
            await_file(path)
            os._exit(0)
        os.setsid()

    def thread(self) -> None:
        verbs, self.verbs = self.verbs, []

        def alone() -> None:
            libc = ctypes.CDLL(None, use_errno=True)
            if libc.unshare(CLONE_FILES):
                raise OSError(ctypes.get_errno(), "unshare")
            Actor(verbs).play()

        threading.Thread(target=alone, daemon=True).start()

    def hide(self) -> None:
        verbs, self.verbs = self.verbs, []
        threading.Thread(target=Actor(verbs).play, daemon=True).start()
        time.sleep(0.2)
        ctypes.CDLL(None).syscall(SYS_EXIT[os.uname().machine], 0)

    def answer(self, text: str) -> None:
        def serve(listener: socket.socket) -> None:
            while True:
                client, _ = listener.accept()
                with contextlib.suppress(OSError), client:
                    client.settimeout(2)
                    client.recv(4096)
                    client.sendall(f"HTTP/1.0 200 OK\r\nContent-Length: {len(text)}\r\n\r\n{text}".encode())

        for one in self.sockets:
            if one.type == socket.SOCK_STREAM:
                threading.Thread(target=serve, args=(one,), daemon=True).start()

    def become(self, invocation: str) -> None:
        assert not self.sockets, "the sockets would be closed"
        environment = {**os.environ, "INVOCATION_ID": invocation}
        os.execve(sys.executable, [sys.executable, __file__, *self.verbs], environment)

    def send(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
            pass_on(door, self.sockets, path)

    def receive(self, path: str) -> None:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
            door.bind(path)
            Path(path).chmod(0o777)
            _, ancillary, _, _ = door.recvmsg(1, 1024)
        passed = array.array("i")
        for _, _, data in ancillary:
            passed.frombytes(data)
        self.sockets += [socket.socket(fileno=fd) for fd in passed]

    def flight(self) -> None:
        self.ends = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
        pass_on(self.ends[0], self.sockets)
        self.sockets.clear()

    def bus(self) -> None:
        """Send them to a connection that does not read. Without descriptors first, until the bus must keep them."""
        from gi.repository import Gio, GLib

        receiver, name = connect_to_bus()
        sender, _ = connect_to_bus()
        descriptors = Gio.UnixFDList.new()
        handle = descriptors.append(self.sockets[0].fileno())
        for at in range(100):
            message = Gio.DBusMessage.new_signal("/a", "a.b", "C")
            message.set_serial(at + 2)
            message.set_destination(name)
            if at == 99:
                message.set_unix_fd_list(descriptors)
            message.set_body(GLib.Variant("(ays)", (b"", "x" * 16000)) if at < 99 else GLib.Variant("(h)", (handle,)))
            data = message.to_blob(Gio.DBusCapabilityFlags.UNIX_FD_PASSING)
            if at < 99:
                sender.sendall(data)
            else:
                rights = array.array("i", [self.sockets[0].fileno()])
                sender.sendmsg([data], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)])
        self.ends = (receiver, sender)
        time.sleep(1)
        self.close()


def connect_to_bus() -> tuple[socket.socket, str]:
    """Connect to the system's bus; give the connection and its unique name."""
    from gi.repository import Gio

    door = socket.socket(socket.AF_UNIX)
    door.connect("/run/dbus/system_bus_socket")
    uid = str(os.getuid()).encode().hex()
    for line in (f"\0AUTH EXTERNAL {uid}", "NEGOTIATE_UNIX_FD"):
        door.sendall(f"{line}\r\n".encode())
        door.recv(1000)
    hello = Gio.DBusMessage.new_method_call(
        "org.freedesktop.DBus", "/org/freedesktop/DBus", "org.freedesktop.DBus", "Hello"
    )
    hello.set_serial(1)
    door.sendall(b"BEGIN\r\n" + bytes(hello.to_blob(Gio.DBusCapabilityFlags.UNIX_FD_PASSING)))
    found = re.search(rb":1\.\d+", door.recv(4000))
    assert found
    return door, found[0].decode()


def pass_on(door: socket.socket, sockets: list[socket.socket], path: str = "") -> None:
    """Send sockets through another socket (SCM_RIGHTS)."""
    rights = array.array("i", [one.fileno() for one in sockets])
    door.sendmsg([b"x"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)], 0, *([path] if path else []))


def notify(text: str, sockets: list[socket.socket] | None = None) -> None:
    """Send systemd a notification (sd_notify(3)), and wait until it has read it."""
    path = os.environ["NOTIFY_SOCKET"].replace("@", "\0", 1)
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
        rights = array.array("i", [one.fileno() for one in sockets or []])
        passed = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, rights)] if rights else []
        door.sendmsg([text.encode()], passed, 0, path)
        reader, writer = os.pipe()
        barrier = array.array("i", [writer])
        door.sendmsg([b"BARRIER=1"], [(socket.SOL_SOCKET, socket.SCM_RIGHTS, barrier)], 0, path)
        os.close(writer)
        os.read(reader, 1)  # systemd closes its end once it has read all messages before.
        os.close(reader)


def enter(name: str) -> None:
    """Make a control group below that of this process, and move to it."""
    own = Path("/proc/self/cgroup").read_text().splitlines()[-1].removeprefix("0::")
    group = Path("/sys/fs/cgroup" + (name if name.startswith("/") else f"{own}/{name}"))
    group.mkdir(parents=True, exist_ok=True)
    (group / "cgroup.procs").write_text("0")


def await_file(path: str) -> None:
    """Wait until a file exists."""
    while not Path(path).exists():
        time.sleep(0.01)


def write(path: str, text: str) -> None:
    """Write a file in one step."""
    Path(f"{path}.new").write_text(text)
    Path(f"{path}.new").rename(path)


if __name__ == "__main__":
    # A lost terminal must not end the process.
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    Actor(sys.argv[1:]).play()
