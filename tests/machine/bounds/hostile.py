"""What a user without rights can do to those who read his processes: `hostile.py VERB ARGUMENT…`, inside a machine.

It prints "there" when all of it is in place, and then waits to be killed.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import resource
import signal
import socket
import struct
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

LIBC = ctypes.CDLL(None, use_errno=True)
LIBC.mmap.restype = LIBC.sbrk.restype = ctypes.c_void_p
LIBC.mmap.argtypes = (ctypes.c_void_p, ctypes.c_size_t, ctypes.c_int, ctypes.c_int, ctypes.c_int, ctypes.c_long)

CLONE_FILES = 0x400  # sched.h
PR_SET_MM, PR_SET_MM_MAP = 35, 14  # linux/prctl.h
PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS_NORESERVE = 3, 0x4022  # bits/mman.h
MEMORY = struct.Struct("=11QQ2I")  # struct prctl_mm_map
STAT = {
    "start_code": 26, "end_code": 27, "start_data": 45, "end_data": 46, "start_brk": 47, "start_stack": 28,
    "arg_start": 48, "arg_end": 49, "env_start": 50, "env_end": 51,
}  # fmt: skip
"""Where proc_pid_stat(5) has the fields of struct prctl_mm_map."""

PER_PROCESS = 5000


def more_descriptors() -> None:
    """Take as many descriptors as the machine allows."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def addresses() -> Iterator[str]:
    """Yield addresses of this machine, other than 127.0.0.1."""
    for a, b, c in itertools.product(range(1, 255), range(1, 255), range(1, 255)):
        yield f"127.{a}.{b}.{c}"


def listen(address: str, port: int) -> socket.socket:
    """Listen on an address."""
    made = socket.socket()
    made.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    made.bind((address, port))
    made.listen(1)
    return made


def child(work: object = None) -> bool:
    """Fork; return True in the child, which waits for nothing else than its end."""
    return os.fork() == 0


def listeners(port: str, count: str, processes: str = "1") -> None:
    """Listen on many addresses, in so many processes."""
    free = addresses()
    for _ in range(int(processes)):
        mine = list(itertools.islice(free, int(count) // int(processes)))
        read, write = os.pipe()
        if int(processes) == 1 or child():
            KEPT.extend(listen(address, int(port)) for address in mine)
            if int(processes) > 1:
                os.write(write, b"!")
                signal.pause()
        else:
            os.read(read, 1)
        os.close(read)
        os.close(write)


def memory(field: str, size: str, port: str) -> None:
    """Have a command line or an environment of so many GiB (prctl(2), PR_SET_MM_MAP), and listen."""
    KEPT.append(listen("127.9.9.9", int(port)))
    words = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
    fields = {name: int(words[number - 3]) for name, number in STAT.items()}
    length = int(float(size) * (1 << 30))
    base = LIBC.mmap(None, length, PROT_READ_WRITE, MAP_PRIVATE_ANONYMOUS_NORESERVE, -1, 0)
    ctypes.memset(base, ord("x"), 1 << 20)
    fields |= {f"{field}_start": base, f"{field}_end": base + length}
    brk = fields.pop("start_brk")
    order = ("start_code", "end_code", "start_data", "end_data")
    rest = ("start_stack", "arg_start", "arg_end", "env_start", "env_end")
    values = [*map(fields.__getitem__, order), brk, LIBC.sbrk(0), *map(fields.__getitem__, rest)]
    data = MEMORY.pack(*values, 0, 0, 0xFFFF_FFFF)
    if LIBC.prctl(PR_SET_MM, PR_SET_MM_MAP, data, len(data), 0):
        raise OSError(ctypes.get_errno(), "prctl")


def tables(processes: str, descriptors: str) -> None:
    """Have many processes of many descriptors each."""
    for _ in range(int(processes)):
        read, write = os.pipe()
        if child():
            for _ in range(int(descriptors)):
                os.dup(0)
            os.write(write, b"!")
            signal.pause()
        os.read(read, 1)
        os.close(read)
        os.close(write)


def threads(count: str, descriptors: str) -> None:
    """Have many threads with a table of descriptors each, in a process whose own table is empty."""
    done = threading.Semaphore(0)

    def work() -> None:
        LIBC.unshare(CLONE_FILES)
        for _ in range(int(descriptors)):
            os.dup(1)
        done.release()
        threading.Event().wait()

    for _ in range(int(count)):
        threading.Thread(target=work, daemon=True).start()
    for _ in range(int(count)):
        done.acquire()


def churn(port: str) -> None:
    """Open and close listening sockets all the time."""
    for address in itertools.islice(addresses(), 4):
        if child():
            while True:
                listen(address, int(port)).close()


KEPT: list[socket.socket] = []
VERBS = (listeners, memory, tables, threads, churn)


def main() -> None:
    """Do what the arguments say."""
    more_descriptors()
    verb, *arguments = sys.argv[1:]
    {one.__name__: one for one in VERBS}[verb](*arguments)
    print("there", flush=True)
    signal.pause()


if __name__ == "__main__":
    main()
