"""The exceptions of the program.

RunbookError                 message, hint, and the exit status it leads to
├── UsageError               2: the command line is wrong
├── DocumentError            2: a runbook file is wrong; contains every problem with its position
├── NotBegun                 5: the run could not begin; nothing was changed
│   └── BusUnavailable       5: systemd cannot be reached
├── Locked                   75: another run has the lock of a unit; nothing was changed
├── HostError                1: the machine refused an action or a query
│   ├── AccessDenied         the bus or the kernel does not permit it to this user
│   ├── NoSuchUnit           systemd finds no unit of this name
│   ├── UnitMasked           the unit is masked
│   ├── BusTimeout           systemd did not answer in time
│   ├── LookLimitExceeded    the processes or sockets of the machine cannot all be read
│   └── BusLost              the connection broke during a call
└── Interrupted              130/143: SIGINT or SIGTERM

A class exists only if something reacts to it. Only `cli` prints an error or exits.
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
    """The base of all. `message` reads "cannot VERB OBJECT: CAUSE"; `hint` names the next command or setting."""

    exit_status = EXIT_FAILED

    def __init__(self, message: str, *, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(RunbookError):
    """The command line is wrong."""

    exit_status = EXIT_INVALID


@dataclass(frozen=True, order=True)
class Problem:
    """One mistake in a file. `line` and `column` count from 1, as in editors."""

    file: str
    line: int
    column: int
    message: str
    hint: str = ""  # what to write instead

    def __str__(self) -> str:
        hint = f"; {self.hint}" if self.hint else ""
        return f"{self.file}:{self.line}:{self.column}: {self.message}{hint}"


class DocumentError(RunbookError):
    """A runbook file is wrong. `problems` are all of its mistakes, in the order of the file."""

    exit_status = EXIT_INVALID

    def __init__(self, problems: list[Problem]) -> None:
        super().__init__("\n".join(str(problem) for problem in problems))
        self.problems = problems


class NotBegun(RunbookError):
    """The run could not begin. Nothing was changed."""

    exit_status = EXIT_NOT_BEGUN


class BusUnavailable(NotBegun):
    """systemd cannot be reached: there is no bus socket, or no process behind it."""


class Locked(RunbookError):
    """Another run acts on the same unit. Nothing was changed."""

    exit_status = EXIT_LOCKED


class HostError(RunbookError):
    """The machine refused an action or a query. `dbus_error` is the name of the D-Bus error, if there is one."""

    def __init__(self, message: str, *, hint: str = "", dbus_error: str = "") -> None:
        super().__init__(message, hint=hint)
        self.dbus_error = dbus_error


class AccessDenied(HostError):
    """This user does not have the permission."""


class NoSuchUnit(HostError):
    """There is no unit of this name, or systemd has not loaded it."""


class UnitMasked(HostError):
    """The unit is masked. An operator has decided that, and it is never overridden."""


class BusTimeout(HostError):
    """systemd did not answer within the call's time-out. The request may still take effect."""


class LookLimitExceeded(HostError):
    """The processes or sockets of the machine could not all be read: that took too long, or there are too many."""


class BusLost(HostError):
    """The connection to the bus broke during a call. The request may have taken effect."""


class Interrupted(RunbookError):
    """The program got SIGINT or SIGTERM. `still_running` names what could not be stopped, if anything."""

    def __init__(self, signum: int) -> None:
        super().__init__(f"interrupted by {signal.Signals(signum).name}")
        self.signum = signum
        self.still_running = ""
        self.exit_status = 128 + signum
