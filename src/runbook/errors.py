"""Everything that can go wrong, as data.

RunbookError                 message, hint, and the exit status it leads to
├── UsageError               2: the command line is wrong
├── DocumentError            2: a runbook file is wrong; holds every problem with its place
├── NotBegun                 5: the run could not begin; nothing was touched
│   └── BusUnavailable       5: there is no systemd to talk to
├── Locked                   75: another run holds the lock of a unit; nothing was touched
├── HostError                1: the machine said no
│   ├── AccessDenied         the bus or the kernel does not let this user do it
│   ├── NoSuchUnit           systemd knows no unit of this name
│   ├── UnitMasked           the operator masked the unit
│   ├── BusTimeout           systemd did not answer in time
│   └── BusLost              the connection broke in the middle
└── Interrupted              130/143: SIGINT or SIGTERM

A class of its own exists only where something reacts to it. Only `cli` prints an error or exits.
"""

from __future__ import annotations

import signal
from dataclasses import dataclass

EXIT_OK = 0
EXIT_FAILED = 1
EXIT_INVALID = 2
EXIT_STILL_STARTING = 3
EXIT_ROLLED_BACK = 4
EXIT_NOT_BEGUN = 5
EXIT_REMEDIATED = 6
EXIT_LOCKED = 75


class RunbookError(Exception):
    """The root. `message` reads "cannot VERB OBJECT: CAUSE"; `hint` names the next command or setting."""

    exit_status = EXIT_FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(RunbookError):
    """The command line cannot be carried out as it stands."""

    exit_status = EXIT_INVALID


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in a file. `line` and `column` count from 1, as editors do."""

    file: str
    line: int
    column: int
    message: str

    def __str__(self) -> str:
        return f"{self.file}:{self.line}:{self.column}: {self.message}"


class DocumentError(RunbookError):
    """A runbook file is wrong. `problems` holds all of its mistakes, in the order of the file."""

    exit_status = EXIT_INVALID

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class NotBegun(RunbookError):
    """The run could not begin. Nothing was touched."""

    exit_status = EXIT_NOT_BEGUN


class BusUnavailable(NotBegun):
    """No systemd answers here: no bus socket, nobody on it, or a container without an init."""


class Locked(RunbookError):
    """Another run acts on the same unit. Nothing was touched."""

    exit_status = EXIT_LOCKED


class HostError(RunbookError):
    """The machine refused. `remote` is the D-Bus error's name where there is one."""

    def __init__(self, message: str, *, hint: str = "", dbus_error: str = "") -> None:
        super().__init__(message, hint=hint)
        self.dbus_error = dbus_error


class AccessDenied(HostError):
    """This user may not do that."""


class NoSuchUnit(HostError):
    """systemd knows no unit of this name, or has not loaded it."""


class UnitMasked(HostError):
    """The unit is masked: an operator's decision, which is never overridden."""


class BusTimeout(HostError):
    """systemd did not answer within the call's time-out. What was asked may still happen."""


class BusLost(HostError):
    """The bus went away while the call was under way. What was asked may have happened."""


class Interrupted(RunbookError):
    """SIGINT or SIGTERM reached the program. `signum` is the signal's number.

    `goes_on` says what could not be stopped for it, if there is such a thing.
    """

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum
        self.still_running = ""
        self.exit_status = 128 + signum
