"""The files of a command in a transient unit: its script and environment, its output, its result.

Any user of the machine may read a unit's command line and its Environment= (`systemctl show`), and `ps` shows a shell's
arguments. So the unit's command line contains only the name of a file. The script, the variables and the folder are in
files that no other user can open.

This also keeps the unit's command line free of `$`, `%` and quotes, and of flags that systemd 252 writes to a transient
unit's file and cannot read back at a daemon-reload: those of ExecStartEx= and ExecStopPostEx=. Without the flag
`privileged` there can be no User=, because the result must be written as root: setpriv(1) changes to the command's
user.
"""

from __future__ import annotations

import contextlib
import os
import pwd
import shlex
import shutil
import stat
from pathlib import Path

from runbook.errors import HostError
from runbook.host.queries import Command
from runbook.util.wording import describe_error

CANNOT_ENTER = 200  # systemd's exit status for a command whose folder cannot be entered (systemd.exec(5))
MAX_OUTPUTS = 1000  # how many earlier outputs of one command are kept

# Variables that a shell does not accept, or not with any value: bash's own, if it is /bin/sh.
_SPECIAL = frozenset({"BASHOPTS", "BASH_VERSINFO", "EUID", "OPTIND", "PPID", "SHELLOPTS", "UID"})

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
        self.start_argv = ["/bin/sh", f"./{self._unit.name}", "begin"]  # starts the command, in `folder`
        self.stop_post_argv = ["/bin/sh", f"./{self._unit.name}", "end"]  # writes the result, in `folder`
        self.folder = str(self.output.parent)

    def write(self, command: Command, account: pwd.struct_passwd) -> None:
        """Write the command's files; rename the output of an earlier attempt, and remove its result."""
        other = account.pw_uid != os.geteuid()
        owner = (account.pw_uid, account.pw_gid) if other else None
        unit = _UNIT.format(
            become=_setpriv_prefix(account) if other else "",
            start=shlex.quote(str(self._start)),
            script=shlex.quote(str(self._script)),
            result=shlex.quote(str(self.result)),
            token=shlex.quote(f" {command.token}") if command.token else "",
        )
        try:
            self.clear()
            self.result.unlink(missing_ok=True)
            self._put_aside()
            if command.keep_output:
                os.close(_open(self.output, os.O_APPEND))
            _write(self._unit, unit, None)
            _write(self._start, _start(command), owner)
            # On the same line as the script's first one: the shell's messages contain line numbers.
            _write(self._script, f"exec 4<&-; {command.script or ''}\n", owner)
        except UnicodeEncodeError:
            raise HostError(f"cannot start {command}: its command line or its env is not valid UTF-8") from None
        except OSError as error:
            raise HostError(f"cannot write {self.output}: {describe_error(error)}") from None

    def clear(self) -> None:
        """Remove the script and the environment."""
        for path in (self._unit, self._start, self._script):
            path.unlink(missing_ok=True)

    def read_result(self, token: str = "") -> list[str]:
        """Return the words that the unit wrote; none if it wrote none, or if they are of another `token`."""
        try:
            words = self.result.read_text().split()
        except (OSError, ValueError):
            return []
        return words if not token or words[3:] == [token] else []

    def tail(self, size: int) -> str:
        """Return the end of the command's output."""
        with contextlib.suppress(OSError), self.output.open("rb") as file:
            file.seek(max(0, file.seek(0, os.SEEK_END) - size))
            return file.read().decode(errors="replace")
        return ""

    def _put_aside(self) -> None:
        """Rename the output of an earlier attempt, so that it is not taken for the output of this one."""
        with contextlib.suppress(FileNotFoundError):
            status = self.output.lstat()
            if status.st_size or not stat.S_ISREG(status.st_mode):
                names = [f"{self.output}.{number}" for number in range(1, MAX_OUTPUTS)]
                # If all names are taken, the last one's file is replaced.
                self.output.rename(next((name for name in names if not os.path.lexists(name)), names[-1]))


def _setpriv_prefix(account: pwd.struct_passwd) -> str:
    program = shutil.which("setpriv", path="/usr/bin:/bin:/usr/sbin:/sbin:/run/current-system/sw/bin")
    if program is None:
        raise HostError(f"cannot run a command as {account.pw_name}: setpriv is missing", hint="install util-linux")
    return f"{program} --reuid={account.pw_uid} --regid={account.pw_gid} --init-groups -- "


def _start(command: Command) -> str:
    """Make the script that runs as the command's own user, so that neither LD_PRELOAD nor PATH is root's."""
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
    """Write a file that only its owner can read; the command's user may not change it."""
    with os.fdopen(_open(path, os.O_EXCL), "w", encoding="utf-8", errors="surrogateescape") as file:
        file.write(text)
        if owner is not None:
            os.fchmod(file.fileno(), 0o400)
            os.fchown(file.fileno(), *owner)


def _open(path: Path, flags: int) -> int:
    return os.open(path, flags | os.O_WRONLY | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
