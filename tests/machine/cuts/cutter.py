#!/usr/bin/python3
"""Applies a runbook inside a throwaway machine, cuts the run at one of its events, and reports the outcome.

    cutter.py NAME PORT     # orders on standard input, one JSON object a line; an answer to each on standard output

An order has the `book`, the number of the event (`at`, counted from 1), and how to cut (`how`): `kill`, `term`, `int`
or `hold`. For `hold` it answers with `held`, and continues at the next line, whatever that is. `later` is a number of
seconds after the event. `resume` continues the run `run` of a machine that has lost its power.

A run is held at an event from outside. It prints each event after writing it to its record, here to a pipe that holds
one packet (pipe(2), O_DIRECT and one page). As long as the packet of the event before is not read, the program blocks
after it has recorded an event, and before it does what the event announces.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import signal
import socket
import subprocess
import sys
import termios
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

RUNS = Path("/var/lib/runbook/runs")
DISK = Path("/opt/cuts")
OLD, NEW = "1.0", "2.0"
PATIENCE = 60.0
"""Seconds after which a wait fails."""

FIXES = """\
unit: {unit}
port: {port}
steps:
  - update: {{run: "{disk}/install {name} ${{{{ to }}}}", version: cat {folder}/version, to: "2.0"}}
  - restart: {{when: steps.update.changed}}
  - remediate:
      check:
        - wait-ready: {{healthy-for: 200ms, timeout: 30s, max-restarts: 1}}
        - verify-port-owner
      fix: [stop, kill-orphan, reset-failed, start]
      rounds: 1
  - verify-version: {{run: bash -c 'cat < /dev/tcp/127.0.0.1/{port}', expect: "${{{{ steps.update.to }}}}"}}
  - run: {{id: report, run: echo reported >>{folder}/log}}
rollback: auto
"""


class Service:
    """One service in this machine: its folder, unit and port, and the orphan that holds its port."""

    def __init__(self, name: str, port: int) -> None:
        self.name, self.port = name, port
        self.unit = f"{name}.service"
        self.folder = DISK / name
        self.orphan: subprocess.Popen[bytes] | None = None

    def stage(self, book: str) -> None:
        """Stage the begin of a run. For `fixes` an orphan holds the port; for `rolls-back` version 2.0 is broken."""
        self.clear()
        self.folder.mkdir(parents=True, exist_ok=True)
        (self.folder / "version").write_text(f"{OLD}\n")
        (self.folder / "log").write_text("")
        (self.folder / f"{NEW}.broken").unlink(missing_ok=True)
        words = {"unit": self.unit, "port": self.port, "disk": DISK, "name": self.name, "folder": self.folder}
        self.book.write_text(FIXES.format(**words))
        if book == "fixes":
            self.orphan = subprocess.Popen(["perl", DISK / "serve.pl", self.folder, str(self.port)])
        else:
            (self.folder / f"{NEW}.broken").touch()
            systemctl("start", self.unit)
        until(lambda: self.serves() == OLD, f"{self.name} to serve {OLD}")

    def clear(self) -> None:
        until(self._stopped, f"{self.unit} to stop")
        if self.orphan is not None:
            self.orphan.kill()
            self.orphan.wait()
            self.orphan = None

    def _stopped(self) -> bool:
        """Stop the unit, and return True if it is stopped. A manager that is re-executing itself refuses this."""
        systemctl("kill", "--signal=KILL", self.unit)
        systemctl("stop", self.unit)
        systemctl("reset-failed", self.unit)
        return self._properties().get("ActiveState") == "inactive"

    def _properties(self) -> dict[str, str]:
        """Return three properties of the unit, or nothing if the manager does not answer."""
        argv = ["systemctl", "show", "-p", "ActiveState,SubState,MainPID", self.unit]
        shown = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=False).stdout
        return dict(line.split("=", 1) for line in shown.splitlines())

    @property
    def book(self) -> Path:
        return self.folder / "book.yaml"

    def serves(self) -> str:
        """Return the version that answers on the port, or an empty text."""
        with contextlib.suppress(OSError), socket.create_connection(("127.0.0.1", self.port), 5) as there:
            return there.makefile().readline().strip()
        return ""

    def seen(self) -> dict[str, Any]:
        """Return the state of the service, read without the program."""
        unit: dict[str, str] = {}

        def read() -> bool:
            nonlocal unit
            unit = self._properties()
            return "MainPID" in unit

        until(read, f"the properties of {self.unit}")
        listeners = subprocess.run(
            ["ss", "-Hltnp", f"sport = :{self.port}"], capture_output=True, text=True, check=True
        ).stdout
        log = (self.folder / "log").read_text().splitlines()
        return {
            "installed": (self.folder / "version").read_text().strip(),
            "serves": self.serves(),
            "unit": f"{unit['ActiveState']} ({unit['SubState']})",
            "owned": f"pid={unit['MainPID']}," in listeners and listeners.count("pid=") == 1,
            "orphan": self.orphan is not None and self.orphan.poll() is None,
            "log": log,
        }


class Held:
    """A run that continues to one of its events, and blocks there until it is released."""

    def __init__(self, service: Service) -> None:
        for folder in runs_of(service):
            subprocess.run(["rm", "-rf", folder], check=True)  # left by an order that failed
        self._read, write = os.pipe2(os.O_DIRECT | os.O_CLOEXEC)
        fcntl.fcntl(write, fcntl.F_SETPIPE_SZ, 4096)
        self._lengths = [os.write(write, b"the first packet")]
        self._taken = 0
        self.printed = bytearray()
        self.began = time.monotonic()
        self.process = subprocess.Popen(
            ["runbook", "apply", service.book, "--output", "json"], stdout=write, stderr=subprocess.PIPE
        )
        os.close(write)
        self._service = service
        self._folder: Path | None = None
        self._released: threading.Thread | None = None

    @property
    def folder(self) -> Path | None:
        """Return the folder of its record, or None if there is none yet."""
        if self._folder is None:
            self._folder = next(runs_of(self._service), None)
        return self._folder

    def lines(self) -> list[bytes]:
        return record(self.folder)

    def run_to(self, at: int) -> bool:
        """Let the run continue until event number `at` is recorded, and block there. False if it ended before."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            # An event is recorded before it is printed: what waits now is in the record that is read next.
            there = self._waits()
            lines = self.lines()
            if len(lines) >= at:
                return True
            if self.process.poll() is not None:
                return False
            ends = sum([*self._lengths, *map(len, lines)])
            # The last packet of the event before must not be read, as it blocks the run.
            if there and (len(lines) < at - 1 or self._taken + there < ends):
                self._take()
            else:
                time.sleep(0.001)
        raise TimeoutError(f"event {at} did not come; there are {len(lines)}")

    def release(self) -> None:
        """Let the run continue to its end."""

        def take_all() -> None:
            while self._take():
                pass

        self._released = threading.Thread(target=take_all)
        self._released.start()

    def end(self) -> tuple[int, str]:
        """Wait for the end of the run, and return its status and its standard error."""
        assert self.process.stderr is not None
        if self._released is None:
            self.release()
        _, stderr = self.process.communicate(timeout=PATIENCE)
        assert self._released is not None
        self._released.join()
        os.close(self._read)
        return self.process.returncode, stderr.decode()

    def _waits(self) -> int:
        return int.from_bytes(fcntl.ioctl(self._read, termios.FIONREAD, bytes(4)), sys.byteorder)

    def _take(self) -> bool:
        packet = os.read(self._read, 4096)
        self._taken += len(packet)
        self.printed += packet
        return bool(packet)


def carry_out(service: Service, order: dict[str, Any]) -> dict[str, Any]:
    """Carry an order out, and return the facts of the run."""
    facts: dict[str, Any] = {**order}
    if order["how"] == "resume":
        name, first, exits = order["run"], int(order["first"]), []
    else:
        service.stage(order["book"])
        held = Held(service)
        reached = held.run_to(order["at"])
        if order.get("later"):
            held.release()
            time.sleep(order["later"])
        name = held.folder.name if held.folder else ""
        first = len(held.lines())
        if order["how"] == "hold":
            answer({"held": name, "first": first, "reached": reached})
            sys.stdin.readline()
        elif reached and held.process.poll() is None:
            number = {"kill": signal.SIGKILL, "term": signal.SIGTERM, "int": signal.SIGINT}[order["how"]]
            held.process.send_signal(number)
        asked = time.monotonic()
        status, stderr = held.end()
        exits = [status]
        facts |= {"ended-in": round(time.monotonic() - asked, 3), "stderr": stderr}
        if held.folder is not None:
            name, first = held.folder.name, max(first, len(held.lines()))
    before = record(RUNS / name)
    facts |= {"run": name, "first": len(before), "last": parsed(before)[-1] if before else {}}
    hint, decisions = "", 0
    while name and resumable(before) and decisions < 3:
        words = hint.partition("resume ")[2].partition(",")[0].split()[1:] if hint else []
        done = subprocess.run(
            ["runbook", "resume", name, *words, "--output", "json"],
            capture_output=True,
            text=True,
            timeout=PATIENCE,
            check=False,
        )
        exits.append(done.returncode)
        ended = json.loads(done.stdout.splitlines()[-1])
        facts["stderr"] = facts.get("stderr", "") + done.stderr
        facts["resumed"] = ended
        hint = ended.get("hint", "") if done.returncode == 5 else ""
        if "--rerun" not in hint:
            break
        facts["asked"] = hint
        decisions += 1
    after = record(RUNS / name)
    facts |= {
        "exits": exits,
        "prefix": after[: len(before)] == before,
        "events": parsed(after),
        "seen": service.seen(),
        "boots": first,
    }
    service.clear()
    if name:
        subprocess.run(["rm", "-rf", RUNS / name], check=True)
    return facts


def runs_of(service: Service) -> Iterator[Path]:
    """Yield the folders of the runs of a service's runbook. Other folders belong to other lanes."""
    for folder in list(RUNS.glob("*")):
        with contextlib.suppress(OSError, ValueError):
            if json.loads((folder / "run.json").read_text())["file"] == str(service.book):
                yield folder


def resumable(lines: list[bytes]) -> bool:
    """Return True if the record is of a run that can be resumed."""
    last = parsed(lines)[-1] if lines else {}
    return last.get("event") != "run-finished" or last.get("status") in ("interrupted", "still-starting")


def record(folder: Path | None) -> list[bytes]:
    """Return the complete lines of a record."""
    with contextlib.suppress(OSError):
        if folder is not None:
            lines = (folder / "events.jsonl").read_bytes().splitlines(keepends=True)
            return [line for line in lines if line.endswith(b"\n")]
    return []


def parsed(lines: list[bytes]) -> list[dict[str, Any]]:
    kept = ("event", "id", "status", "verdict", "reason", "exit", "now", "hint", "step", "round")
    return [{key: value for key, value in json.loads(line).items() if key in kept} for line in lines]


def systemctl(*words: str) -> None:
    subprocess.run(["systemctl", *words], stderr=subprocess.DEVNULL, check=False)


def until(holds: Any, what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited for {what}")
        time.sleep(0.01)


def answer(facts: dict[str, Any]) -> None:
    print(json.dumps(facts), flush=True)


def main() -> None:
    service = Service(sys.argv[1], int(sys.argv[2]))
    for line in sys.stdin:
        try:
            answer(carry_out(service, json.loads(line)))
        except Exception as error:  # cuts.py judges the failure.
            done = sorted(RUNS.glob("*"), key=lambda folder: folder.stat().st_mtime)
            last = [parsed(record(folder))[-3:] for folder in done]
            answer({**json.loads(line), "broken": f"{type(error).__name__}: {error}", "last": last})
            service.clear()


if __name__ == "__main__":
    main()
