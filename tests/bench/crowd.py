"""Processes with descriptors, files and sockets mixed; inside a machine: `crowd.py PROCESSES DESCRIPTORS`.

They run until the unit in which they were started is stopped.
"""

from __future__ import annotations

import os
import socket
import sys

FILE = "/usr/bin/env"
STANDARD = 3
"""Standard input, output and error count as descriptors too, and are the same for all processes."""


def descriptors(count: int) -> list[int]:
    """Open what a service has open: files, Unix sockets and network sockets, a third each."""
    made: list[int] = []
    for number in range(count):
        if number % 3 == 0:
            made.append(os.open(FILE, os.O_RDONLY))
        elif number % 3 == 1:
            made.append(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).detach())
        else:
            bound = socket.socket(socket.AF_INET, socket.SOCK_STREAM if number % 2 else socket.SOCK_DGRAM)
            bound.bind(("127.0.0.1", 0))
            made.append(bound.detach())
    return made


def main() -> None:
    """Start all processes, each with descriptors of its own."""
    processes, count = map(int, sys.argv[1:])
    for _ in range(processes):
        own = descriptors(count - STANDARD)
        for descriptor in own:
            os.set_inheritable(descriptor, True)
        os.posix_spawn("/bin/sleep", ["sleep", "infinity"], {})
        for descriptor in own:
            os.close(descriptor)


if __name__ == "__main__":
    main()
