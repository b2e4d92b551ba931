"""Measures times inside a machine: `python -m tests.bench.inside ports|starts|restarts|machines ROUNDS` prints JSON.

The programs that are compared take turns, so that a busy moment of the computer affects all of them. The first round
warms the caches, and is not counted.
"""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from runbook import document
from runbook.host.kernel.sock_diag import SocketTable
from runbook.host.local import LocalHost
from runbook.model import Deadline, Port, Verdict
from runbook.spec.state import RunState
from tests.bench import rivals
from tests.bench.rivals import PORT, UNIT
from tests.machine.tree import RIVALS_VENV

VERDICT, LOOK, CHECK = "runbook, a full verdict", "runbook, the look of a wait", "runbook, a check of a wait"

OFTEN = 300
"""Rounds of the measurements that take microseconds."""

WAIT = f"""\
unit: {UNIT}
port: {PORT}
steps: [wait-ready: {{healthy-for: 1h, timeout: 2h, probes: [http: {{url: "{rivals.URL}"}}]}}]
"""


def in_turns(acts: Mapping[str, Callable[[], object]], rounds: int) -> dict[str, list[float]]:
    """Return the seconds that each function takes, round after round."""
    took: dict[str, list[float]] = {name: [] for name in acts}
    for _ in range(rounds + 1):
        for name, act in acts.items():
            began = time.perf_counter()
            act()
            took[name].append(time.perf_counter() - began)
    return {name: seconds[1:] for name, seconds in took.items()}


def command(argv: list[str]) -> Callable[[], object]:
    """Return a function that runs a command, which must succeed."""
    return lambda: subprocess.run(argv, check=True, stdin=subprocess.DEVNULL, capture_output=True)


def ports(rounds: int) -> dict[str, list[float]]:
    """Measure how long each program takes to find the holder of the port."""
    sys.path += map(str, RIVALS_VENV.glob("lib/python3*/site-packages"))
    import psutil  # type: ignore[import-untyped, unused-ignore]

    def ask_psutil() -> None:
        found = psutil.net_connections("tcp")
        assert [one for one in found if one.status == psutil.CONN_LISTEN and one.laddr.port == PORT]

    port = Port(PORT)
    step = document.parse(WAIT).steps[0]
    state = step.new_state(RunState("bench", Path("/root")))
    with LocalHost() as host, SocketTable() as table:
        unit = host.unit(UNIT)

        def verdict() -> None:
            # The verdict includes a second read of the unit, after the processes.
            assert host.judge_port(unit, port).verdict is Verdict.OWNED

        def check() -> None:
            assert step.check(host, state).verdict is Verdict.STILL_STARTING

        while "healthy for" not in (finding := step.check(host, state)).reason:
            assert finding.wake is not None, finding.reason
            host.wait(finding.wake, Deadline.after(host.clock, 10))
        # The command does so before it begins, too: loaded modules are no garbage.
        gc.freeze()
        took = in_turns({LOOK: lambda: table.list_inodes(port), CHECK: check}, OFTEN)
        acts = {VERDICT: verdict, rivals.PSUTIL: ask_psutil}
        whole = {name: command(argv) for name, argv in {**rivals.WHO_HAS_THE_PORT, **rivals.DIAGNOSES}.items()}
        return took | in_turns({**acts, **whole}, rounds)


def commands(which: Mapping[str, list[str]], rounds: int) -> dict[str, list[float]]:
    """Measure whole commands."""
    return in_turns({name: command(argv) for name, argv in which.items()}, rounds)


def main() -> None:
    """Run the measurement that the arguments name."""
    what, rounds = sys.argv[1], int(sys.argv[2])
    if what == "ports":
        took = ports(rounds)
    else:
        which = {"starts": rivals.STARTS, "restarts": rivals.RESTARTS, "machines": rivals.MACHINES}
        took = commands(which[what], rounds)
    print(json.dumps(took))


if __name__ == "__main__":
    main()
