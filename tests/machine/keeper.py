"""Boots one machine for a test, and removes it when the machine or the test ends.

A test may end at any moment: by SIGKILL, a time-out, a lost terminal. So this process boots the machine. It runs in a
session of its own, and its standard input is a pipe from the test. When that pipe closes, it kills the machine.

If the keeper itself is killed, the kernel removes the machine. systemd-nspawn is the first process of a PID namespace
of its own, which is killed with the keeper, and all processes of the machine with it. (To kill nspawn alone would not
end the machine.) Mounts exist only in a mount namespace of their own. Only the empty control groups of the machine
stay, until the next keeper removes them.

It is called as `keeper.py NAME nspawn-argv…`, and reads the lines `poweroff` and `kill` from standard input. When the
machine has ended and nothing of it is left, it exits with nspawn's status.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

PREFIX = "runbook-machine-"

# nspawn makes folders for each machine below /run/systemd/nspawn, and leaves them there if it is killed. A tmpfs over
# that path, in the mount namespace of this nspawn only, is removed with them.
_ALONE = """
mount -t tmpfs -o mode=0755 tmpfs /run/systemd/nspawn
exec "$@"
"""


def control_groups(name: str) -> list[Path]:
    """Return the folders of a machine's control groups, below the one of this process.

    The first is in the unified hierarchy. On a host that still has version 1, the second is in systemd's named one.
    """
    mounts: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        before, _, after = line.partition(" - ")
        kind, _, options = after.split(" ", 2)
        if kind == "cgroup2":
            mounts.setdefault("", Path(before.split()[4]))
        elif kind == "cgroup" and "name=systemd" in options.split(","):
            mounts.setdefault("name=systemd", Path(before.split()[4]))
    groups = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        if controllers in mounts:
            groups[controllers] = mounts[controllers] / path.lstrip("/") / name
    return [groups[controllers] for controllers in sorted(groups)]


def main() -> int:
    name, argv = sys.argv[1], sys.argv[2:]
    Path("/run/systemd/nspawn").mkdir(parents=True, exist_ok=True)
    sweep()
    groups = control_groups(name)
    for group in groups:
        group.mkdir()
    try:
        return _hold(groups, argv)
    finally:
        for group in groups:
            remove(group)


def _hold(groups: list[Path], argv: list[str]) -> int:
    join = "".join(f'echo 0 > "{group}/cgroup.procs"\n' for group in groups)
    with_us = ["setpriv", "--pdeathsig", "KILL"]
    apart = ["unshare", "--mount", "--propagation=slave", "--pid", "--fork", "--kill-child", "--mount-proc"]
    namespace = subprocess.Popen(
        [*with_us, *apart, "sh", "-euc", join + _ALONE, "sh", *argv],
        stdin=subprocess.DEVNULL,
    )
    ended = os.pidfd_open(namespace.pid)
    poll = select.poll()
    poll.register(ended, select.POLLIN)
    poll.register(sys.stdin.fileno(), select.POLLIN | select.POLLHUP)
    while True:
        ready = [descriptor for descriptor, _ in poll.poll()]
        if ended in ready:
            return namespace.wait()
        order = os.read(sys.stdin.fileno(), 64)
        if order.startswith(b"poweroff"):
            for nspawn in children(namespace.pid):
                os.kill(nspawn, signal.SIGTERM)
        else:
            namespace.kill()
            poll.unregister(sys.stdin.fileno())


def children(pid: int) -> list[int]:
    """Return the PIDs of the running children of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


@contextlib.contextmanager
def _suppressed(number: int) -> Iterator[None]:
    """Ignore one error number. The kernel returns ENODEV for a control group that has been removed."""
    try:
        yield
    except OSError as error:
        if error.errno != number:
            raise


def remove(group: Path, deadline_ms: int = 10_000) -> None:
    """Kill the processes of a control group, and remove it with its subgroups. Another keeper may do so too."""
    with contextlib.suppress(FileNotFoundError), _suppressed(errno.ENODEV):
        if (group / "cgroup.kill").exists():
            (group / "cgroup.kill").write_text("1")
            _wait_until_empty(group, deadline_ms)
        for folder, _, _ in os.walk(group, topdown=False):
            Path(folder).rmdir()


def _wait_until_empty(group: Path, deadline_ms: int) -> None:
    with (group / "cgroup.events").open() as events:
        poll = select.poll()
        poll.register(events, select.POLLPRI)
        while "populated 1" in events.read():
            if not poll.poll(deadline_ms):
                raise TimeoutError(f"{group} still has processes")
            events.seek(0)


def sweep() -> None:
    """Remove the control groups of machines whose test and keeper were both killed.

    The name of a machine begins with the PID of its test.
    """
    for pattern in control_groups(f"{PREFIX}*"):
        for group in pattern.parent.glob(pattern.name):
            test = group.name.removeprefix(PREFIX).partition("-")[0]
            if not Path("/proc", test).exists():
                remove(group)


if __name__ == "__main__":
    sys.exit(main())
