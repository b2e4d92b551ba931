"""Applies a runbook inside a throwaway machine, sends the run a signal at an event, and reports how long its end took.

    python3 -m tests.machine.cuts.hurry SERVICE SIGNAL EVENT STEP [--freeze] [--busy FILE] [--begun FILE]

The runbook is /opt/cuts/SERVICE/book.yaml, and the event is the first of that name and step. With `--freeze` the bus
does not answer from that event on, until the run has ended. With `--busy` systemd reloads its unit files from then on,
which has begun when the file exists. With `--begun` the signal is sent once the file exists. With SIGNAL `none` no
signal is sent. It prints one JSON object.
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

from tests.machine.cuts.cutter import Held, Service, parsed, until

AIM = 0.3
"""Seconds after which the run should be in the wait that is tested. On a slow machine the signal may come before."""


@contextlib.contextmanager
def frozen() -> Iterator[None]:
    """Stop the bus with SIGSTOP, so that it accepts messages and does not answer."""
    argv = ["systemctl", "show", "-p", "MainPID", "--value", "dbus.service"]
    daemon = int(subprocess.run(argv, capture_output=True, text=True, check=True).stdout)
    os.kill(daemon, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(daemon, signal.SIGCONT)


@contextlib.contextmanager
def busy(mark: Path) -> Iterator[None]:
    """Start a daemon-reload, which takes as long as its generators."""
    with subprocess.Popen(["systemctl", "daemon-reload"], stderr=subprocess.DEVNULL):
        until(mark.exists, f"{mark}")
        yield


def held_at(service: Service, event: str, step: str) -> Held:
    """Start a run, and hold it at an event."""
    held = Held(service)
    at = 0
    while True:
        at += 1
        assert held.run_to(at), f"{event} of {step} did not come: {held.lines()}"
        now = parsed(held.lines())[at - 1]
        if (now["event"], now.get("id")) == (event, step):
            return held


def main() -> None:
    parser = argparse.ArgumentParser()
    for name in ("service", "signal", "event", "step"):
        parser.add_argument(name)
    parser.add_argument("--freeze", action="store_true")
    parser.add_argument("--busy", type=Path)
    parser.add_argument("--begun", type=Path)
    arguments = parser.parse_args()
    held = held_at(Service(arguments.service, 0), arguments.event, arguments.step)
    with frozen() if arguments.freeze else busy(arguments.busy) if arguments.busy else contextlib.nullcontext():
        held.release()
        if arguments.begun is not None:
            until(arguments.begun.exists, f"{arguments.begun}")
        time.sleep(AIM)
        began = time.monotonic()
        if arguments.signal != "none":
            held.process.send_signal(getattr(signal, arguments.signal))
        status = held.process.wait(60)
        seconds = time.monotonic() - began
    held.end()
    events = parsed(held.lines())
    print(
        json.dumps({"status": status, "seconds": seconds, "end": events[-1], "run": held.folder and held.folder.name})
    )


if __name__ == "__main__":
    main()
