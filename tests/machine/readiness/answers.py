"""A server that answers a page and a websocket with its name: `python3 answers.py NAME ADDRESS:PORT [MODE…]`.

    shared         let other processes listen there too (SO_REUSEPORT)
    deaf           ignore TERM
    refuses        answer 503 to each request
    ready=PATH     make a file once it listens
    asked=PATH     make a file at each request
    waits=PATH     answer only once this file exists, from a child that does not listen itself
    leaves=PATH    close the socket at the first request, and make a file then

It needs only the standard library of Python.
"""

from __future__ import annotations

import base64
import hashlib
import os
import re
import signal
import socket
import sys
import time
from pathlib import Path

KEY = re.compile(rb"(?i)^sec-websocket-key: *(\S+)", re.MULTILINE)


def answer(client: socket.socket, name: str, modes: dict[str, str]) -> None:
    """Read one request, and answer it."""
    head = b""
    while b"\r\n\r\n" not in head:
        part = client.recv(4096)
        if not part:
            return
        head += part
    if "asked" in modes:
        Path(modes["asked"]).touch()
    if "waits" in modes:
        while not Path(modes["waits"]).exists():
            time.sleep(0.01)
    key = KEY.search(head)
    if "refuses" in modes:
        client.sendall(b"HTTP/1.1 503 No\r\nContent-Length: 0\r\n\r\n")
    elif key:
        accept = base64.b64encode(hashlib.sha1(key[1] + b"258EAFA5-E914-47DA-95CA-C5AB0DC85B11").digest())
        upgrade = b"Upgrade: websocket\r\nConnection: Upgrade\r\n"
        client.sendall(b"HTTP/1.1 101 Yes\r\n%bSec-WebSocket-Accept: %b\r\n\r\n" % (upgrade, accept))
        while client.recv(4096):
            pass
    else:
        client.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%b" % (len(name), name.encode()))


def main(name: str, where: str, *words: str) -> None:
    """Listen, and let a child answer each request."""
    modes = {mode: value for mode, _, value in (word.partition("=") for word in words)}
    host, _, port = where.rpartition(":")
    listener = socket.socket(socket.AF_INET6 if ":" in host else socket.AF_INET)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if "shared" in modes:
        listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
    # This must be before listen(), as a test may send a signal once it listens. Without a handler the first process of
    # a container would not get TERM.
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN if "deaf" in modes else lambda *_: os._exit(0))
    listener.bind((host.strip("[]"), int(port)))
    listener.listen()
    if "ready" in modes:
        Path(modes["ready"]).touch()
    while True:
        client, _ = listener.accept()
        if os.fork() == 0:
            listener.close()
            answer(client, name, modes)
            os._exit(0)
        client.close()
        if "leaves" in modes:
            listener.close()
            Path(modes["leaves"]).touch()
            signal.pause()


if __name__ == "__main__":
    main(*sys.argv[1:])
