"""Hundreds of processes come and go during kill-orphan. Only processes that were judged are killed."""

from __future__ import annotations

import time

from tests.machine.conftest import StartService
from tests.machine.incident import holders
from tests.machine.machine import Machine, until
from tests.machine.runs import unit_file

from .staging import ACTORS, actor, cleared, down, holding, kill, listening, scope

COUNT = "/run/storm"


def _counted(machine: Machine) -> tuple[int, int]:
    """Return how many children of the storm have exited so far, and how many were killed by a signal."""
    words = machine.run(["cat", COUNT], check=False).stdout.split()
    return (int(words[0]), int(words[1])) if words else (0, 0)


def test_no_process_beside_changing_holders_is_killed(machine: Machine, service: StartService) -> None:
    """Holders exec, exit, lose their parents, and close the socket. Beside them a live service forks children."""
    down(service, machine)
    service("storm.service", unit_file(f"/usr/bin/python3 {ACTORS} storm 0 {COUNT}"))
    until(lambda: _counted(machine)[0], "the storm to begin")
    verdicts = []
    for number in range(3):
        port = 9401 + number
        with cleared(machine, "churn.scope"):
            scope(machine, "churn.scope", actor("churn", port))
            listening(machine, {port})
            began = time.monotonic()
            run = kill(machine, port, grace="500ms")
            assert time.monotonic() - began < 60
            verdict = run.step("kill-orphan")["verdict"]
            assert verdict in ("killed", "port-still-held", "refused-to-kill"), run.last
            if verdict == "killed":
                assert not holders(machine, port)
            verdicts.append(verdict)
    exited, killed = _counted(machine)
    assert killed == 0
    assert exited > 100
    assert machine.show("storm.service", "NRestarts", "ActiveState") == {"NRestarts": "0", "ActiveState": "active"}
    print(f"{exited} children of the storm exited, {killed} were killed; {verdicts}")


def test_a_live_service_that_receives_the_socket_is_not_killed(machine: Machine, service: StartService) -> None:
    """An orphan holds the socket when it is judged. On TERM it passes the socket to a live service."""
    down(service, machine)
    service(
        "takes.service", unit_file(f"/usr/bin/python3 {ACTORS} takes 0 /run/takes", ExecStopPost="/bin/rm /run/takes")
    )
    until(lambda: machine.run(["test", "-S", "/run/takes"], check=False).returncode == 0, "the service to be ready")
    main = machine.show("takes.service", "MainPID")["MainPID"]
    with cleared(machine, "hands.scope"):
        scope(machine, "hands.scope", actor("hands_on", 9411, "/run/takes"))
        listening(machine, {9411})
        run = kill(machine, 9411)
        step = run.step("kill-orphan")
        assert (run.exit, step["verdict"]) == (1, "refused-to-kill"), step["reason"]
        assert "takes.service is a live service" in step["reason"]
        assert {str(one.pid) for one in holding(machine, 9411)} == {main}
