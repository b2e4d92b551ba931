"""Who else asked systemd for a job of a unit: what a command line asks for, and how a sentence names its process.

Pure: it judges what was seen, and looks at nothing. `callers` is what looks.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any

from runbook.util.names import UNIT_TYPES
from runbook.util.wording import shorten

UNKNOWN_REQUESTER = "something else"
"""What is said of whoever is not known."""

MAX_NAMED = 2
"""Of more that may have asked, none is named."""

MAX_COMMAND_SHOWN = 80
"""So many characters of a command line stand in a sentence."""

MAX_COMMAND_EVIDENCE = 1000
"""So many of them stand in the evidence."""

MAX_COMMAND_WORDS = 100
"""A command line of more words is not judged: whoever may run a program can make it as long as the kernel lets him."""

MAX_WORD = 1000
"""Nor is one with a longer word."""

MAX_PATTERN = 256
"""A unit's name is no longer (UNIT_NAME_MAX), nor is a pattern that is tried."""

MAX_WILDCARDS = 8
"""So many of `*`, `?` and `[` may a pattern have: each more makes it dearer to try."""

MAX_PATTERNS = 8
"""So many patterns of a command line are tried."""

START_COMMANDS = frozenset((
    "start", "restart", "try-restart", "condrestart", "reload-or-restart", "force-reload", "try-reload-or-restart",
    "reload-or-try-restart", "isolate", "enable", "reenable",
))  # fmt: skip
"""What systemctl is told that may begin an invocation."""

STOP_COMMANDS = frozenset(("stop", "disable", "mask"))
"""What systemctl is told that may leave a unit down."""

_NOW = frozenset(("enable", "reenable", "disable", "mask"))
_PASSES_ON = frozenset(("restart", "try-restart", "condrestart", "stop"))
_ACTS = START_COMMANDS | STOP_COMMANDS | {"reload", "condreload"}

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
class Requester:
    """A process that asked for a job, as it was seen while it waited for the job's end.

    `login` is the user who logged in, where that is another one; `starter` the nearest process above it that tells
    something, `place` the unit that it runs in. `own`: it was started by this run.
    """

    pid: int
    command: tuple[str, ...]
    user: str
    login: str = ""
    started_by: str = ""
    unit: str = ""
    is_own: bool = False

    @property
    def verb(self) -> str:
        """What systemctl was told to do."""
        words = _SystemctlCall.parse(self.command)
        return words.verb if words else ""

    def __str__(self) -> str:
        started = f", run by {self.started_by}" if self.started_by else ""
        whom = f"{self.user} for {self.login}" if self.login else self.user
        place = f" in {self.unit}" if self.unit else ""
        return f"PID {self.pid} `{shorten(' '.join(self.command), MAX_COMMAND_SHOWN)}`{started} as {whom}{place}"

    def evidence(self) -> dict[str, Any]:
        """Give what is known of it."""
        facts = {"user": self.user, "login": self.login, "run-by": self.started_by, "unit": self.unit}
        told = {name: value for name, value in facts.items() if value}
        # The names are short, and a command line is as long as whoever gave it likes.
        mine = {"own": True} if self.is_own else {}
        return {"pid": self.pid, "command": shorten(" ".join(self.command), MAX_COMMAND_EVIDENCE), **told, **mine}


@dataclass(frozen=True)
class JobRequest:
    """A job that this program did not ask for, by its number, and who may have; nobody where that is not known."""

    job: int
    requesters: tuple[Requester, ...] = ()

    @property
    def is_own(self) -> bool:
        """Whether a command of this very run asked for it."""
        return bool(self.requesters) and all(requester.is_own for requester in self.requesters)

    @property
    def is_start(self) -> bool:
        """Whether it is known to have been to begin an invocation."""
        return bool(self.requesters) and all(requester.verb in START_COMMANDS for requester in self.requesters)

    @property
    def may_start(self) -> bool:
        """Whether it may have been to begin an invocation: nobody is known, or one who would."""
        return not self.requesters or any(requester.verb in START_COMMANDS for requester in self.requesters)

    @property
    def is_stop(self) -> bool:
        """Whether it is known to have been to leave the unit down."""
        return bool(self.requesters) and all(requester.verb in STOP_COMMANDS for requester in self.requesters)

    def __str__(self) -> str:
        return " or ".join(map(str, self.requesters))


def describe_requester(asked: JobRequest | None) -> str:
    """Name whoever asked for a job, as far as it is known: "somebody else (PID 412 `systemctl stop gw` as root)"."""
    if asked is None or not asked.requesters:
        return UNKNOWN_REQUESTER
    return f"{'a command of this run' if asked.is_own else UNKNOWN_REQUESTER} ({asked})"


def find_last_stop(asked: Sequence[JobRequest]) -> JobRequest | None:
    """Give the last of some jobs, if it is known to have been a stop. One that nobody knows says nothing."""
    return asked[-1] if asked and asked[-1].is_stop else None


def find_last_start(asked: Sequence[JobRequest], after: int) -> JobRequest | None:
    """Give the last of some jobs that is known to have been a start, and came after a job of this number."""
    return next((one for one in reversed(asked) if one.is_start and one.job > after), None)


def requests_job(
    command: Sequence[str], names: Iterable[str], above: Iterable[str] = (), *, of_user: bool = False
) -> bool:
    """Whether a command line of systemctl asks for a job of a unit.

    `names` are the unit's, aliases among them; `above` are the units whose stop or restart it follows.
    """
    words = _SystemctlCall.parse(command)
    if words is None or words.of_user != of_user or words.verb not in _ACTS:
        return False
    if words.verb in _NOW and not words.now:
        return False
    wanted = {*names, *(above if words.verb in _PASSES_ON else ())}
    if not wanted.isdisjoint(words.units):
        return True
    # systemctl takes patterns, too.
    patterns = [said for said in words.units if not _WILD.isdisjoint(said)]
    if len(patterns) > MAX_PATTERNS:
        return False
    return any(fnmatchcase(name, said) for said in patterns if _is_cheap(said) for name in wanted)


_WILD = frozenset("*?[")


def _is_cheap(pattern: str) -> bool:
    return len(pattern) <= MAX_PATTERN and sum(map(pattern.count, _WILD)) <= MAX_WILDCARDS


@dataclass(frozen=True)
class _SystemctlCall:
    """What systemctl was told."""

    verb: str
    units: tuple[str, ...]
    of_user: bool
    now: bool

    @classmethod
    def parse(cls, command: Sequence[str]) -> _SystemctlCall | None:
        """Take a command line apart; None where it is for another machine, says nothing, or is too long."""
        if len(command) > MAX_COMMAND_WORDS or any(len(word) > MAX_WORD for word in command):
            return None
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
        return cls(words[0], tuple(map(_full_unit_name, words[1:])), "--user" in flags, "--now" in flags)


def _full_unit_name(name: str) -> str:
    """Give a unit's full name as systemctl makes it: a pattern without a type is one of services, too."""
    return name if name.endswith(tuple(f".{kind}" for kind in UNIT_TYPES)) else f"{name}.service"


_SHELLS = frozenset(("sh", "bash", "dash", "ash", "busybox", "zsh", "ksh", "mksh", "fish"))


@dataclass(frozen=True)
class _Options:
    """The options of an interpreter that matter here, by their letters.

    After one of `texts` no script comes, but its text, a module, or words for what comes from elsewhere. One of
    `values` takes the rest of its own word, or else the next; one of `rests` that rest alone, one of `nexts` the next.
    """

    texts: str
    values: str = ""
    rests: str = ""
    nexts: str = ""


_SHELL = _Options(texts="csC", nexts="oO")
_INTERPRETERS = {
    "python": _Options(texts="cm", values="WX"),
    "perl": _Options(texts="eEpn", values="I", rests="MmiF"),
    "ruby": _Options(texts="enpr", values="ICE", rests="Fi"),
    "node": _Options(texts="epr", values="C"),
    "lua": _Options(texts="eE", values="l"),
    "php": _Options(texts="rRBE", values="cdztS"),
    "tclsh": _Options(texts=""),
}
_LONG_TEXTS = ("--c", "--eval", "--print", "--require", "--import", "--run", "--process-", "--init-command")
_LONG_VALUES = frozenset(("--rcfile", "--init-file", "--check-hash-based-pycs", "--php-ini", "--define", "--env-file"))
_LIKE_A_PATH = re.compile(r"[\w./@+-]{1,256}")

# What only passes a command on, by the name of its process, which is cut at 15 characters.
_PASS_ON = frozenset((
    "systemctl", "service", "invoke-rc.d", "deb-systemd-inv", "su", "sudo", "doas", "runuser", "setpriv", "pkexec",
    "env", "nice", "ionice", "timeout", "nohup", "setsid", "xargs", "flock", "watch", "script", "login", "nsenter",
    "unshare", "chroot", "taskset", "stdbuf", "time",
))  # fmt: skip


def name_program(name: str, command: Sequence[str]) -> str:
    """Name what a process is to a person, by the name of the process and its command line; nothing if it tells nothing.

    A shell that was given no script tells nothing, nor does sudo.
    """
    words = list(command[1:])
    if name.removeprefix("-") in _SHELLS:
        if command and PurePosixPath(command[0]).name == "busybox" and words and words[0] in _SHELLS:
            del words[0]
        return _find_script(words, _SHELL)
    options = next((options for kind, options in _INTERPRETERS.items() if name.startswith(kind)), None)
    if options is not None:
        return _find_script(words, options) or name
    return "" if name in _PASS_ON else name


def _find_script(words: Iterable[str], options: _Options) -> str:
    """Name the script that an interpreter was given; nothing where it was given none, or it is not sure which.

    What is no script may be the text of one, with a password in it.
    """
    rest = iter(words)
    for word in rest:
        if word == "--":
            return _script_name(next(rest, ""))
        if word.startswith("--"):
            if word.startswith(_LONG_TEXTS) and word not in _LONG_VALUES:
                return ""
            if word in _LONG_VALUES:
                next(rest, None)
        elif word.startswith("-") or (word.startswith("+") and options is _SHELL):
            none, takes_next = _read_options(word[1:], options)
            if none:
                return ""
            if takes_next:
                next(rest, None)
        else:
            return _script_name(word)
    return ""


def _read_options(letters: str, options: _Options) -> tuple[bool, bool]:
    """Read the options in one word: whether no script comes behind it, and whether the next word is a value."""
    takes_next = False
    for at, letter in enumerate(letters, 1):
        if letter in options.texts:
            return True, False
        if letter in options.values:
            return False, at == len(letters)
        if letter in options.rests:
            break
        takes_next = takes_next or letter in options.nexts
    return not letters, takes_next  # A lone `-` stands for the standard input.


def _script_name(word: str) -> str:
    return PurePosixPath(word).name if _LIKE_A_PATH.fullmatch(word) else ""


def requester_evidence(asked: Iterable[JobRequest]) -> list[dict[str, Any]]:
    """Give what is known of those who asked."""
    return [requester.evidence() for one in asked for requester in one.requesters]
