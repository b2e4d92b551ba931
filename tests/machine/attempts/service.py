"""The service under test: `service.py PORT` reads what it does from /run/attempts/PORT.

`version` is the version that it serves, `does.VERSION` what that version does (scene.py, DOES), and `open/spawn` a
command that the next start runs instead of serving. It starts with `python3 -IS`, because crash loops start it often.
"""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import NoReturn

PORT = int(sys.argv[1])
FOLDER = Path("/run/attempts") / str(PORT)
KIND = sys.argv[2]
DAEMON = ("forking", "sysv", "oneshot")
PARENT: list[int] = []  # the pipe to the parent of a daemon
STATUS = {"wrong": "404 Not Found", "busy": "503 Service Unavailable"}


def notify(text: str) -> None:
    """Send systemd a notification (sd_notify(3))."""
    if path := os.environ.get("NOTIFY_SOCKET"):
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as door:
            door.sendto(text.encode(), path.replace("@", "\0", 1))


def rest() -> NoReturn:
    while True:
        time.sleep(3600)


def listen(patient: bool) -> socket.socket:
    """Return the listening socket: the one that systemd passed, or a new one. If the port is in use, exit with 78."""
    if os.environ.get("LISTEN_FDS"):
        return socket.socket(fileno=3)
    while True:
        new = socket.socket()
        new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        if (FOLDER / "shares").exists():
            new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        try:
            new.bind(("127.0.0.1", PORT))
            new.listen(64)
            return new
        except OSError as error:
            print(f"cannot listen on 127.0.0.1:{PORT}: {error}", file=sys.stderr, flush=True)
            new.close()
        if not patient:
            sys.exit(78)
        time.sleep(0.3)


def serve(listener: socket.socket, version: str, does: str) -> None:
    """Answer each request."""
    body = "1.0" if does == "old" else version
    page = f"HTTP/1.0 {STATUS.get(does, '200 OK')}\r\nContent-Length: {len(body)}\r\n\r\n{body}".encode()
    while True:
        client, _ = listener.accept()
        with contextlib.suppress(OSError), client:
            client.settimeout(2)
            if does == "silent":
                client.recv(4096)
                time.sleep(1000)
            client.recv(4096)
            client.sendall(page)


def daemonize() -> None:
    """Continue as a child. The parent exits once the child listens, or with the status of the child."""
    ready, done = os.pipe()
    PARENT.append(done)
    if child := os.fork():
        os.close(done)
        if os.read(ready, 1) != b"x":
            os._exit(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]))
        os._exit(0)
    os.close(ready)
    os.setsid()


def is_up(does: str) -> None:
    """Report that the service is up: to systemd, to the parent, or in the PID file."""
    if KIND in DAEMON:
        if does != "no-pid-file":
            (FOLDER / "pid.new").write_text(f"{os.getpid()}\n")
            (FOLDER / "pid.new").rename(FOLDER / "pid")
        os.write(PARENT[0], b"x")
    elif does != "mute":
        notify("READY=1")


def later(does: str) -> None:
    """Do what happens after the service is up."""
    if does in ("crash-later", "dies"):
        time.sleep(0.4)
        os._exit(3 if does == "crash-later" else 0)
    if does == "stops":
        os.kill(os.getpid(), signal.SIGSTOP)
    if does == "freezes":
        subprocess.run(["systemctl", "freeze", f"att-{KIND}@{PORT}.service"], check=False)
    while KIND == "watchdog" and does != "no-pings":
        notify("WATCHDOG=1")
        time.sleep(0.4)


def main() -> None:
    if KIND in DAEMON:
        (FOLDER / "pid").unlink(missing_ok=True)
    spawn = FOLDER / "open" / "spawn"
    if spawn.exists():
        command = spawn.read_text()
        spawn.unlink()
        subprocess.Popen(["/bin/sh", "-c", command])
        if KIND in DAEMON:
            daemonize()
        is_up("serves")
        rest()
    version = (FOLDER / "version").read_text().strip()
    does = (FOLDER / f"does.{version}").read_text().strip()
    if does == "crash":
        print("this version cannot start", file=sys.stderr, flush=True)
        sys.exit(3)
    if does == "exits":
        sys.exit(0)
    if does == "never":
        is_up(does)
        rest()
    if KIND in DAEMON:
        daemonize()
    if does == "late":
        time.sleep(1)
    listener = listen(does == "patient")
    if does == "workers" and os.fork() == 0:
        serve(listener, version, does)
    is_up(does)
    threading.Thread(target=serve, args=(listener, version, does), daemon=True).start()
    later(does)
    rest()


if __name__ == "__main__":
    main()
