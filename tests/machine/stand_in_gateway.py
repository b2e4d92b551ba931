#!/usr/bin/python3
"""A small service that behaves like OpenClaw's gateway in the tests, and its installer.

It is installed as /opt/gateway/VERSION/gateway, and /opt/gateway/current is a link to that folder. Like the real one
it takes a while to start, listens on both loopback addresses, prints "[gateway] ready", and exits with status 78 if
another process holds the port. A running process keeps its version when the files are upgraded.

    gateway serve [--port 18789] [--start-seconds 1]
    gateway --version
    gateway install VERSION         # swaps /opt/gateway/current

It needs only the standard library of Python.
"""

from __future__ import annotations

import argparse
import errno
import json
import os
import shutil
import socket
import sys
import threading
import time
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

ROOT = Path("/opt/gateway")
PORT_TAKEN = 78
"""EX_CONFIG, the exit status of OpenClaw's gateway if its port is in use."""

# The link is resolved at the start, as it may change while this process runs.
VERSION = Path(__file__).resolve().parent.name


class Answer(BaseHTTPRequestHandler):
    """Answers each GET with version and PID, in JSON."""

    protocol_version = "HTTP/1.1"

    def do_GET(self) -> None:
        body = json.dumps({"version": VERSION, "pid": os.getpid()}).encode() + b"\n"
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - its name upstream
        """Log nothing, so that the journal has only the gateway's own messages."""


class Server4(ThreadingHTTPServer):
    """A server on 127.0.0.1."""

    family: ClassVar[socket.AddressFamily] = socket.AF_INET
    daemon_threads = True

    def __init__(self, address: str, port: int) -> None:
        self.address_family = self.family
        super().__init__((address, port), Answer)


class Server6(Server4):
    """A server on ::1 alone. A socket for both families would take 127.0.0.1 as well."""

    family = socket.AF_INET6

    def server_bind(self) -> None:
        self.socket.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        super().server_bind()


def say(message: str) -> None:
    print(f"[gateway] {message}", flush=True)


def serve(port: int, start_seconds: float) -> int:
    say(f"starting {VERSION}, PID {os.getpid()}")
    time.sleep(start_seconds)
    try:
        servers = [Server4("127.0.0.1", port), Server6("::1", port)]
    except OSError as error:
        if error.errno != errno.EADDRINUSE:
            raise
        say(f"port {port} is already in use; another gateway is running; exiting with code {PORT_TAKEN}")
        return PORT_TAKEN
    for server in servers[1:]:
        threading.Thread(target=server.serve_forever, daemon=True).start()
    say("ready")
    servers[0].serve_forever()
    return 0


def install(version: str) -> int:
    """Install a version. The link is replaced in one step, so that it always exists."""
    before = VERSION
    release = ROOT / version
    release.mkdir(exist_ok=True)
    shutil.copy(__file__, release / "gateway")
    (ROOT / "next").unlink(missing_ok=True)
    (ROOT / "next").symlink_to(version)
    (ROOT / "next").rename(ROOT / "current")
    print(f"gateway {before} -> {version}")
    return 0


def main() -> int:
    parser = argparse.ArgumentParser(prog="gateway")
    parser.add_argument("--version", action="version", version=f"gateway {VERSION}")
    commands = parser.add_subparsers(required=True, dest="command")
    server = commands.add_parser("serve")
    server.add_argument("--port", type=int, default=18789)
    server.add_argument("--start-seconds", type=float, default=1.0)
    commands.add_parser("install").add_argument("wanted", metavar="VERSION")
    given = parser.parse_args()
    return install(given.wanted) if given.command == "install" else serve(given.port, given.start_seconds)


if __name__ == "__main__":
    sys.exit(main())
