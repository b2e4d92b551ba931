"""Runs in a throwaway machine: carries a runbook out, sends it a signal at an event, and tells how long it took to end.

    python3 -m tests.machine.cuts.hurry SERVICE SIGNAL EVENT STEP [--freeze] [--busy FILE] [--begun FILE]

The runbook is /opt/cuts/SERVICE/book.yaml, the event the first of that name and step. `--freeze`: the bus says nothing
from that event on, until the run has ended. `--busy`: systemd reads its unit files again from there on, and is at it
when this file is there. `--begun`: the signal waits for this file; none is sent where SIGNAL is `none`. Prints one JSON
object.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

from tests.machine.cuts.cutter import Held, Service, told, until

AIM = 0.3
"""Seconds in which the run comes to wait for what is aimed at. If it needs longer, the signal meets it before."""


@contextlib.contextmanager
def frozen() -> Iterator[None]:
    """Let the bus take whatever is sent to it, and answer nothing."""
    asked = ["systemctl", "show", "-p", "MainPID", "--value", "dbus.service"]
    daemon = int(subprocess.run(asked, capture_output=True, text=True, check=True).stdout)
    os.kill(daemon, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon, signal.SIGCONT)


@contextlib.contextmanager
def busy(mark: Path) -> Iterator[None]:
    """Let systemd read its unit files again, which takes as long as the generators do."""
    with subprocess.Popen(["systemctl", "daemon-reload"], stderr=subprocess.DEVNULL):
        until(mark.exists, f"{mark}")
        yield


def held_at(service: Service, event: str, step: str) -> Held:
    """Let a run go on to an event, and no further."""
    held = Held(service)
    at = 0
    while True:
        at += 1
        assert held.run_to(at), f"{event} of {step} did not come: {held.lines()}"
        now = told(held.lines())[at - 1]
        if (now["event"], now.get("id")) == (event, step):
            return held


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("service", "signal", "event", "step"):
        parser.add_argument(name)
    parser.add_argument("--freeze", action="store_true")
    parser.add_argument("--busy", type=Path)
    parser.add_argument("--begun", type=Path)
    asked = parser.parse_args()
    held = held_at(Service(asked.service, 0), asked.event, asked.step)
    with frozen() if asked.freeze else busy(asked.busy) if asked.busy else contextlib.nullcontext():
        held.release()
        if asked.begun is not None:
            until(asked.begun.exists, f"{asked.begun}")
        time.sleep(AIM)
        began = time.monotonic()
        if asked.signal != "none":
            held.process.send_signal(getattr(signal, asked.signal))
        status = held.process.wait(60)
        seconds = time.monotonic() - began
    held.end()
    events = told(held.lines())
    print(
        json.dumps({"status": status, "seconds": seconds, "end": events[-1], "run": held.folder and held.folder.name})
    )


if __name__ == "__main__":
    main()
