"""Which other client requested a job of a unit: what a command line requests, and how a message names its process.

Pure: it judges what was read, and reads nothing itself. `systemd.requester_scan` reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from pathlib import PurePosixPath
from typing import Any, NamedTuple

from runbook.util.names import UNIT_TYPES
from runbook.util.wording import shorten

UNKNOWN_REQUESTER = "something else"  # the word for a requester that was not found
MAX_NAMED = 2  # if more processes may have requested a job, none is named
MAX_COMMAND_SHOWN = 80  # how many characters of a command line are in a sentence
MAX_COMMAND_EVIDENCE = 1000  # how many of them are in the evidence

MAX_COMMAND_WORDS = 100  # a longer command line is not judged: any user can make one as long as the kernel permits
MAX_WORD = 1000  # nor is a command line with a longer word
MAX_PATTERN = 256  # no unit name is longer (UNIT_NAME_MAX), so no longer pattern is tried
MAX_WILDCARDS = 8  # how many of `*`, `?` and `[` a pattern may have: each one multiplies the cost of a match
MAX_PATTERNS = 8  # how many patterns of a command line are tried

START_COMMANDS = frozenset((
    "start", "restart", "try-restart", "condrestart", "reload-or-restart", "force-reload", "try-reload-or-restart",
    "reload-or-try-restart", "isolate", "enable", "reenable",
))  # fmt: skip
"""Verbs of systemctl that may begin an invocation."""

STOP_COMMANDS = frozenset(("stop", "disable", "mask"))  # verbs of systemctl that may leave a unit down

_NOW = frozenset(("enable", "reenable", "disable", "mask"))
_WILD = frozenset("*?[")
_PASSES_ON = frozenset(("restart", "try-restart", "condrestart", "stop"))
_ACTS = START_COMMANDS | STOP_COMMANDS | {"reload", "condreload"}

# Options of systemctl(1) with a value in the next word; with `=` option and value are one word.
_TAKE_A_VALUE = frozenset((
    "-t", "--type", "--state", "-p", "--property", "-P", "-n", "--lines", "-o", "--output", "-s", "--signal",
    "--kill-whom", "--kill-who", "--kill-value", "--job-mode", "--check-inhibitors", "--preset-mode", "--message",
    "--what", "--when", "--timestamp", "--drop-in", "--image-policy", "--boot-loader-menu", "--boot-loader-entry",
))  # fmt: skip
_METHODS = {
    "StartUnit": "start", "StopUnit": "stop", "RestartUnit": "restart", "TryRestartUnit": "try-restart",
    "ReloadOrRestartUnit": "reload-or-restart", "ReloadUnit": "reload",
}  # fmt: skip
# These address another machine, or none that runs.
_ELSEWHERE = ("-M", "--machine", "-H", "--host", "--root", "--image", "--global")


class Requester(NamedTuple):
    """A process that requested a job, as it was read while it waited for the end of the job."""

    pid: int
    command: tuple[str, ...]
    user: str
    login: str = ""  # the user who logged in, if that is another one than `user`
    started_by: str = ""  # the nearest ancestor with a meaningful name: not a shell without a script, not sudo
    unit: str = ""  # the unit that it runs in
    is_own: bool = False  # True if this run started it

    @property
    def verb(self) -> str:
        """The verb of its systemctl command."""
        words = _SystemctlCall.parse(self.command)
        return words.verb if words else ""

    def __str__(self) -> str:
        started = f", run by {self.started_by}" if self.started_by else ""
        user = f"{self.user} for {self.login}" if self.login else self.user
        place = f" in {self.unit}" if self.unit else ""
        return f"PID {self.pid} `{shorten(' '.join(self.command), MAX_COMMAND_SHOWN)}`{started} as {user}{place}"

    def evidence(self) -> dict[str, Any]:
        """Return everything that is known of it."""
        # Names are short; a command line may have any length.
        command = shorten(" ".join(self.command), MAX_COMMAND_EVIDENCE)
        facts = {"user": self.user, "login": self.login, "run-by": self.started_by, "unit": self.unit}
        known = {name: value for name, value in {**facts, "own": self.is_own}.items() if value}
        return {"pid": self.pid, "command": command, **known}


class JobRequest(NamedTuple):
    """A job that this program did not request, and the processes that may have; none if they were not found."""

    job: int
    requesters: tuple[Requester, ...] = ()

    @property
    def is_own(self) -> bool:
        """True if a command of this very run requested it."""
        return bool(self.requesters) and all(requester.is_own for requester in self.requesters)

    @property
    def is_start(self) -> bool:
        """True if it certainly was to begin an invocation."""
        return bool(self.requesters) and all(requester.verb in START_COMMANDS for requester in self.requesters)

    @property
    def may_start(self) -> bool:
        """True if it may have been to begin an invocation: its requester is unknown, or its verb begins one."""
        return not self.requesters or any(requester.verb in START_COMMANDS for requester in self.requesters)

    @property
    def is_stop(self) -> bool:
        """True if it certainly was to leave the unit down."""
        return bool(self.requesters) and all(requester.verb in STOP_COMMANDS for requester in self.requesters)

    def __str__(self) -> str:
        return " or ".join(map(str, self.requesters))


def describe_requester(asked: JobRequest | None) -> str:
    """Name the requester of a job, as far as it is known: "something else (PID 412 `systemctl stop gw` as root)"."""
    if asked is None or not asked.requesters:
        return UNKNOWN_REQUESTER
    return f"{'a command of this run' if asked.is_own else UNKNOWN_REQUESTER} ({asked})"


def find_last_stop(asked: Sequence[JobRequest]) -> JobRequest | None:
    """Return the last of some jobs, if it certainly was a stop. An unknown one proves nothing."""
    return asked[-1] if asked and asked[-1].is_stop else None


def find_last_start(asked: Sequence[JobRequest], after: int) -> JobRequest | None:
    """Return the last of some jobs that certainly was a start and came after the job of this number."""
    return next((one for one in reversed(asked) if one.is_start and one.job > after), None)


def requests_job(
    command: Sequence[str], names: Iterable[str], above: Iterable[str] = (), *, of_user: bool = False
) -> bool:
    """Return whether a command line of systemctl requests a job of a unit.

    `names` are the unit's, aliases among them; `above` are the units whose stop or restart it follows.
    """
    words = _SystemctlCall.parse(command)
    if words is None or words.of_user != of_user or words.verb not in _ACTS or (words.verb in _NOW and not words.now):
        return False
    wanted = {*names, *(above if words.verb in _PASSES_ON else ())}
    if not wanted.isdisjoint(words.units):
        return True
    # systemctl accepts patterns, too.
    patterns = [name for name in words.units if not _WILD.isdisjoint(name)]
    cheap = [p for p in patterns if len(p) <= MAX_PATTERN and sum(map(p.count, _WILD)) <= MAX_WILDCARDS]
    return len(patterns) <= MAX_PATTERNS and any(fnmatchcase(name, pattern) for pattern in cheap for name in wanted)


class _SystemctlCall(NamedTuple):
    """The arguments of a systemctl command."""

    verb: str
    units: tuple[str, ...]
    of_user: bool
    now: bool

    @classmethod
    def parse(cls, command: Sequence[str]) -> _SystemctlCall | None:
        """Parse a command line; None if it is for another machine, has no verb, or is too long."""
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
    """Return a unit's full name as systemctl completes it: a pattern without a type matches services, too."""
    return name if name.endswith(tuple(f".{kind}" for kind in UNIT_TYPES)) else f"{name}.service"


_SHELLS = frozenset(("sh", "bash", "dash", "ash", "busybox", "zsh", "ksh", "mksh", "fish"))


class _Options(NamedTuple):
    """The options of an interpreter that matter here, by their letters."""

    texts: str  # no script follows these: a program text, a module, or words for standard input
    values: str = ""  # these take the rest of their own word, or else the next word
    rests: str = ""  # these take only the rest of their own word
    nexts: str = ""  # these take the next word


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

# Programs that only run another command, by the name of their process, which is cut at 15 characters.
_PASS_ON = frozenset((
    "systemctl", "service", "invoke-rc.d", "deb-systemd-inv", "su", "sudo", "doas", "runuser", "setpriv", "pkexec",
    "env", "nice", "ionice", "timeout", "nohup", "setsid", "xargs", "flock", "watch", "script", "login", "nsenter",
    "unshare", "chroot", "taskset", "stdbuf", "time",
))  # fmt: skip


def name_program(name: str, command: Sequence[str]) -> str:
    """Return a meaningful name of a process, by its name and command line; empty if it has none.

    A shell without a script has none, nor has sudo.
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


_RUNTIMES = ("java", "dotnet", "mono", "beam", "deno", "bun")  # besides interpreters, programs that run others


def is_runtime(program: str) -> bool:
    """True if a program runs others: that two processes execute it does not make them the same program."""
    return program in _SHELLS or program.startswith((*_INTERPRETERS, *_RUNTIMES))


def is_shell(name: str) -> bool:
    """True if a process of this name is a shell."""
    return name.removeprefix("-") in _SHELLS


def is_interactive_shell(name: str, command: Sequence[str]) -> bool:
    """True if a process is a shell that runs no script, no program text, and not its standard input by option."""
    rest = iter(command[1:])
    for word in rest:
        none, takes_next = _read_options(word[1:], _SHELL) if word[:1] in ("-", "+") else (True, False)
        if word.startswith("--") and not word.startswith(_LONG_TEXTS):
            none, takes_next = False, word in _LONG_VALUES
        if none:
            return False
        if takes_next:
            next(rest, None)
    return is_shell(name)


def _find_script(words: Iterable[str], options: _Options) -> str:
    """Return the script that an interpreter runs; empty if there is none, or it is not certain which.

    A word that is not a script may be a program text, with a password in it.
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
    """Parse the options in one word: whether no script follows it, and whether the next word is a value."""
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
    """Return everything that is known of the requesters."""
    return [requester.evidence() for one in asked for requester in one.requesters]
