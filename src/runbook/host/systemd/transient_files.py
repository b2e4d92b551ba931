"""The files of a command in a transient unit: what it is given, what it prints, and how it ended.

Everybody on the machine may read a unit's words and its Environment= (`systemctl show`), and `ps` shows what a
shell is given as an argument. So the unit is told nothing but the name of a file, and the script, the variables
and the folder stand in files that nobody else can open.

That keeps the unit's words free of `$`, `%` and quotes, too, and the unit free of what systemd 252 writes into
a transient unit's file and cannot read back at a daemon-reload: the flags of ExecStartEx= and ExecStopPostEx=.
Without the flag `privileged` there can be no User=, for the unit's last words must be written as root: the
command's user comes in with setpriv(1).
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
from pathlib import Path

from runbook.errors import HostError
from runbook.host.queries import Command
from runbook.util.wording import describe_error

CANNOT_ENTER = 200
"""The status of a command whose folder cannot be entered; systemd's own number for it (systemd.exec(5))."""

MAX_OUTPUTS = 1000
"""So many earlier outputs of one command are kept apart."""

_SPECIAL = frozenset({"BASHOPTS", "BASH_VERSINFO", "EUID", "OPTIND", "PPID", "SHELLOPTS", "UID"})
"""Variables that a shell will not have set, or not to any value: bash's own, where it is /bin/sh."""

_UNIT = """\
case $1 in
begin)
    exec {become}/bin/sh /dev/fd/3 3<{start} 4<{script}
    ;;
end)
    umask 077
    printf '%s\\n' "$SERVICE_RESULT $EXIT_CODE $EXIT_STATUS"{token} >{result}
    exec rm -f -- {start} {script} "$0"
    ;;
esac
"""

_START = """\
{exports}
cd -- {folder} 2>/dev/null || exit {cannot_enter}
unset OLDPWD
exec {words} 3<&-{close}
"""


class CommandFiles:
    """The files of one command; all their names begin with that of its output."""

    def __init__(self, output: str) -> None:
        self.output = Path(output)
        self.result = Path(f"{output}.result")
        self._unit = Path(f"{output}.unit")
        self._start = Path(f"{output}.start")
        self._script = Path(f"{output}.script")

    @property
    def start_argv(self) -> list[str]:
        """The words that begin the command, in `folder`."""
        return ["/bin/sh", f"./{self._unit.name}", "begin"]

    @property
    def stop_post_argv(self) -> list[str]:
        """The words that write how it ended, in `folder`."""
        return ["/bin/sh", f"./{self._unit.name}", "end"]

    @property
    def folder(self) -> str:
        """Where those words are to be said."""
        return str(self.output.parent)

    def write(self, command: Command, account: pwd.struct_passwd) -> None:
        """Write what the command is given; what an earlier try printed is put aside, its result removed."""
        other = account.pw_uid != os.geteuid()
        owner = (account.pw_uid, account.pw_gid) if other else None
        names = {name: shlex.quote(str(getattr(self, f"_{name}"))) for name in ("start", "script")}
        become = _setpriv_prefix(account) if other else ""
        token = shlex.quote(f" {command.token}") if command.token else ""
        unit = _UNIT.format(become=become, result=shlex.quote(str(self.result)), token=token, **names)
        try:
            self.clear()
            self.result.unlink(missing_ok=True)
            self._put_aside()
            if command.keep_output:
                os.close(_open(self.output, os.O_APPEND))
            _write(self._unit, unit, None)
            _write(self._start, _start(command), owner)
            # On the script's own first line, whose number is in the shell's messages.
            _write(self._script, f"exec 4<&-; {command.script or ''}\n", owner)
        except UnicodeEncodeError:
            raise HostError(f"cannot start {command}: its words or its env are not valid UTF-8") from None
        except OSError as error:
            raise HostError(f"cannot write {self.output}: {describe_error(error)}") from None

    def clear(self) -> None:
        """Remove what the command was given."""
        for path in (self._unit, self._start, self._script):
            path.unlink(missing_ok=True)

    def read_result(self, token: str = "") -> list[str]:
        """Give the words that the unit left; none where it left none, or one of another `token` did."""
        try:
            words = self.result.read_text().split()
        except (OSError, ValueError):
            return []
        return words if not token or words[3:] == [token] else []

    def tail(self, size: int) -> str:
        """Give the end of what the command printed."""
        with contextlib.suppress(OSError), self.output.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read().decode(errors="replace")
        return ""

    def _put_aside(self) -> None:
        """Give the name free: what an earlier try printed is no answer of this one."""
        if not os.path.lexists(self.output):
            return
        if self.output.is_file() and not self.output.is_symlink() and not self.output.stat().st_size:
            return
        for number in range(1, MAX_OUTPUTS):
            aside = Path(f"{self.output}.{number}")
            if not os.path.lexists(aside):
                break
        self.output.rename(aside)


def _setpriv_prefix(account: pwd.struct_passwd) -> str:
    program = shutil.which("setpriv", path="/usr/bin:/bin:/usr/sbin:/sbin:/run/current-system/sw/bin")
    if program is None:
        raise HostError(f"cannot run a command as {account.pw_name}: setpriv is missing", hint="install util-linux")
    return f"{program} --reuid={account.pw_uid} --regid={account.pw_gid} --init-groups -- "


def _start(command: Command) -> str:
    """Write what the command's own user does before the command: so neither LD_PRELOAD nor PATH is root's."""
    exports = [f"export {name}={shlex.quote(value)}" for name, value in command.env.items() if name not in _SPECIAL]
    special = [f"{name}={value}" for name, value in command.env.items() if name in _SPECIAL]
    words = ["/bin/sh", "-e", "/dev/fd/4"] if command.script is not None else list(command.argv)
    return _START.format(
        exports="\n".join(exports),
        folder=shlex.quote(command.cwd or "/"),
        cannot_enter=CANNOT_ENTER,
        words=shlex.join([*(["env", *special] if special else []), *words]),
        close="" if command.script is not None else " 4<&-",
    )


def _write(path: Path, text: str, owner: tuple[int, int] | None) -> None:
    """Write a file that only its owner can read; a command's user gets no right to change it."""
    with os.fdopen(_open(path, os.O_EXCL), "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        if owner is not None:
            os.fchmod(file.fileno(), 0o400)
            os.fchown(file.fileno(), *owner)


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
