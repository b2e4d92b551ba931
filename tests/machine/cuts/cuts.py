"""Cuts runs short in a throwaway machine, resumes them, and judges the outcome."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any

from tests.machine.machine import Machine
from tests.machine.tree import PROJECT

Order = dict[str, Any]
Facts = dict[str, Any]

HERE = Path(__file__).parent
DISK = "/opt/cuts"
UNITS = "/usr/local/lib/systemd/system"
RECORDS = "/var/lib/runbook"
KEPT = (DISK, UNITS, RECORDS)
"""Folders that are kept when a machine loses its power and boots again."""

LANES = 8
"""Number of services in a machine. Each of them waits most of the time."""

INSTALL = """\
#!/bin/sh -e
# It takes a moment, so that it can be cut. The version file is replaced in one step.
cd /opt/cuts/$1
echo "begin $2" >>log
sleep 0.15
echo "$2" >version.new
mv version.new version
sleep 0.05
echo "end $2" >>log
"""

# A crash loop hits the limit within its five seconds. The interval is not longer, because a run that finds the starts
# of the run before it in the journal waits until they no longer count.
SERVICE = """\
[Unit]
StartLimitIntervalSec=5
StartLimitBurst=5

[Service]
ExecStart=/usr/bin/perl {disk}/serve.pl {disk}/{name} {port}
Restart=always
RestartSec=300ms
"""

ENDS: Mapping[str, Facts] = {
    "fixes": {"status": "remediated", "exit": 0, "version": "2.0", "events": 48},
    "rolls-back": {"status": "rolled-back", "exit": 4, "version": "1.0", "events": 66},
}
"""The outcome of each runbook without a cut, and the least number of its events."""

DISTURBANCES = {
    "dbus": ["sh", "-c", "systemctl reset-failed dbus.service; exec systemctl restart dbus.service"],
    "daemon-reload": ["systemctl", "daemon-reload"],
    "daemon-reexec": ["systemctl", "daemon-reexec"],
}
"""Commands that interrupt a run's connection to the bus or to the manager."""


class Lane:
    """A process in a machine that carries out one order after the other."""

    def __init__(self, machine: Machine, name: str, argv: Sequence[str], env: Mapping[str, str] | None = None) -> None:
        self.name = name
        self._process = machine.popen(argv, stdin=subprocess.PIPE, stderr=None, env=env)

    def order(self, order: Order | None) -> None:
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(order) + "\n")
        self._process.stdin.flush()

    def answer(self) -> Facts:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        assert line, f"{self.name} ended with {self._process.wait()}"
        facts: Facts = json.loads(line)
        return {"lane": self.name, **facts}

    def drop(self) -> None:
        """Close the pipes to a process whose machine was killed."""
        for stream in (self._process.stdin, self._process.stdout):
            assert stream is not None
            with suppress(BrokenPipeError):
                stream.close()
        self._process.wait(60)

    def close(self) -> None:
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(60)
        assert self._process.stdout is not None
        self._process.stdout.close()


def _cutter(machine: Machine, number: int) -> Lane:
    """Start the process (cutter.py) that cuts the runs of one service."""
    name = f"lane-{number}"
    cutter = f"{PROJECT}/tests/machine/cuts/cutter.py"
    return Lane(machine, name, ["/usr/bin/python3", cutter, name, str(19000 + number)])


def prepare(machine: Machine, *, enabled: bool = True) -> None:
    """Install the services and their installer. If `enabled`, a boot starts the services."""
    machine.write(f"{DISK}/serve.pl", (HERE / "serve.pl").read_text())
    machine.write(f"{DISK}/install", INSTALL, 0o755)
    for number in range(LANES):
        name = f"lane-{number}"
        machine.write(f"{UNITS}/{name}.service", SERVICE.format(disk=DISK, name=name, port=19000 + number))
        if enabled:
            machine.run(["mkdir", "-p", f"{UNITS}/multi-user.target.wants"])
            machine.run(["ln", "-sf", f"../{name}.service", f"{UNITS}/multi-user.target.wants/"])
    machine.run(["systemctl", "daemon-reload"])


@contextmanager
def lanes(machine: Machine) -> Iterator[list[Lane]]:
    """Start a lane for each service."""
    with ExitStack() as stack:
        made = [_cutter(machine, number) for number in range(LANES)]
        for lane in made:
            stack.callback(lane.close)
        yield made


def several(open_lanes: Sequence[Lane], orders: Iterable[Order]) -> Iterator[Facts]:
    """Carry orders out, distributed over the lanes, and yield the facts of each run."""
    waiting, left = list(orders), list[Lane]()
    for lane in open_lanes[: len(waiting)]:
        lane.order(waiting.pop(0))
        left.append(lane)
    while left:
        lane = left.pop(0)
        yield lane.answer()
        if waiting:
            lane.order(waiting.pop(0))
            left.append(lane)


def at_once(
    open_lanes: Sequence[Lane], orders: Sequence[Order], disturb: Callable[[], subprocess.Popen[str]]
) -> Iterator[Facts]:
    """Hold a run in each lane at its own event, start a command that disturbs all of them, and release them."""
    for begin in range(0, len(orders), len(open_lanes)):
        held = _held(open_lanes, orders[begin : begin + len(open_lanes)])
        with disturb() as disturbing:
            for lane in held:
                lane.order(None)
            yield from [lane.answer() for lane in held]
            out, err = disturbing.communicate(timeout=60)
            assert disturbing.returncode == 0, (out, err)


def _held(open_lanes: Sequence[Lane], orders: Sequence[Order]) -> dict[Lane, Facts]:
    for lane, order in zip(open_lanes, orders, strict=False):
        lane.order({**order, "how": "hold"})
    return {lane: {**order, **lane.answer()} for lane, order in zip(open_lanes, orders, strict=False)}


def power_cut(suite: str, disk: Path, orders: Sequence[Order], *, enabled: bool = True) -> Iterator[Facts]:
    """Hold a run in each lane at its own event, kill the machine, boot it with the same disk, and resume."""
    folders = {disk / str(number): inside for number, inside in enumerate(KEPT)}
    for folder in folders:
        folder.mkdir(exist_ok=True)
    for begin in range(0, len(orders), LANES):
        with Machine(suite, disk=folders) as machine, ExitStack() as stack:
            prepare(machine, enabled=enabled)
            made = [_cutter(machine, number) for number in range(LANES)]
            for lane in made:
                stack.callback(lane.drop)
            held = _held(made, orders[begin : begin + LANES])
            machine.kill()
        with Machine(suite, disk=folders) as machine, lanes(machine) as made:
            for lane, facts in zip(made, held.values(), strict=False):
                lane.order({**facts, "how": "resume", "run": facts["held"]})
            yield from [lane.answer() for lane, _ in zip(made, held, strict=False)]


def judge(facts: Facts) -> list[str]:
    """Return what is wrong with the outcome of a run that was cut short."""
    if "broken" in facts:
        return [str(facts["broken"])]
    if facts["how"] == "resume" and not facts["exits"]:
        return []  # The run had ended before the cut, so the boot does not concern it.
    wrong = []
    whole, seen, events = ENDS[facts["book"]], facts["seen"], facts["events"]
    last = events[-1] if events else {}
    statuses = [whole["status"]]
    if (
        facts["book"] == "fixes"
        and facts["how"] == "resume"
        and not any(event["event"] == "fix-started" for event in events)
    ):
        statuses = ["changed"]  # The orphan was lost with the power, so nothing needed a fix.
    ended = (last.get("event"), last.get("exit"), last.get("status") in statuses)
    if ended != ("run-finished", whole["exit"], True):
        wrong.append(f"it ended {last}")
    if not {*facts["exits"][-1:]} <= {whole["exit"], -9 if facts["how"] == "kill" else whole["exit"]}:
        wrong.append(f"the exit statuses are {facts['exits']}")
    for key in ("installed", "serves"):
        if seen[key] != whole["version"]:
            wrong.append(f"{key} is {seen[key]!r}")
    if seen["unit"] != "active (running)" or not seen["owned"] or seen["orphan"]:
        wrong.append(f"the unit is {seen['unit']}, owned {seen['owned']}, orphan {seen['orphan']}")
    if not facts["prefix"]:
        wrong.append("events from before the cut are missing")
    return wrong + _wrong_commands(facts) + _wrong_events(facts)


def _wrong_commands(facts: Facts) -> list[str]:
    """Return which command was run too often.

    A command that was stopped by a signal is run again. So is one whose outcome is unknown, if the operator asks for
    it with --rerun. A command that has succeeded is only run again if the operator had to choose --rerun.
    """
    wrong, log = [], facts["seen"]["log"]
    again = bool(facts.get("asked"))
    stopped = facts["how"] in ("term", "int")
    if facts["book"] == "fixes" and not 1 <= log.count("reported") <= (2 if again or stopped else 1):
        wrong.append(f"the last command was run {log.count('reported')} times")
    for version in ("2.0", "1.0") if facts["book"] == "rolls-back" else ("2.0",):
        begun, ended = log.count(f"begin {version}"), log.count(f"end {version}")
        if not 1 <= begun <= (2 if again or stopped else 1) or ended > (2 if again else 1):
            wrong.append(f"the command that installs {version} began {begun} times and ended {ended} times: {log}")
    return wrong


def _wrong_events(facts: Facts) -> list[str]:
    """Return what is wrong with the order of the events, and which check was not repeated after the resume."""
    wrong, started = [], set[str]()
    finished: set[str] = set()
    names = [event["event"] for event in facts["events"]]
    if names.count("run-started") != 1 or names[0] != "run-started":
        wrong.append(f"run-started is there {names.count('run-started')} times")
    for event in facts["events"]:
        match event["event"]:
            case "run-resumed":
                started = set()
            case "step-started":
                started.add(event["id"])
            case "step-acting" if event["id"] == "update" and "update" in finished:
                wrong.append("the update was run again after it had ended")
            case "step-finished" if event["status"] != "skipped":
                finished.add(event["id"])
                if event["id"] not in started:
                    wrong.append(f"{event['id']} ended after a resume, and had not begun since")
    if "run-resumed" in names:
        since = len(names) - names[::-1].index("run-resumed")
        proved = {e["id"] for e in facts["events"][since:] if e["event"] == "step-finished"}
        fixes = {"remediate.check.wait-ready", "remediate.check.verify-port-owner", "verify-version"}
        wanted = fixes if facts["book"] == "fixes" else {"rollback.wait-ready", "rollback.verify-port-owner"}
        if missing := wanted - proved:
            wrong.append(f"not proved again: {', '.join(sorted(missing))}")
    return wrong


def length(open_lane: Lane, book: str) -> int:
    """Return the number of events of a run without a cut, and assert its outcome."""
    open_lane.order({"book": book, "how": "kill", "at": 1_000})
    facts = open_lane.answer()
    assert not judge(facts), (judge(facts), facts)
    return len(facts["events"])
