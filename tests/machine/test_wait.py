"""A change that wait-ready must find although no event announces it."""

from __future__ import annotations

import json

from tests.machine.conftest import StartService
from tests.machine.machine import Machine, until
from tests.machine.runs import RUNBOOK, unit_file, write_runbook

SERVER = """
import socket, threading
server = socket.create_server(("127.0.0.1", 9101))
door = socket.socket(socket.AF_UNIX)
door.bind("/run/door")
door.listen()
def hand_out():
    while True:
        caller, _ = door.accept()
        socket.send_fds(caller, [b"x"], [server.fileno()])
threading.Thread(target=hand_out, daemon=True).start()
while True:
    server.accept()[0].close()
    print("asked", flush=True)
"""

TAKER = """
import socket, sys
door = socket.socket(socket.AF_UNIX)
door.connect("/run/door")
socket.recv_fds(door, 1, 1)
print("got it", flush=True)
sys.stdin.read()
"""

BOOK = """
    unit: giver
    port: 9101
    steps:
      - wait-ready: {healthy-for: 20s, timeout: 40s, probes: [tcp: {port: 9101}]}
"""


def test_a_socket_passed_to_another_process_during_the_wait_is_found(machine: Machine, service: StartService) -> None:
    """The socket, the unit and the earlier holders stay the same, so systemd and netlink report no change."""
    machine.write("/opt/giver.py", SERVER)
    unit = service("giver.service", unit_file("/usr/bin/python3 /opt/giver.py"))
    write_runbook(machine, BOOK)
    with machine.popen(["runbook", "apply", RUNBOOK, "--output", "json"]) as waiting:

        def rounds() -> int:
            return machine.run(["journalctl", "-u", unit, "-o", "cat"]).stdout.count("asked")

        until(lambda: rounds() > 2, "the healthy-for window to have begun", 20)
        scope = ["systemd-run", "--quiet", "--scope", "--slice=user.slice", "python3", "-c", TAKER]
        with machine.popen(scope, stdin=-1) as taker:
            assert taker.stdout is not None
            assert taker.stdout.readline() == "got it\n"
            out, _ = waiting.communicate(timeout=40)
            taker.communicate()
    events = [json.loads(line) for line in out.splitlines()]
    (step,) = [event for event in events if event["event"] == "step-finished"]
    assert (step["verdict"], waiting.returncode) == ("port-shared", 1), step["reason"]
    assert [holder["role"] for holder in step["evidence"]["ports"][0]["holders"]] == ["current", "orphan"]
