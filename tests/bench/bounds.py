"""How long `runbook check` takes, and how much memory, beside a user without rights who wants to hold it up."""

from __future__ import annotations

from tests.bench.report import Figures
from tests.bench.rivals import PORT, VERIFY_FILE
from tests.machine.bounds.staging import hostile, measure
from tests.machine.machine import Machine

ALONE = "no other user"
MANY, IN_MANY = "6,000 listeners, 1 process", "6,000 listeners, 500 processes"
COMMAND_LINE, VARIABLES = "a command line of 2 GiB", "an environment of 2 GiB"

USERS = {
    MANY: ("listeners", f"{PORT}", "6000"),
    IN_MANY: ("listeners", f"{PORT}", "6000", "500"),
    COMMAND_LINE: ("memory", "arg", "2", f"{PORT}"),
    VARIABLES: ("memory", "env", "2", f"{PORT}"),
}
"""What hostile.py does on the port of the service, on other addresses."""

MOST_SECONDS = {MANY: 3, IN_MANY: 3, COMMAND_LINE: 1, VARIABLES: 1}
MOST_MIB = 100


def measure_checks(machine: Machine, rounds: int) -> tuple[Figures, Figures]:
    """Return the seconds and the MiB of a check of the port, alone and beside each of the users."""
    seconds, mib = {}, {}
    seconds[ALONE], mib[ALONE] = _rounds(machine, rounds)
    for name, words in USERS.items():
        with hostile(machine, *words):
            seconds[name], mib[name] = _rounds(machine, rounds)
    return seconds, mib


def _rounds(machine: Machine, rounds: int) -> tuple[list[float], list[float]]:
    """The first round warms the caches, and is not counted."""
    took = [measure(machine, path=VERIFY_FILE) for _ in range(rounds + 1)][1:]
    assert all(one.run.step("verify-port-owner")["verdict"] == "owned" for one in took)
    return [one.seconds for one in took], [one.mib for one in took]
