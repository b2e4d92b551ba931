"""What a host can be asked to run or to ask, as plain data: commands, probes, and what came of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

from runbook.model import Port, ProcessId

SCRIPT_WORDS = 4
"""A script is `/bin/sh -e -c SCRIPT`."""


@dataclass(frozen=True)
class Command:
    """A command as it is to be started. `env` is the whole of what is added to the user's own environment.

    `timeout` is in seconds. `output` is the file that takes what it prints, and beside which its unit leaves how
    it ended; empty for a command that is only asked something. One that is not `kept` prints to nowhere.
    `token` stands in what its unit leaves: so the end of one try is not taken for that of another.
    """

    argv: tuple[str, ...]
    user: str = ""
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 60.0
    output: str = ""
    keep_output: bool = True
    token: str = ""

    @property
    def script(self) -> str | None:
        """The text of a script for `/bin/sh -e`, if it is one."""
        return self.argv[3] if self.argv[:3] == ("/bin/sh", "-e", "-c") and len(self.argv) == SCRIPT_WORDS else None

    def __hash__(self) -> int:
        return hash((self.argv, self.user, self.cwd, tuple(sorted(self.env.items())), self.timeout))

    def __str__(self) -> str:
        # People know a script by its text.
        return " ".join(self.argv) if self.script is None else self.script


@dataclass(frozen=True)
class CommandResult:
    """How a command ended. `result` is systemd's Result (`success`, `exit-code`, `timeout`, …)."""

    result: str
    status: int
    output: str = ""

    @property
    def succeeded(self) -> bool:
        """Whether it ended by itself, with status 0."""
        return self.result == "success"

    def describe(self) -> str:
        """Say how it ended: "ended with status 3"."""
        match self.result:
            case "success":
                return "ended with status 0"
            case "exit-code":
                return f"ended with status {self.status}"
            case "signal" | "core-dump":
                return f"was killed by signal {self.status}"
            case "timeout":
                return "did not end in time and was stopped"
            case other:
                return f"failed ({other})"


@dataclass(frozen=True)
class TcpProbe:
    """Connects, and is content when the connection stands."""

    host: str
    port: int

    def __str__(self) -> str:
        return f"tcp {self.host}:{self.port}"


@dataclass(frozen=True)
class HttpProbe:
    """Asks once with GET. `status` are the answers that will do, `body` a pattern to be found, if any."""

    url: str
    status: tuple[int, ...] = (200,)
    body: str = ""
    headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"http {self.url}"


@dataclass(frozen=True)
class WebsocketProbe:
    """Opens a websocket, and is content when it is not closed at once."""

    url: str
    headers: tuple[tuple[str, str], ...] = ()

    def __str__(self) -> str:
        return f"websocket {self.url}"


@dataclass(frozen=True)
class JournalProbe:
    """Looks for a pattern in what the processes of one invocation have written into the journal.

    `leftovers` are the PIDs of processes of earlier invocations that still live in the unit's cgroup: journald
    takes what they write for the current one's.
    """

    pattern: str
    invocation: str
    leftovers: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"journal {self.pattern}"


@dataclass(frozen=True)
class LatestChangeQuery:
    """Looks when any of these files, and what is in these folders, changed last; patterns are allowed.

    The answer's `output` is JSON: `path`, `changed` (seconds since the epoch), `files` (how many were seen).
    """

    paths: tuple[str, ...]

    def __str__(self) -> str:
        return f"latest change of {', '.join(self.paths)}"


@dataclass(frozen=True)
class JournalTailQuery:
    """Reads the last lines that a unit's processes wrote into the journal since a moment, in seconds since the epoch.

    They are the answer's `output`. `of_user`: it is a unit of the user's own manager. Where `pids` are given, what
    these have written, in whatever unit they are; each line begins with its PID then.
    """

    unit: str
    since: float
    of_user: bool = False
    lines: int = 10
    pids: tuple[int, ...] = ()

    def __str__(self) -> str:
        return f"last words of {self.unit or 'PID ' + ', '.join(map(str, self.pids))}"


@dataclass(frozen=True)
class StartTimesQuery:
    """Reads from the journal when a unit was started since a moment, in seconds since the epoch.

    The answer's `output` is JSON: a list of pairs, each a moment and `start` or `cleared`.
    """

    unit: str
    since: float
    of_user: bool = False

    def __str__(self) -> str:
        return f"starts of {self.unit}"


@dataclass(frozen=True)
class PreviousExitQuery:
    """Reads from the journal how the invocation before this one ended.

    The answer's `output` is JSON: `result` is systemd's Result, empty where it is not told; `started` whether its start
    had come to its end; and of the first process that failed, if one did, `command` is the setting (`ExecStart`),
    `code` one of `exited`, `killed` and `dumped`, `status` a number. It is empty where this invocation is not in the
    journal yet.
    """

    unit: str
    invocation: str
    of_user: bool = False

    def __str__(self) -> str:
        return f"end before {self.invocation} of {self.unit}"


QueryKind = (
    TcpProbe
    | HttpProbe
    | WebsocketProbe
    | JournalProbe
    | LatestChangeQuery
    | JournalTailQuery
    | StartTimesQuery
    | PreviousExitQuery
    | Command
)
"""All that can be asked."""


@dataclass(frozen=True)
class Query:
    """Something to ask that may take a while: a probe, or a command that merely observes.

    The same question is asked once and keeps its answer; another `asked` makes it a new question.
    `timeout` is in seconds. `inside` is a process in whose network namespace it is asked; None for this program's.
    """

    what: QueryKind
    id: int
    timeout: float
    netns_process: ProcessId | None = None


@dataclass(frozen=True)
class Answer:
    """What came back. `detail` says in words what was wrong, or what was seen. `output` is what was printed.

    `reached` is the port of this machine that a connection led to; None where it led to another machine.
    """

    ok: bool
    detail: str
    output: str = ""
    seconds: float = 0.0
    reached_port: Port | None = None
