"""What a host can be asked to run or to ask, as plain data: commands, probes, and what came of them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

SCRIPT_WORDS = 4
"""A script is `/bin/sh -e -c SCRIPT`."""


@dataclass(frozen=True)
class Command:
    """A command as it is to be started. `env` is the whole of what is added to the user's own environment.

    `timeout` is in seconds. `output` is the file that takes what it prints, and beside which its unit leaves how
    it ended; empty for a command that is only asked something. One that is not `kept` prints to nowhere.
    """

    argv: tuple[str, ...]
    user: str = ""
    cwd: str = ""
    env: Mapping[str, str] = field(default_factory=dict)
    timeout: float = 60.0
    output: str = ""
    kept: bool = True

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
class Question:
    """Something to ask that may take a while: a probe, or a command that merely observes.

    The same question is asked once and keeps its answer; another `asked` makes it a new question.
    `timeout` is in seconds.
    """

    what: TcpProbe | HttpProbe | Command
    asked: int
    timeout: float


@dataclass(frozen=True)
class Answer:
    """What came back. `detail` says in words what was wrong, or what was seen. `output` is what was printed."""

    good: bool
    detail: str
    output: str = ""
    seconds: float = 0.0
