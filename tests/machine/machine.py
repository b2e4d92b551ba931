"""A throwaway machine: a tree booted under systemd-nspawn, with a systemd of its own as PID 1.

Its writes go to a tmpfs over the tree, and are lost when it ends. It has a loopback interface of its own and no
other network. Commands run beside its init, in a control group of no unit, as if typed at a console. Needs root.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import select
import shlex
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import IO, Self, TypeVar

from tests.machine import keeper
from tests.machine.tree import CHECKOUT, PROJECT, compile_checkout, tree

T = TypeVar("T")

_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"


class MachineError(Exception):
    """A machine did not boot or did not shut down. The message has the last lines of its console."""


class CommandFailed(subprocess.CalledProcessError):
    """A command in a machine exited with a status other than 0. The message has its output."""

    def __str__(self) -> str:
        streams = {"stdout": self.stdout, "stderr": self.stderr}
        shown = "".join(f"\n--- {name}\n{text}" for name, text in streams.items() if text)
        return f"`{shlex.join(self.cmd)}` ended with {self.returncode}{shown}"


class Machine:
    """One machine, booted when its context is entered and killed when it is left.

    `suite` and the names of what else is installed choose the tree. `bind` maps folders and files of the host to paths
    inside, read-only. `disk` maps folders that the machine may write to, and which are kept: after another boot their
    files are still there.
    """

    def __init__(
        self,
        suite: str = "bookworm",
        *,
        software: bool = False,
        rivals: bool = False,
        needrestart: bool = False,
        services: bool = False,
        clean: bool = False,
        bind: Mapping[Path, str] | None = None,
        disk: Mapping[Path, str] | None = None,
        boot_timeout: float = 60,
    ) -> None:
        self.suite = suite
        self.software = software
        self.rivals = rivals
        self.needrestart = needrestart
        self.services = services
        self.clean = clean
        self.name = f"{keeper.PREFIX}{os.getpid()}-{secrets.token_hex(3)}"
        self.leader = 0
        """PID of the machine's init on the host."""
        self._bind = {**({} if clean else {CHECKOUT: str(PROJECT)}), **(bind or {})}
        self._disk = disk or {}
        self._boot_timeout = boot_timeout
        self._console = -1
        self._last_words = ""
        self._group = Path()
        self._keeper: subprocess.Popen[bytes] | None = None
        self._accounts: dict[str, tuple[str, str, str]] = {}

    # --- up and down

    def __enter__(self) -> Self:
        self.boot()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()

    def boot(self) -> None:
        """Boot, and wait until systemd has finished starting. Raises MachineError or TreeError."""
        if os.geteuid() != 0:
            raise MachineError("a throwaway machine needs root: systemd-nspawn mounts and makes namespaces")
        root = tree(
            self.suite,
            software=self.software,
            rivals=self.rivals,
            needrestart=self.needrestart,
            services=self.services,
            clean=self.clean,
        )
        if not self.clean:
            compile_checkout(self.suite)
        deadline = time.monotonic() + self._boot_timeout
        self._console = os.memfd_create("console")
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as notify:
            notify.bind(f"\0{self.name}")
            self._keeper = subprocess.Popen(
                [sys.executable, "-IS", keeper.__file__, self.name, *self._nspawn(root)],
                stdin=subprocess.PIPE,
                stdout=self._console,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                env={
                    "PATH": _PATH,
                    "NOTIFY_SOCKET": f"@{self.name}",
                    "SYSTEMD_NSPAWN_UNIFIED_HIERARCHY": "1",
                },
            )
            try:
                self._wait_for_boot(notify, deadline)
            except BaseException:
                self.kill()
                raise

    def _nspawn(self, root: Path) -> list[str]:
        return [
            "systemd-nspawn",
            f"--directory={root}",
            "--volatile=overlay",
            "--boot",
            "--register=no",
            "--keep-unit",
            f"--machine={self.name}",
            "--console=read-only",
            "--private-network",
            "--notify-ready=yes",
            "--link-journal=no",
            *(f"--bind-ro={_escaped(str(source))}:{inside}" for source, inside in self._bind.items()),
            *(f"--bind={_escaped(str(source))}:{inside}" for source, inside in self._disk.items()),
        ]

    def _wait_for_boot(self, notify: socket.socket, deadline: float) -> None:
        """Wait until nspawn reports that the machine's systemd is up."""
        assert self._keeper is not None
        ended = os.pidfd_open(self._keeper.pid)
        try:
            poll = select.poll()
            poll.register(notify, select.POLLIN)
            poll.register(ended, select.POLLIN)
            while True:
                ready = dict(poll.poll(max(0, deadline - time.monotonic()) * 1000))
                if notify.fileno() in ready:
                    notified = dict(line.partition("=")[::2] for line in notify.recv(4096).decode().splitlines())
                    if notified.get("READY") == "1":
                        break
                elif ended in ready:
                    raise MachineError(self._with_console(f"systemd-nspawn ended with {self._keeper.wait()}"))
                else:
                    raise MachineError(self._with_console(f"not up after {self._boot_timeout:g}s"))
        finally:
            os.close(ended)
        # keeper -> unshare -> nspawn -> init. The PID that nspawn reports is one of its own PID namespace.
        [namespace] = keeper.children(self._keeper.pid)
        [nspawn] = keeper.children(namespace)
        [self.leader] = keeper.children(nspawn)
        self._make_group()
        left = max(1, deadline - time.monotonic())
        asked = self.run(["systemctl", "is-system-running", "--wait"], check=False, timeout=left)
        state = asked.stdout.strip()
        if state not in ("running", "degraded"):
            raise MachineError(self._with_console(f"systemd is `{state}` instead of running"))

    def _make_group(self) -> None:
        """Make a control group for commands: in the machine's own hierarchy, but of no unit."""
        groups = Path(f"/proc/{self.leader}/cgroup").read_text().splitlines()
        [group] = [line for line in groups if line.startswith("0::")]
        init_scope = group.partition(self.name)[2].lstrip("/")
        self._group = keeper.control_groups(self.name)[0] / Path(init_scope).parent / "console"
        self._group.mkdir(exist_ok=True)

    def poweroff(self, timeout: float = 30) -> None:
        """Shut the machine down cleanly. Raises MachineError if that takes longer than `timeout` seconds."""
        self._end(b"poweroff\n", timeout)

    def kill(self) -> None:
        """Kill the machine at once, as a power cut would."""
        self._end(b"kill\n", 30)

    def _end(self, order: bytes, timeout: float) -> None:
        held, self._keeper = self._keeper, None
        if held is None:
            return
        assert held.stdin is not None
        try:
            with contextlib.suppress(BrokenPipeError):
                held.stdin.write(order)
                held.stdin.flush()
            held.wait(timeout)
        except subprocess.TimeoutExpired as late:
            asked = order.decode().strip()
            raise MachineError(self._with_console(f"still there {timeout:g}s after `{asked}`")) from late
        finally:
            # In any case, a closed pipe makes the keeper kill what is left.
            with contextlib.suppress(BrokenPipeError):
                held.stdin.close()
            held.wait(30)
            self._last_words = self.console()
            os.close(self._console)
            self._console = -1

    def console(self) -> str:
        """Return what the machine has printed on its console, even after its end."""
        if self._console < 0:
            return self._last_words
        size = os.fstat(self._console).st_size
        return os.pread(self._console, size, 0).decode(errors="replace").replace("\r\n", "\n")

    def _with_console(self, message: str) -> str:
        last = "\n".join(self.console().splitlines()[-40:])
        return f"machine {self.name} ({self.suite}): {message}\n--- console\n{last or '(nothing)'}"

    # --- inside

    def command(
        self, argv: Sequence[str], *, env: Mapping[str, str] | None = None, user: str | None = None
    ) -> list[str]:
        """Return the command that runs a command in the machine, from the host.

        The host's environment does not reach it. `user` gets the variables that a login would set, with
        XDG_RUNTIME_DIR, but no login session.
        """
        if not self.leader:
            raise MachineError(f"{self.name} is not booted")
        variables = {"PATH": _PATH, "LANG": "C.UTF-8", "TERM": "dumb", "SHELL": "/bin/bash"}
        become: list[str] = []
        if user is None or user == "root":
            variables |= {"HOME": "/root", "USER": "root", "LOGNAME": "root"}
        else:
            uid, gid, home = self._account(user)
            variables |= {"HOME": home, "USER": user, "LOGNAME": user, "XDG_RUNTIME_DIR": f"/run/user/{uid}"}
            become = ["setpriv", f"--reuid={uid}", f"--regid={gid}", "--init-groups", "--"]
        assignments = [f"{name}={value}" for name, value in (variables | dict(env or {})).items()]
        # The shell moves itself into the machine's control group, then executes nsenter.
        move = ["sh", "-c", 'echo $$ > "$0/cgroup.procs" && exec "$@"', str(self._group)]
        # It enters the root as well as the namespaces: on a host that is itself in a chroot the two differ.
        enter = ["nsenter", f"--target={self.leader}", "--all", "--root", "--wd"]
        return [*move, *enter, "--", *become, "env", "-i", *assignments, *argv]

    def popen(
        self,
        argv: Sequence[str],
        *,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
        stdin: int | IO[str] | None = subprocess.DEVNULL,
        stdout: int | IO[str] | None = subprocess.PIPE,
        stderr: int | IO[str] | None = subprocess.PIPE,
    ) -> subprocess.Popen[str]:
        """Start a command in the machine, in a session and process group of its own."""
        return subprocess.Popen(
            self.command(argv, env=env, user=user),
            stdin=stdin,
            stdout=stdout,
            stderr=stderr,
            text=True,
            start_new_session=True,
        )

    def run(
        self,
        argv: Sequence[str],
        *,
        check: bool = True,
        input: str | None = None,  # noqa: A002 - as subprocess.run names it
        timeout: float = 60,
        env: Mapping[str, str] | None = None,
        user: str | None = None,
    ) -> subprocess.CompletedProcess[str]:
        """Run a command in the machine, and wait until it exits.

        Raises CommandFailed on a status other than 0, unless `check` is false. After `timeout` seconds it kills the
        command, and raises subprocess.TimeoutExpired.
        """
        stdin = subprocess.DEVNULL if input is None else subprocess.PIPE
        with self.popen(argv, env=env, user=user, stdin=stdin) as process:
            try:
                out, err = process.communicate(input, timeout)
            except BaseException:
                # nsenter waits for a child in the machine's PID namespace, so both are killed.
                with contextlib.suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                raise
        if check and process.returncode != 0:
            raise CommandFailed(process.returncode, list(argv), out, err)
        return subprocess.CompletedProcess(list(argv), process.returncode, out, err)

    def _account(self, user: str) -> tuple[str, str, str]:
        if user not in self._accounts:
            fields = self.run(["getent", "passwd", user]).stdout.split(":")
            self._accounts[user] = (fields[2], fields[3], fields[5])
        return self._accounts[user]

    def write(self, path: str, text: str, mode: int = 0o644) -> None:
        """Write a file that belongs to root, and make its folders."""
        script = 'mkdir -p "$(dirname "$1")" && cat > "$1" && chmod "$2" "$1"'
        self.run(["sh", "-ec", script, "sh", path, f"{mode:o}"], input=text)

    def read(self, path: str) -> str:
        return self.run(["cat", "--", path]).stdout

    def show(self, unit: str, *properties: str) -> dict[str, str]:
        """Return the properties of a unit from `systemctl show`: all of them, or the given ones."""
        only = [f"--property={','.join(properties)}"] if properties else []
        lines = self.run(["systemctl", "show", *only, "--", unit]).stdout.splitlines()
        return dict(line.partition("=")[::2] for line in lines)


def until(look: Callable[[], T], what: str, timeout: float = 30) -> T:
    """Call a function again and again until its result is true, and return the result.

    This is for changes that no event announces. After `timeout` seconds it raises TimeoutError with `what`, the
    description of the change, and the last result.
    """
    deadline = time.monotonic() + timeout
    while not (seen := look()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited {timeout:g}s for {what}; last seen: {seen!r}")
        time.sleep(0.02)
    return seen


def least(measure: Callable[[], float], within: float, tries: int = 3) -> float:
    """Measure seconds until one measurement is below the limit, and return the least.

    The tests run on a shared computer. A busy moment makes one measurement slow; a slow program makes all slow.
    """
    seconds = measure()
    while seconds >= within and (tries := tries - 1):
        seconds = min(seconds, measure())
    return seconds


def _escaped(path: str) -> str:
    """Escape a path for an option of nspawn, in which `:` ends a path."""
    return path.replace("\\", "\\\\").replace(":", "\\:")
