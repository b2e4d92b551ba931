"""Queries and commands as plain data: what a host is asked to read, probe or run, and the answers."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field
from enum import StrEnum
from typing import Generic, NamedTuple, TypeVar

from runbook.model import Port, ProcessId, frozen

T_co = TypeVar("T_co", covariant=True)


class QueryKind(Generic[T_co]):
    """What is asked. `T` is the type of the answer's value; None if there is only a yes or a no."""


@frozen
class Query(Generic[T_co]):
    """A query that may take a while: a probe, a read of the journal or of files, a command that only reads."""

    kind: QueryKind[T_co]  # what is asked
    id: int  # A query that is equal to an earlier one gets its answer; another id makes it a new query
    timeout: float  # seconds until it is stopped
    netns_process: ProcessId | None = None  # whose network namespace it runs in; None for this program's own


@frozen
class Answer(Generic[T_co]):
    """The answer to a query, good or bad. A time-out, a refusal and a missing file are bad answers, not exceptions."""

    ok: bool  # True if the probe passed, the command exited with status 0, or the journal or the files could be read
    detail: str  # what went wrong, or what a probe found: the end of a sentence that names the query
    value: T_co | None = None
    """What was read or printed. None if there is nothing; what a command printed before it failed is here as well."""
    reached_port: Port | None = None  # the port of this machine that a probe reached; None if it reached none of it
    is_wrong: bool = False  # True if what was probed answered, and not as expected: waiting will not change that


@frozen
class Command(QueryKind[str]):
    """A command to run. As a query it is answered by its output, stdout and stderr together."""

    argv: tuple[str, ...]  # the program and its arguments
    user: str = ""  # the user to run it as; empty for the caller
    cwd: str = ""  # the working directory; empty for `/`
    env: Mapping[str, str] = field(default_factory=dict, hash=False)  # all variables to add to the user's environment
    timeout: float = 60.0  # seconds
    output: str = ""  # the file for its output; its unit writes the result to a file beside it. Empty for a query
    keep_output: bool = True  # if False, the output goes to /dev/null
    token: str = ""  # written into the result, so that the result of one attempt is not taken for that of another

    @property
    def script(self) -> str | None:
        """The text of a script for `/bin/sh -e`, if it is one."""
        return self.argv[-1] if self.argv[:-1] == ("/bin/sh", "-e", "-c") else None

    def __str__(self) -> str:
        # The operator wrote the script, not the shell around it.
        return " ".join(self.argv) if self.script is None else self.script


class CommandResult(NamedTuple):
    """The result of a command that ran in a unit of its own."""

    result: str  # systemd's Result: `success`, `exit-code`, `timeout`, …
    status: int  # the exit status, or the number of the signal
    output: str = ""  # the end of its output

    @property
    def succeeded(self) -> bool:
        """True if it exited by itself with status 0."""
        return self.result == "success"

    def describe(self) -> str:
        """Return the result in words: "exited with status 3"."""
        match self.result:
            case "success":
                return "exited with status 0"
            case "exit-code":
                return f"exited with status {self.status}"
            case "signal" | "core-dump":
                return f"was killed by signal {self.status}"
            case "timeout":
                return "did not exit in time and was stopped"
            case other:
                return f"failed ({other})"


@frozen
class TcpProbe(QueryKind[str]):
    """Passes if a TCP connection is established. Answered by what the server sends first, if that is waited for."""

    host: str
    port: int
    greeting_wait: float = 0.0  # seconds to wait for the server to send something first

    def __str__(self) -> str:
        return f"tcp {self.host}:{self.port}"


@frozen
class HttpProbe(QueryKind[str]):
    """Passes if one GET request gets an expected response. Answered by the body."""

    url: str
    status: tuple[int, ...] = (200,)  # the statuses that are accepted
    body: str = ""  # A pattern to find in the body, if any
    headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"http {self.url}"


@frozen
class WebsocketProbe(QueryKind[None]):
    """Passes if a websocket opens, and the server does not close it at once."""

    url: str
    headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"websocket {self.url}"


class LogSettings(NamedTuple):
    """What keeps entries of a unit out of the journal. A rate limit of 0 is that of journald.conf."""

    since: float = 0.0  # when its invocation began, in seconds since the epoch
    since_monotonic: float = 0.0  # the same, by the monotonic clock
    rate_seconds: float = 0.0  # LogRateLimitIntervalSec=
    rate_burst: int = 0  # LogRateLimitBurst=
    max_level: int = -1  # LogLevelMax=, as a number of syslog(3); -1 if it has none
    has_patterns: bool = False  # True if it has LogFilterPatterns=


@frozen
class JournalProbe(QueryKind[None]):
    """Passes if a pattern is found in what the processes of one invocation wrote into the journal."""

    pattern: str
    unit: str
    invocation: str
    leftovers: tuple[int, ...] = ()  # PIDs of earlier invocations: journald files their entries under the current one
    settings: LogSettings | None = None  # for the reason why a pattern is not found; None if they are not known

    def __str__(self) -> str:
        return f"journal {self.pattern}"


class FileChange(NamedTuple):
    """The latest change among some files."""

    path: str  # the file, folder or link that changed last
    changed: float  # when, in seconds since the epoch
    files: int  # how many files were read


@frozen
class LatestChangeQuery(QueryKind[FileChange]):
    """Reads which file changed last among files, folders with all that they contain, and glob patterns."""

    paths: tuple[str, ...]

    def __str__(self) -> str:
        return f"latest change of {', '.join(self.paths)}"


class FileText(NamedTuple):
    """A file that is there."""

    path: str
    text: str = ""  # its first 64 KiB; empty if it cannot be read
    error: str = ""  # why it cannot be read; empty if it can
    uid: int = 0  # its owner
    changed: float = 0.0  # when its content changed last, in seconds since the epoch


@frozen
class FileTextsQuery(QueryKind[tuple[FileText, ...]]):
    """Reads small files. Those that are missing are missing in the answer."""

    paths: tuple[str, ...]

    def __str__(self) -> str:
        return f"text of {', '.join(self.paths)}"


class OtherManagers(NamedTuple):
    """The managers, besides the one that was asked, that have a unit of some name."""

    system: bool = False
    own: bool = False  # True for the user manager of the caller
    users: tuple[str, ...] = ()  # the other users whose manager has it; none if the caller is not root


@frozen
class OtherManagersQuery(QueryKind[OtherManagers]):
    """Looks for the file of a unit in the folders of other managers."""

    unit: str
    of_user: bool  # True if the caller's own user manager does not have it

    def __str__(self) -> str:
        return f"other managers with {self.unit}"


@frozen
class JournalQuery(QueryKind[T_co]):
    """Reads what the journal has of a unit."""

    unit: str
    of_user: bool = field(default=False, kw_only=True)  # True for a unit of the user's own manager


class JournalLine(NamedTuple):
    """One line of a journal entry."""

    pid: int  # the process that wrote it; 0 if the entry does not name one
    text: str
    at: float = 0.0  # when, in seconds since the epoch; 0 if the entry does not have it


@frozen
class JournalTailQuery(JournalQuery[tuple[JournalLine, ...]]):
    """Reads the last lines that a unit's processes wrote into the journal, or that its manager logged of it."""

    since: float  # seconds since the epoch
    lines: int = 10  # how many lines at most
    pids: tuple[int, ...] = ()  # if any, the lines of these processes instead, whatever unit they are in
    of_manager: bool = False  # if True, warnings and errors of the unit's manager instead
    invocation: str = ""  # if any, only what the manager logged of this invocation
    latest: bool = False  # if True, only what the manager logged at the same time as the last of these lines

    def __str__(self) -> str:
        of = f"what systemd logged of {self.unit}" if self.of_manager else f"journal tail of {self.unit}"
        return of if self.unit else f"journal tail of PID {', '.join(map(str, self.pids))}"


class StartEventKind(StrEnum):
    """What an event does to the start-limit counter."""

    START = "start"  # a start that was requested
    RESTART = "restart"  # a start by systemd itself, as Restart= demands
    CLEARED = "cleared"
    RESET = "reset"  # cleared by a step of this program


class StartEvent(NamedTuple):
    """A start of a unit, or a moment at which systemd cleared its start-limit counter."""

    at: float  # seconds since the epoch
    kind: StartEventKind


@frozen
class StartTimesQuery(JournalQuery[tuple[StartEvent, ...]]):
    """Reads from the journal when a unit was started."""

    since: float  # seconds since the epoch

    def __str__(self) -> str:
        return f"starts of {self.unit}"


class PreviousExit(NamedTuple):
    """How the previous invocation of a unit ended. `command`, `code` and `status` are of the first process to fail."""

    result: str = ""  # systemd's Result; empty if the journal does not have it
    started: bool = False  # True if the start had completed
    command: str = ""  # the setting that the process was started by (`ExecStart`); empty if none failed
    code: str = ""  # `exited`, `killed` or `dumped`
    status: int = 0  # the exit status, or the number of the signal


@frozen
class PreviousExitQuery(JournalQuery[PreviousExit]):
    """Reads from the journal how the previous invocation ended; no value if this one is not in the journal yet."""

    invocation: str  # the current invocation

    def __str__(self) -> str:
        return f"exit before {self.invocation} of {self.unit}"
