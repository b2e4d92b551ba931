"""`make bench`: how long whole commands take, as ratios in one run, in a throwaway machine.

The commands take turns, so that a busy moment of this computer meets all of them; the ratio is that of the medians.
"""

from __future__ import annotations

import json
import statistics
import subprocess
import sys
import time
from pathlib import Path

from tests.machine.incident import PORT, UNIT, holders, install_gateway
from tests.machine.machine import Machine, until
from tests.machine.runs import parsed, write_runbook

ROUNDS = 20
WAITS = 10
PYTHON = "/opt/venv/bin/python"
VERIFY = "/root/verify.yaml"
WAIT = "/root/wait.yaml"

COMMANDS = {
    "bare interpreter": [PYTHON, "-c", "pass"],
    "systemctl show": ["systemctl", "show", UNIT],
    "ss -tlnp": ["ss", "-Htlnp", f"sport = :{PORT}"],
    "runbook --help": ["runbook", "--help"],
    "runbook validate": ["runbook", "validate", VERIFY],
    "runbook check, one verify-port-owner": ["runbook", "check", VERIFY, "--output", "json"],
    "runbook apply, one verify-port-owner": ["runbook", "apply", VERIFY, "--output", "json"],
}


def measure() -> None:
    """Run the commands in turns, inside the machine; print their seconds as JSON."""
    took: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(ROUNDS + 1):
        for name, argv in COMMANDS.items():
            began = time.perf_counter()
            subprocess.run(argv, check=True, stdout=subprocess.DEVNULL)
            took[name].append(time.perf_counter() - began)
    # The first round warms the file cache.
    print(json.dumps({name: seconds[1:] for name, seconds in took.items()}))


def main() -> int:
    """Boot a machine with a healthy gateway, measure, and print the tables."""
    with Machine("bookworm") as machine:
        install_gateway(machine, start_seconds=0.3)
        machine.run(["systemctl", "start", UNIT])
        until(lambda: len(holders(machine)) == len(("IPv4", "IPv6")), "the gateway to listen")
        write_runbook(machine, f"unit: {UNIT}\nport: {PORT}\nsteps: [verify-port-owner]\n", VERIFY)
        here = Path("/opt/runbook") / Path(__file__).relative_to(Path(__file__).parents[2])
        inside = {"PYTHONPATH": "/opt/runbook", "PYTHONDONTWRITEBYTECODE": "1"}
        done = machine.run([PYTHON, str(here), "--inside"], env=inside, timeout=300)
        commands(json.loads(done.stdout))
        waits(machine)
    return 0


def commands(took: dict[str, list[float]]) -> None:
    """Print the whole commands, held against the bare interpreter and against systemctl."""
    medians = {name: statistics.median(seconds) for name, seconds in took.items()}
    print(f"whole commands, {ROUNDS} rounds in turns; median, and the ratio of the medians\n")
    print(f"{'':38}{'ms':>8}{'least':>8}{'most':>8}{'x python':>10}{'x systemctl':>13}")
    for name, median in medians.items():
        seconds = took[name]
        against = [median / medians[other] for other in ("bare interpreter", "systemctl show")]
        figures = f"{median * 1e3:8.1f}{min(seconds) * 1e3:8.1f}{max(seconds) * 1e3:8.1f}"
        print(f"{name:38}{figures}{against[0]:10.1f}{against[1]:13.1f}")


def waits(machine: Machine) -> None:
    """Print how late wait-ready is: from the moment when the last socket listens to the end of the step."""
    steps = "[reset-failed, restart, wait-ready: {healthy-for: 0, timeout: 20s}]"
    write_runbook(machine, f"unit: {UNIT}\nport: {PORT}\nsteps: {steps}\n", WAIT)
    late = []
    for _ in range(WAITS):
        done = machine.run(["runbook", "apply", WAIT, "--output", "json"])
        run = parsed(done.stdout, done.returncode)
        ready = next(e["time"] for e in run.of("step-finished") if e["id"] == "wait-ready")
        there = machine.run(["journalctl", "-u", UNIT, "-n", "1", "-g", "ready", "-o", "short-unix"]).stdout.split()[0]
        seconds = float(machine.run(["date", "-d", ready, "+%s.%N"]).stdout) - float(there)
        late.append(seconds * 1e3)
    print(f"\nwait-ready ends after the gateway says that it is ready, {WAITS} restarts: ", end="")
    print(f"median {statistics.median(late):.0f} ms, least {min(late):.0f}, most {max(late):.0f}")


if __name__ == "__main__":
    if "--inside" in sys.argv:
        measure()
    else:
        sys.exit(main())
