"""The service that the restarts are measured with: it listens a tenth of a second after its start, and answers HTTP.

Only the modules that it needs are loaded, so that the start takes no longer: `python3 -I -S server.py PORT`.
"""

import socket
import sys
import time

LISTENS_AFTER = 0.1
ANSWER = b"HTTP/1.1 200 OK\r\nContent-Length: 3\r\nConnection: close\r\n\r\nok\n"


def main() -> None:
    """Listen and answer until killed."""
    with open("/proc/self/stat") as stat:  # noqa: PTH123 - pathlib takes its time to load
        ticks = int(stat.read().rpartition(")")[2].split()[19])
    started = ticks / 100
    time.sleep(max(0.0, started + LISTENS_AFTER - time.clock_gettime(time.CLOCK_BOOTTIME)))
    server = socket.create_server(("127.0.0.1", int(sys.argv[1])))
    print("ready", flush=True)
    while True:
        caller, _ = server.accept()
        with caller:
            caller.recv(4096)
            caller.sendall(ANSWER)


if __name__ == "__main__":
    main()
