"""User accounts: names by number, and the environment that a command gets from its account."""

from __future__ import annotations

import os
import pwd
import threading
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from shlex import quote
from typing import TYPE_CHECKING

from runbook.errors import AccessDenied, HostError
from runbook.model import frozen

if TYPE_CHECKING:
    from runbook.host.queries import Command

NAME_TIMEOUT = 0.5  # seconds that a name server has for its answer
PASSWD = Path("/etc/passwd")  # the users of this machine; nsswitch.conf(5) may name other sources


_names: dict[int, str] = {}  # what a name server has answered
_silent: list[threading.Thread] = []  # queries of a name server that were not answered in time


def find_user_name(uid: int) -> str:
    """Return the name of a user, or the number if it has none, or none is found within NAME_TIMEOUT.

    While a name server owes an answer, it is not asked again: any user may have processes of 65,536 users (subuid(5)).
    """
    if name := _find_in_passwd(uid) or _names.get(uid):
        return name
    _silent[:] = filter(threading.Thread.is_alive, _silent)
    if _silent:
        return str(uid)
    query = threading.Thread(target=_query_name, args=(uid,), name="user", daemon=True)
    query.start()
    query.join(NAME_TIMEOUT)
    if query.is_alive():
        _silent.append(query)
    return _names.get(uid, str(uid))


def _query_name(uid: int) -> None:
    try:
        _names[uid] = pwd.getpwuid(uid).pw_name
    except (KeyError, OverflowError):
        _names[uid] = str(uid)


def find_local_user_name(uid: int) -> str:
    """Return the name of a user by PASSWD alone: a name server may take long to answer."""
    return _find_in_passwd(uid) or f"UID {uid}"


def enter_user_manager(uid: int, name: str, command: str) -> str:
    """Return a command for root that runs `command` of a user's manager as that user, whose name may be in PASSWD.

    A user without a name has no account for su(1), nor for the login by which `systemctl --user -M` reaches a manager.
    """
    if name in ("", str(uid), f"UID {uid}") and (name := find_user_name(uid)) == str(uid):
        folder = f"/run/user/{uid}"
        as_user = f"setpriv --reuid={uid} --regid={uid} --clear-groups"
        return f"{as_user} env HOME={folder} XDG_RUNTIME_DIR={folder} {command}"
    verb = command.removeprefix("systemctl --user ")
    return (
        f"systemctl --user -M {quote(name)}@ {verb}" if verb != command else f"su - {quote(name)} -c {quote(command)}"
    )


def _find_in_passwd(uid: int) -> str | None:
    try:
        with PASSWD.open("rb") as file:
            status = os.fstat(file.fileno())
        return _read_passwd(status.st_ino, status.st_mtime_ns).get(uid)
    except (OSError, ValueError):  # A number may be too long for Python.
        return None


@lru_cache(maxsize=1)
def _read_passwd(_inode: int, _mtime: int) -> dict[int, str]:
    users: dict[int, str] = {}
    with PASSWD.open("rb") as file:
        for line in file:
            name, _, rest = line.partition(b":")
            uid = rest.split(b":", 2)[1:2]
            if uid and uid[0].isdigit():
                users.setdefault(int(uid[0]), name.decode("utf-8", "backslashreplace"))
    return users


LOGIN = Path("/proc/self/loginuid")  # the user of the login in which this process was started
NO_LOGIN = 2**32 - 1  # its content if that was no login


@frozen
class Operator:
    """The user who started this program."""

    name: str
    source: str  # `loginuid`: the kernel keeps it; `sudo`: SUDO_USER, which root may have set itself; `uid`


def find_operator(environ: Mapping[str, str]) -> Operator:
    """Return who started this program: behind su and sudo the user of the login, if the kernel knows it.

    The user is set at a login (pam_loginuid(8)), and a process without privileges cannot change it. SUDO_USER is only a
    variable in the environment of root.
    """
    try:
        login = int(LOGIN.read_text())
    except (OSError, ValueError):  # A kernel without audit has no such file.
        login = NO_LOGIN
    if login != NO_LOGIN:
        return Operator(find_user_name(login), "loginuid")
    if os.geteuid() == 0 and (name := environ.get("SUDO_USER")):
        return Operator(name, "sudo")
    return Operator(find_user_name(os.geteuid()), "uid")


def find_start_obstacle(command: Command) -> str:
    """Return what is certain to prevent a command from starting; empty if nothing is."""
    try:
        find_account(command.user)
    except AccessDenied:
        return ""  # Reported when the command is started: a check needs no permission.
    except HostError as error:
        return error.message
    if command.cwd and not Path(command.cwd).is_dir():
        return f"cannot run a command in {command.cwd}: there is no such folder"
    return ""


def account_environment(user: str) -> dict[str, str]:
    """Return the variables that a command gets from its account.

    Set here, because systemd sets HOME and the others only with User= (252) or SetLoginEnvironment= (255).
    """
    account = find_account(user)
    return {
        "HOME": account.pw_dir,
        "USER": account.pw_name,
        "LOGNAME": account.pw_name,
        "SHELL": account.pw_shell or "/bin/sh",
    }


def find_account(user: str) -> pwd.struct_passwd:
    """Return the account of a user; without a name, that of this program, which is the manager's too."""
    try:
        account = pwd.getpwnam(user) if user else pwd.getpwuid(os.geteuid())
    except KeyError:
        raise HostError(f"cannot run a command as {user or os.geteuid()}: there is no such user") from None
    if os.geteuid() not in (0, account.pw_uid):
        raise AccessDenied(f"cannot run a command as {account.pw_name}: only root may", hint="run it with sudo")
    return account
