"""A dbus-daemon for one test, with a fake systemd on it; both can be killed and started again."""

from __future__ import annotations

import queue
import subprocess
import sys
import threading
from pathlib import Path
from typing import Self

CONFIGURATION = """\
<!DOCTYPE busconfig PUBLIC "-//freedesktop//DTD D-Bus Bus Configuration 1.0//EN"
 "http://www.freedesktop.org/standards/dbus/1.0/busconfig.dtd">
<busconfig>
  <type>session</type>
  <listen>{address}</listen>
  <auth>EXTERNAL</auth>
  <policy context="default">
    <allow send_destination="*" eavesdrop="true"/>
    <allow eavesdrop="true"/>
    <allow own="*"/>
  </policy>
</busconfig>
"""

PATIENCE = 10.0
"""Seconds after which a test gives up waiting."""

PROMPT = 4.0
"""Seconds that suffice on a busy machine, and are fewer than any other time-out in the call."""


class PrivateBus:
    """A dbus-daemon at an address of its own, with a fake systemd."""

    def __init__(self, folder: Path) -> None:
        self.address = f"unix:path={folder}/bus"
        self._configuration = folder / "bus.conf"
        self._configuration.write_text(CONFIGURATION.format(address=self.address))
        self._lines: list[str] = []
        self._unread: queue.Queue[str] = queue.Queue()
        self._daemon: subprocess.Popen[str] | None = None
        self._systemd: subprocess.Popen[str] | None = None

    def __enter__(self) -> Self:
        self.start_daemon()
        self.start_systemd()
        return self

    def __exit__(self, *_: object) -> None:
        self.kill_systemd()
        self.kill_daemon()

    @property
    def daemon(self) -> int:
        """Return the PID of the dbus-daemon."""
        assert self._daemon is not None
        return self._daemon.pid

    def start_daemon(self) -> None:
        argv = ["dbus-daemon", f"--config-file={self._configuration}", "--nofork", "--nopidfile", "--print-address"]
        self._daemon = subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        assert self._daemon.stdout is not None
        assert self._daemon.stdout.readline()

    def kill_daemon(self) -> None:
        _kill(self._daemon)

    def start_systemd(self) -> None:
        argv = [sys.executable, str(Path(__file__).with_name("fake_systemd.py")), self.address]
        self._systemd = subprocess.Popen(argv, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        self._listener = threading.Thread(target=self._listen, args=(self._systemd,), daemon=True)
        self._listener.start()
        self.wait_for("ready")

    def kill_systemd(self) -> None:
        _kill(self._systemd)
        self._systemd = None
        self._listener.join()

    @property
    def calls(self) -> list[str]:
        """Return the calls that the fake systemd has received, in order."""
        if self._systemd is not None:
            # The fake prints a call before it answers it, so the `ok` of `mark` comes after all calls.
            self.order("mark")
        return [line for line in self._lines if line not in ("ready", "ok")]

    def order(self, line: str) -> None:
        """Send an order to the fake systemd, and wait until it is carried out."""
        assert self._systemd is not None
        assert self._systemd.stdin is not None
        self._systemd.stdin.write(f"{line}\n")
        self._systemd.stdin.flush()
        self.wait_for("ok")

    def wait_for(self, line: str) -> None:
        """Wait until the fake systemd prints a line; drop the lines before it."""
        while self._unread.get(timeout=PATIENCE) != line:
            pass

    def _listen(self, systemd: subprocess.Popen[str]) -> None:
        assert systemd.stdout is not None
        with systemd.stdout as lines:
            for line in lines:
                self._lines.append(line.strip())
                self._unread.put(line.strip())


def _kill(process: subprocess.Popen[str] | None) -> None:
    if process is not None:
        process.kill()
        process.wait()
        for pipe in (process.stdin, process.stdout):
            # The thread that reads the fake's output closes it.
            if pipe is not None and (pipe is process.stdin or process.stdin is None):
                pipe.close()
