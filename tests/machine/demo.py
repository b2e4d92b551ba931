"""`make demo`: the incident staged in a throwaway machine, shown, planned, fixed and proved.

Exits with 0 only if systemd, the kernel and the service prove the result. They are queried here, not by runbook.
"""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path

from tests.machine.incident import NEW, PORT, UNIT, Incident, answer, control_group, holders, loop, stage
from tests.machine.machine import Machine

RUNBOOK = "/root/upgrade.yaml"
WIDTH = 80
PAUSE = 0.7
"""Seconds of a pause after each of the four headings."""


def main() -> int:
    started = time.monotonic()
    say("A throwaway Debian boots. Its gateway needs an upgrade, but cannot start:")
    say(f"an older copy, started by hand in a login session, holds port {PORT}.")
    with Machine("bookworm") as machine:
        incident = stage(machine)
        loop(machine)
        machine.write(RUNBOOK, Path(__file__).with_name("demo.yaml").read_text())

        heading(1, "Two sources")
        look(machine)
        say()
        say(f"systemd   the unit is active (running), PID {main_pid(machine)}.")
        say(f"kernel    the port is PID {incident.orphan}'s, in {control_group(machine, incident.orphan)}.")
        say()
        say("Each process that systemd starts finds the port in use and exits, and systemd")
        say("starts another one. Meanwhile the old copy answers every probe.")

        heading(2, "The plan")
        show(machine, ["runbook", "apply", "--dry-run", RUNBOOK])

        heading(3, "The run")
        status = show(machine, ["runbook", "apply", RUNBOOK])

        heading(4, "The proof")
        look(machine)
        wrong = [] if status == 0 else [f"runbook apply exited with status {status}"]
        wrong += disproved(machine, incident)
    say()
    if wrong:
        say("NOT PROVED")
        for reason in wrong:
            say(f"  {reason}")
        return 1
    say(f"Proved: {UNIT} runs {NEW}; port {PORT} is its main process's alone.")
    say(f"The machine is gone. {time.monotonic() - started:.0f} seconds.")
    return 0


def disproved(machine: Machine, incident: Incident) -> list[str]:
    """Return the facts that contradict the promised result; none if it is proved."""
    wrong = []
    state = machine.show(UNIT, "ActiveState", "SubState")
    if state != {"ActiveState": "active", "SubState": "running"}:
        wrong.append(f"{UNIT} is {state['ActiveState']} ({state['SubState']})")
    held = {(holder.address, holder.pid) for holder in holders(machine)}
    if held != {(f"127.0.0.1:{PORT}", main_pid(machine)), (f"[::1]:{PORT}", main_pid(machine))}:
        wrong.append(f"port {PORT} is held by {sorted(held)}, MainPID is {main_pid(machine)}")
    if machine.run(["kill", "-0", str(incident.orphan)], check=False).returncode == 0:
        wrong.append(f"PID {incident.orphan} still runs")
    try:
        answered = answer(machine)
    except subprocess.CalledProcessError as silent:
        return [*wrong, f"the gateway does not answer: {silent}"]
    if answered != {"version": NEW, "pid": main_pid(machine)}:
        wrong.append(f"the gateway answers {answered}")
    return wrong


def main_pid(machine: Machine) -> int:
    return int(machine.show(UNIT, "MainPID")["MainPID"])


def look(machine: Machine) -> None:
    """Run the commands with which an administrator queries systemd, the kernel and the service."""
    show(machine, ["systemctl", "status", "--no-pager", "--lines=0", UNIT], only=("Active:", "Main PID:"))
    show(machine, ["systemctl", "show", "--property=NRestarts,Result", UNIT])
    show(machine, ["ss", "-Hltnp", f"sport = :{PORT}"])
    show(machine, ["curl", "-sS", f"http://127.0.0.1:{PORT}/"])


def show(machine: Machine, argv: list[str], only: tuple[str, ...] = ()) -> int:
    """Print a command and its output (with `only`: the lines that contain these words), and return its exit status."""
    say(f"\n  $ {' '.join(word if ' ' not in word else repr(word) for word in argv)}")
    if argv[0] == "runbook":
        # The output is not captured: on a terminal runbook draws its live view, in a pipe it prints plain text.
        environment = {"TERM": os.environ.get("TERM", "dumb"), "COLUMNS": str(WIDTH)}
        with machine.popen(argv, env=environment, stdout=None, stderr=None) as process:
            return process.wait(timeout=120)
    done = machine.run(argv, check=False, env={"COLUMNS": str(WIDTH)})
    for line in (done.stdout + done.stderr).splitlines():
        if not only or any(word in line for word in only):
            say(("    " + "  ".join(line.split("  "))).replace("     ", "  ")[:WIDTH].rstrip())
    return done.returncode


def heading(number: int, title: str) -> None:
    time.sleep(PAUSE)
    say(f"\n{number}. {title} ".ljust(WIDTH + 1, "-"))
    time.sleep(PAUSE)


def say(text: str = "") -> None:
    print(text, flush=True)


if __name__ == "__main__":
    sys.exit(main())
