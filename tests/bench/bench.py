"""`make bench`: how long the program takes, compared with other programs that do the same, in a throwaway machine.

Each ratio is of two medians of one run, in which both sides took turns (tests/bench/inside.py).
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import platform
import statistics
import sys
from pathlib import Path

from tests.bench import rivals
from tests.bench.bounds import ALONE, MOST_MIB, MOST_SECONDS, measure_checks
from tests.bench.inside import CHECK, LOOK, VERDICT
from tests.bench.report import Figures, claims, growth, table
from tests.machine.machine import Machine, until
from tests.machine.runs import parsed, unit_file
from tests.machine.tree import PROJECT, VENV

SIZES = (300, 3000)
DESCRIPTORS = 20
ROUNDS = {"ports": 9, "starts": 15, "restarts": 5, "machines": 9, "bounds": 5}
SERVICES = 60  # of a common server, for the doctor of the whole machine
BESIDE = 4  # processes of each, beside the one that listens
WAITS = 10
PAGE = Path(__file__).parents[2] / "docs/explanation/speed.md"
PYTHON = f"{VENV}/bin/python"

# An installed program has compiled modules. The checkout is read-only inside, so they are compiled to another place.
ENVIRONMENT = {"PYTHONPATH": str(PROJECT), "PYTHONPYCACHEPREFIX": "/var/tmp/compiled"}


def measured(machine: Machine, what: str) -> Figures:
    """Measure inside the machine, and return the seconds."""
    argv = [PYTHON, "-m", "tests.bench.inside", what, str(ROUNDS[what])]
    took: Figures = json.loads(machine.run(argv, env=ENVIRONMENT, timeout=900).stdout)
    return took


def provide(machine: Machine) -> None:
    """Start the service, and install what the rivals need."""
    server = f"/usr/bin/python3 -I -S {inside('server.py')} {rivals.PORT}"
    # The bench restarts the service more often than a start limit allows.
    machine.write(f"/etc/systemd/system/{rivals.UNIT}", unit_file(server, Unit_StartLimitIntervalSec="0"))
    for path, text in rivals.FILES.items():
        machine.write(path, text)
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "start", rivals.UNIT])
    until(lambda: machine.run(rivals.WHO_HAS_THE_PORT[rivals.SS]).stdout, "the service to listen")


def inside(name: str) -> str:
    """Return the path inside the machine of a file of this folder."""
    return str(PROJECT / Path(__file__).with_name(name).relative_to(Path(__file__).parents[2]))


def processes(machine: Machine) -> int:
    """Count the processes of the machine."""
    return sum(name.isdecimal() for name in machine.run(["ls", "/proc"]).stdout.split())


def fill(machine: Machine, size: int) -> None:
    """Start processes until the machine has `size` of them."""
    missing = size - processes(machine)
    made = ["systemd-run", "--quiet", "--property=Type=oneshot", "--property=RemainAfterExit=yes"]
    made.append("--property=TasksMax=infinity")
    machine.run([*made, PYTHON, inside("crowd.py"), str(missing), str(DESCRIPTORS)], timeout=120)


def provide_services(machine: Machine) -> None:
    """Start as many services as a common server has: each listens on a port, and has five processes."""
    script = (
        f"{PYTHON} {inside('crowd.py')} {BESIDE} {DESCRIPTORS}; exec /usr/bin/python3 -I -S {inside('server.py')} %i"
    )
    machine.write("/etc/systemd/system/serving@.service", unit_file(f"/bin/sh -c '{script}'"))
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "start", *(f"serving@{20_000 + number}.service" for number in range(SERVICES))])
    serving = ["sh", "-c", "ss -Htln | grep -c ':20[0-9][0-9][0-9]'"]
    until(lambda: int(machine.run(serving, check=False).stdout) == SERVICES, "the services to listen")


def first_line(machine: Machine, argv: list[str]) -> str:
    """Return the first line that a command prints."""
    return machine.run(argv, env=ENVIRONMENT).stdout.splitlines()[0].strip()


def lateness(machine: Machine) -> list[float]:
    """Return the seconds from the moment when the service listens to the end of wait-ready, for each restart."""
    late = []
    for _ in range(WAITS):
        done = machine.run(rivals.RESTARTS[rivals.UNASKED], env=ENVIRONMENT)
        run = parsed(done.stdout, done.returncode)
        ready = next(e["time"] for e in run.of("step-finished") if e["id"] == "wait-ready")
        there = machine.run(
            ["journalctl", "-u", rivals.UNIT, "-n", "1", "-g", "ready", "-o", "short-unix"]
        ).stdout.split()[0]
        late.append(float(machine.run(["date", "-d", ready, "+%s.%N"]).stdout) - float(there))
    return late


def main() -> int:
    """Measure and print; with `--record`, write the output into the page on speed as well."""
    if "--record" not in sys.argv:
        return bench()
    shown = io.StringIO()
    with contextlib.redirect_stdout(shown):
        bench()
    print(shown.getvalue(), end="")
    before, _, after = PAGE.read_text().partition("<!-- bench -->\n")
    _, _, after = after.partition("<!-- /bench -->\n")
    PAGE.write_text(f"{before}<!-- bench -->\n```text\n{shown.getvalue()}```\n<!-- /bench -->\n{after}")
    return 0


def bench() -> int:
    """Boot a machine with a healthy service, measure, and print the tables."""
    with Machine("bookworm", rivals=True) as machine:
        provide(machine)
        systemd = first_line(machine, ["systemctl", "--version"])
        load = os.getloadavg()[0]
        print(f"Linux {platform.release()}, {systemd}, {os.cpu_count()} CPUs, load {load:.1f} before it began")
        print("; ".join(first_line(machine, argv) for argv in rivals.VERSIONS.values()))
        starts = measured(machine, "starts")
        restarts = measured(machine, "restarts")
        late = lateness(machine)
        provide_services(machine)
        crowd, machines = processes(machine), measured(machine, "machines")
        machine.run(["systemctl", "stop", "serving@*"])
        checks, memory = measure_checks(machine, ROUNDS["bounds"])
        ports = {}
        for size in SIZES:
            fill(machine, size)
            ports[size] = measured(machine, "ports")
    for size, took in ports.items():
        title = f"Who has the port, among {size} processes of {DESCRIPTORS} descriptors each"
        table(title, took, against=(rivals.SS,))
    growth("How it grows with the processes", ports)
    table("Whole commands", starts, against=(rivals.PYTHON, rivals.SHOW))
    table("A check of the port, beside a user without rights", checks, against=(ALONE,))
    table("The memory of that check", memory, against=(ALONE,), unit="MiB", factor=1)
    title = f"The whole machine, with {SERVICES} services more, {crowd} processes in all"
    table(title, machines, against=(rivals.BY_HAND_WHOLE,))
    table("Restart a service that listens after 0.1 s, and wait for it", restarts, against=(rivals.LOOP_OF_BASH,))
    print(f"\nwait-ready ends after the service says that it is ready, {WAITS} restarts: ", end="")
    median, least, most = (number * 1e3 for number in (statistics.median(late), min(late), max(late)))
    print(f"median {median:.0f} ms, least {least:.0f}, most {most:.0f}")
    claims([*requirements(ports, restarts, machines), *bounds(checks, memory)])
    return 0


def bounds(checks: Figures, memory: Figures) -> list[tuple[str, float, float]]:
    """Return the requirements on a check beside a user without rights."""
    found = []
    for name, most in MOST_SECONDS.items():
        words = f"{rivals.CHECK}, beside {name}, against"
        found.append((f"{words} {most} s", statistics.median(checks[name]) / most, 1.0))
        found.append((f"{words} {MOST_MIB} MiB", max(memory[name]) / MOST_MIB, 1.0))
    return found


def requirements(ports: dict[int, Figures], restarts: Figures, machines: Figures) -> list[tuple[str, float, float]]:
    """Return the requirements: a description, the measured ratio, and the largest ratio allowed."""
    found = []
    for size, took in ports.items():
        median = {name: statistics.median(seconds) for name, seconds in took.items()}
        for rival, most in ((rivals.SS, 0.5), (rivals.LSOF, 1), (rivals.FUSER, 1), (rivals.PSUTIL, 1)):
            words = f"{VERDICT}, among {size} processes, against {rival}"
            found.append((words, median[VERDICT] / median[rival], most))
        found += [(f"{name}, among {size} processes, against 1 ms", median[name] / 1e-3, 1) for name in (LOOK, CHECK)]
    doctor = statistics.median(ports[SIZES[0]][rivals.DOCTOR])
    found.append((f"{rivals.DOCTOR} UNIT, among {SIZES[0]} processes, against 300 ms", doctor / 0.3, 1))
    whole = statistics.median(machines[rivals.WHOLE])
    found.append((f"{rivals.WHOLE}, with {SERVICES} services more, against 1 s", whole, 1))
    few, many = (ports[size] for size in SIZES)
    for name in (LOOK, CHECK):
        words = f"{name}, among {SIZES[1]} processes against {SIZES[0]} (least of each)"
        found.append((words, min(many[name]) / min(few[name]), 1.2))
    median = {name: statistics.median(seconds) for name, seconds in restarts.items()}
    for name in (rivals.UNASKED, rivals.ASKED):
        found.append((f"restart: {name}, against {rivals.LOOP_OF_BASH}", median[name] / median[rivals.LOOP_OF_BASH], 1))
        found.append((f"restart: {name}, against {rivals.ANSIBLE}", median[name] / median[rivals.ANSIBLE], 0.2))
    return found


if __name__ == "__main__":
    sys.exit(main())
