"""Who else asked systemd for a job of a unit: what a command line asks for, and how a sentence names its process.

Pure: it judges what was seen, and looks at nothing. `callers` is what looks.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from runbook.names import UNIT_TYPES
from runbook.phrases import shown

SOMEBODY = "somebody else"
"""What is said of whoever is not known."""

MOST_NAMED = 2
"""Of more that may have asked, none is named."""

MOST_COMMAND = 80
"""So many characters of a command line stand in a sentence."""

STARTS = frozenset((
    "start", "restart", "try-restart", "condrestart", "reload-or-restart", "force-reload", "try-reload-or-restart",
    "reload-or-try-restart", "isolate", "enable", "reenable",
))  # fmt: skip
"""What systemctl is told that may begin an invocation."""

STOPS = frozenset(("stop", "disable", "mask"))
"""What systemctl is told that may leave a unit down."""

_NOW = frozenset(("enable", "reenable", "disable", "mask"))
_PASSES_ON = frozenset(("restart", "try-restart", "condrestart", "stop"))
_ACTS = STARTS | STOPS | {"reload", "condreload"}

# Options of systemctl(1) whose value may be a word of its own; the same with `=` is one word.
_TAKE_A_VALUE = frozenset((
    "-t", "--type", "--state", "-p", "--property", "-P", "-n", "--lines", "-o", "--output", "-s", "--signal",
    "--kill-whom", "--kill-who", "--kill-value", "--job-mode", "--check-inhibitors", "--preset-mode", "--message",
    "--what", "--when", "--timestamp", "--drop-in", "--image-policy", "--boot-loader-menu", "--boot-loader-entry",
))  # fmt: skip
_METHODS = {
    "StartUnit": "start",
    "StopUnit": "stop",
    "RestartUnit": "restart",
    "TryRestartUnit": "try-restart",
    "ReloadOrRestartUnit": "reload-or-restart",
    "ReloadUnit": "reload",
}
# These name another machine, or no running one.
_ELSEWHERE = ("-M", "--machine", "-H", "--host", "--root", "--image", "--global")


@dataclass(frozen=True)
class Asker:
    """A process that asked for a job, as it was seen while it waited for the job's end.

    `login` is the user who logged in, where that is another one; `starter` the nearest process above it that tells
    something, `place` the unit that it runs in. `own`: it was started by this run.
    """

    pid: int
    command: tuple[str, ...]
    user: str
    login: str = ""
    starter: str = ""
    place: str = ""
    own: bool = False

    @property
    def verb(self) -> str:
        """What systemctl was told to do."""
        words = _Words.of(self.command)
        return words.verb if words else ""

    def __str__(self) -> str:
        started = f", run by {self.starter}" if self.starter else ""
        whom = f"{self.user} for {self.login}" if self.login else self.user
        place = f" in {self.place}" if self.place else ""
        return f"PID {self.pid} `{shown(' '.join(self.command), MOST_COMMAND)}`{started} as {whom}{place}"

    def evidence(self) -> dict[str, Any]:
        """Give what is known of it."""
        facts = {"user": self.user, "login": self.login, "run-by": self.starter, "unit": self.place}
        told = {name: value for name, value in facts.items() if value}
        return {"pid": self.pid, "command": " ".join(self.command), **told}


@dataclass(frozen=True)
class Asked:
    """A job that this program did not ask for, by its number, and who may have; nobody where that is not known."""

    job: int
    askers: tuple[Asker, ...] = ()

    @property
    def own(self) -> bool:
        """Whether a command of this very run asked for it."""
        return bool(self.askers) and all(asker.own for asker in self.askers)

    @property
    def starts(self) -> bool:
        """Whether it is known to have been to begin an invocation."""
        return bool(self.askers) and all(asker.verb in STARTS for asker in self.askers)

    @property
    def stops(self) -> bool:
        """Whether it is known to have been to leave the unit down."""
        return bool(self.askers) and all(asker.verb in STOPS for asker in self.askers)

    def __str__(self) -> str:
        return " or ".join(map(str, self.askers))


def somebody(asked: Asked | None) -> str:
    """Name whoever asked for a job, as far as it is known: "somebody else (PID 412 `systemctl stop gw` as root)"."""
    if asked is None or not asked.askers:
        return SOMEBODY
    return f"{'a command of this run' if asked.own else SOMEBODY} ({asked})"


def last_stop(asked: Sequence[Asked]) -> Asked | None:
    """Give the last of some jobs, if it is known to have been a stop. One that nobody knows says nothing."""
    return asked[-1] if asked and asked[-1].stops else None


def asks_for(command: Sequence[str], names: Iterable[str], above: Iterable[str] = (), *, of_user: bool = False) -> bool:
    """Whether a command line of systemctl asks for a job of a unit.

    `names` are the unit's, aliases among them; `above` are the units whose stop or restart it follows.
    """
    words = _Words.of(command)
    if words is None or words.of_user != of_user or words.verb not in _ACTS:
        return False
    if words.verb in _NOW and not words.now:
        return False
    wanted = {*names, *(above if words.verb in _PASSES_ON else ())}
    # systemctl takes patterns, too.
    return any(fnmatchcase(name, said) for said in words.units for name in wanted)


@dataclass(frozen=True)
class _Words:
    """What systemctl was told."""

    verb: str
    units: tuple[str, ...]
    of_user: bool
    now: bool

    @classmethod
    def of(cls, command: Sequence[str]) -> _Words | None:
        """Take a command line apart; None where it is for another machine, or says nothing."""
        words: list[str] = []
        busctl = bool(command) and PurePosixPath(command[0]).name == "busctl"
        flags: set[str] = set()
        rest = iter(command[1:])
        for word in rest:
            if word == "--":
                words += rest
            elif not word.startswith("-"):
                words.append(word)
            elif word.partition("=")[0] in _ELSEWHERE or word[:2] in ("-M", "-H"):
                return None
            else:
                flags.add(word)
                if word in _TAKE_A_VALUE:
                    next(rest, None)
        if busctl:
            # call SERVICE OBJECT INTERFACE METHOD SIGNATURE UNIT …
            words = [_METHODS.get(words[4], ""), words[6]] if words[:1] == ["call"] and len(words) > 6 else []  # noqa: PLR2004
        if not words:
            return None
        return cls(words[0], tuple(map(_full, words[1:])), "--user" in flags, "--now" in flags)


def _full(name: str) -> str:
    """Give a unit's full name as systemctl makes it: a pattern without a type is one of services, too."""
    return name if name.endswith(tuple(f".{kind}" for kind in UNIT_TYPES)) else f"{name}.service"


_SHELLS = frozenset(("sh", "bash", "dash", "ash", "busybox", "zsh", "ksh", "mksh", "fish"))
_INTERPRETERS = ("python", "perl", "ruby", "node", "lua", "php", "tclsh")

# What only passes a command on, by the name of its process, which is cut at 15 characters.
_PASS_ON = frozenset((
    "systemctl", "service", "invoke-rc.d", "deb-systemd-inv", "su", "sudo", "doas", "runuser", "setpriv", "pkexec",
    "env", "nice", "ionice", "timeout", "nohup", "setsid", "xargs", "flock", "watch", "script", "login", "nsenter",
    "unshare", "chroot", "taskset", "stdbuf", "time",
))  # fmt: skip


def telling(name: str, command: Sequence[str]) -> str:
    """Name what a process is to a person, by the name of the process and its command line; nothing if it tells nothing.

    A shell that was given no script tells nothing, nor does sudo.
    """
    shell = name in _SHELLS or name.removeprefix("-") in _SHELLS
    if shell or name.startswith(_INTERPRETERS):
        script = _script(command[1:])
        return PurePosixPath(script).name if script else "" if shell else name
    return "" if name in _PASS_ON else name


def _script(words: Sequence[str]) -> str:
    """Give the script that an interpreter was given, if it was one."""
    for word in words:
        if not word.startswith("-"):
            return word
        # `-c` and `-e` bring the text itself along, `-m` a module; of a shell, `-e` is a flag.
        if word[1:2] != "-" and word[-1:] in "cm":
            return ""
    return ""


def evidence(asked: Iterable[Asked]) -> list[dict[str, Any]]:
    """Give what is known of those who asked."""
    return [asker.evidence() for one in asked for asker in one.askers]
