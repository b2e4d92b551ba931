"""Stages scenes in a machine, runs the program under test, and reports what happened to each process.

    python3 -m tests.machine.attempts.stager FIRST_PORT

It reads scenes from standard input, one JSON object a line, and prints an answer to each.
Each attempt has a port and units of its own, so nothing of an earlier attempt counts for it.
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from tests.machine.attempts.scene import BAD, GOOD, NEW, OLD, SLOW, Scene
from tests.machine.attempts.staging import (
    AS_USER,
    HEX,
    HOME,
    LATER,
    OTHERS,
    USER,
    Process,
    Stage,
    function_of,
    holders,
    processes,
    show,
    systemctl,
    until,
)

RUNS = (Path("/var/lib/runbook/runs"), Path(HOME) / ".local/state/runbook/runs")
HANGS = 200.0
"""Seconds after which a run counts as hung."""

SYSTEM = ("init.scope", "dbus.service", "systemd-journald.service", "systemd-logind.service")
"""The cgroups of the machine's own processes, and of those of users' managers, which no run may end."""

MARKS = ("-", "@", "pod", HEX)
"""What stands before the port in the name of a unit or cgroup of an attempt."""

TIMEOUTS = {**dict.fromkeys(GOOD, "40s"), **dict.fromkeys(SLOW, "4s"), **dict.fromkeys(BAD, "5s")}


def book(scene: Scene, stage: Stage) -> str:
    """Return the runbook of a scene."""
    port, unit, folder = stage.port, stage.unit, stage.folder
    probe = f"probes: [http: {{url: 'http://127.0.0.1:{port}/', body: '^{NEW}$', timeout: 2s}}]"
    probe = "" if scene.shared else f", {probe}"
    window = "3s" if scene.shared else "1s"
    waits = f"wait-ready: {{healthy-for: {window}, timeout: {TIMEOUTS[scene.does]}{probe}}}"
    own = "" if not scene.shared else f", shared-with: innocent@{port}.service"
    owns = f"verify-port-owner: {{port: {port}{own}}}"
    options = f"leftovers: {_yaml(scene.leftovers)}, supervisors: {_yaml(scene.supervisors)}"
    kill = f"kill-orphan: {{port: {port}, grace: 2s, {options}}}"
    stops_first = "true" if scene.book == "stop-first" else "false"
    update = (
        f'update: {{run: "echo ${{{{ to }}}} >{folder}/version", version: cat {folder}/version, to: "{NEW}",'
        f" stop-first: {stops_first}}}"
    )
    fixes = f"remediate: {{check: [{waits}, {owns}], fix: [stop, {kill}, reset-failed, start]}}"
    steps = {
        "remediate": [update, "restart", fixes],
        "plain": [update, "restart", waits, owns],
        "by-hand": ["stop", kill, update, "reset-failed", "start", waits, owns],
        "stop-first": [update, "start", fixes],
        "only-remediate": [fixes],
    }[scene.book]
    top = [f"scope: {scene.manager}", f"unit: {unit}", *([] if scene.shared else [f"port: {port}"])]
    rollback = ["rollback: auto"] if scene.rollback else []
    return "\n".join([*top, *rollback, "steps:", *(f"  - {step}" for step in steps)]) + "\n"


def _yaml(value: bool) -> str:
    return str(value).lower()


def set_up(scene: Scene, stage: Stage) -> None:
    """Stage the holder and the unit in its first state."""
    stage.folder.mkdir(parents=True)
    stage.open.mkdir()
    stage.open.chmod(0o777)
    first = OLD if scene.updates else NEW
    (stage.folder / "version").write_text(f"{first}\n")
    (stage.folder / f"does.{OLD}").write_text("serves")
    (stage.folder / f"does.{NEW}").write_text(scene.does)
    if scene.kind.shares:
        (stage.folder / "shares").touch()
    if stage.user:
        subprocess.run(["chown", "-R", USER, stage.folder], check=True)
    holder = function_of(scene.holder)
    if scene.unit == "socket":
        stage.control("start", f"att-socket@{stage.port}.socket")
    if holder not in LATER:
        holder(stage)
        stage.wait()
    if scene.state == "up":
        stage.control("start", stage.unit)
        until(lambda: page(stage.port, inside=network_of(scene, stage))[1] == first, f"{stage.unit} to serve {first}")
    elif scene.state == "looping":
        stage.control("start", "--no-block", stage.unit)
        time.sleep(0.7)
    if holder in LATER:
        holder(stage)
        stage.wait()
    if scene.kind.blocks and scene.holder not in ("ancestor", "bound"):
        until(lambda: listens(stage.port), f"{scene.holder} to listen")


def listens(port: int) -> bool:
    """Return True if a TCP socket listens on the port."""
    argv = ["ss", "-Hltn", f"( sport = :{port} )"]
    return bool(subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=True).stdout)


def network_of(scene: Scene, stage: Stage) -> tuple[str, ...]:
    """Return the command that enters the network of the unit, if it has one of its own."""
    if scene.unit != "private" or (pid := show(stage.unit, "MainPID")["MainPID"]) == "0":
        return ()
    return ("nsenter", f"--target={pid}", "--net")


def page(port: int, patience: float = 0.0, inside: tuple[str, ...] = ()) -> tuple[int, str]:
    """Return the status and the body of the page on 127.0.0.1, or 0 and an empty text. Try again for some seconds."""
    deadline = time.monotonic() + patience
    while True:
        argv = [*inside, "curl", "-sS", "--max-time", "2", "-w", "\n%{http_code}", f"http://127.0.0.1:{port}/"]
        done = subprocess.run(argv, capture_output=True, text=True, check=False)
        if done.returncode == 0 or time.monotonic() >= deadline:
            break
        time.sleep(0.1)
    body, _, status = done.stdout.rpartition("\n")
    return int(status or 0), body


class Snapshot:
    """The processes that were staged for an attempt, and those of the machine itself, before the run."""

    def __init__(self, scene: Scene, stage: Stage) -> None:
        now = processes()
        staged = {pid: facts for pid, facts in now.items() if _is_staged(scene, stage, pid, facts)}
        self.may = _may_end(scene, stage, set(staged))
        self.staged = staged | stage.system

    def ended(self) -> dict[int, Process]:
        """Return the staged processes that have ended since."""
        now = processes()
        return {pid: facts for pid, facts in self.staged.items() if now.get(pid, ("",))[0] != facts[0]}


def _is_staged(scene: Scene, stage: Stage, pid: int, facts: Process) -> bool:
    """Return True if a process was staged beside the unit under test. In the unit only its leftovers are."""
    _, command, group = facts
    if f"/att-{scene.unit}@{stage.port}.service" in group:
        return scene.holder in ("leftover", "idle-leftover") and "actor.py" in command
    return f"/{stage.port}/" in command or any(f"{mark}{stage.port}" in group for mark in MARKS)


def of_the_system() -> dict[int, Process]:
    """Return the machine's own processes, without those that a manager has just forked."""
    first = processes()
    time.sleep(0.5)
    return {
        pid: facts
        for pid, facts in processes().items()
        if pid in first and (pid == 1 or facts[2].rpartition("/")[2] in SYSTEM)
    }


def _may_end(scene: Scene, stage: Stage, staged: set[int]) -> set[int]:
    """Return the staged processes that may be ended at most."""
    if stage.may == "holders":
        return staged & holders(stage.port)
    if stage.may == "workers":
        return staged if scene.supervisors else staged - {min(staged)}
    if stage.may == "all" or (stage.may == "leftovers" and scene.leftovers):
        return staged
    return set()


def truth(scene: Scene, stage: Stage, staged: set[int]) -> dict[str, Any]:
    """Return what truly serves, read without the program under test."""
    state = show(stage.unit, "ActiveState", "SubState", "MainPID", "InvocationID", "FreezerState", user=stage.user)
    inside = network_of(scene, stage)
    held = holders(stage.port, inside) if inside or scene.unit != "private" else set()
    now = processes()
    own = f"/att-{scene.unit}@{stage.port}.service"
    foreign = {
        pid
        for pid in held
        if not (pid not in staged and own in now.get(pid, ("", "", ""))[2])
        and not (scene.unit == "socket" and now.get(pid, ("", "", ""))[2].endswith("/init.scope"))
        and not (scene.shared and f"/innocent@{stage.port}.service" in now.get(pid, ("", "", ""))[2])
    }
    status, body = page(stage.port, 3 if held else 0, inside) if held else (0, "")
    for _ in range(20 if scene.shared else 0):
        if body == OTHERS:
            status, body = page(stage.port)
    return {
        "state": f"{state['ActiveState']} ({state['SubState']})",
        "invocation": state["InvocationID"],
        "frozen": state["FreezerState"],
        "holders": sorted(held),
        "foreign": sorted(foreign),
        "status": status,
        "body": body,
        "serves": body if status == 200 and held - foreign and not foreign and state["ActiveState"] == "active" else "",
    }


def carry_out(scene: Scene, port: int, system: dict[int, Process]) -> dict[str, Any]:
    """Stage a scene, run the program, and return the facts."""
    stage = Stage(port, f"att-{scene.unit}@{port}.service", scene.answer, scene.manager == "user", system)
    facts: dict[str, Any] = {"scene": scene.facts, "port": port}
    try:
        set_up(scene, stage)
        before = Snapshot(scene, stage)
        (stage.folder / "book.yaml").write_text(book(scene, stage))
        facts["looked"] = look_first(scene, stage, before) if scene.first else {}
        began = time.monotonic()
        with disturbed(scene, stage) as acted:
            done = run_program(stage, "apply")
            facts["seconds"] = round(time.monotonic() - began, 2)
        facts["acted"] = [round(at - began, 2) for at in acted]
        first = truth(scene, stage, set(before.staged))
        ended = before.ended()
        time.sleep(0.7)
        second = truth(scene, stage, set(before.staged))
        facts |= {
            "exit": done.returncode,
            "stderr": done.stderr[-3000:],
            "book": book(scene, stage),
            "ended": {pid: before.staged[pid][1] for pid in ended if pid in before.may},
            "wrongly": {pid: before.staged[pid][1:] for pid in ended if pid not in before.may},
            "down": [unit for unit in stage.up if show(unit, "ActiveState")["ActiveState"] != "active"],
            "truth": second,
            "at_end": first,
            "stable": first["serves"] == second["serves"] and first["invocation"] == second["invocation"],
        }
        facts |= outcome(done.stdout)
    except subprocess.TimeoutExpired as error:
        facts["hung"] = f"{error.cmd}: {(error.stdout or b'')[-2000:]!r}"
    finally:
        clear(scene, stage)
    return facts


def run_program(stage: Stage, *words: str) -> subprocess.CompletedProcess[str]:
    prefix = AS_USER.split() if stage.user else stage.wrap
    argv = [*prefix, "runbook", *words, str(stage.folder / "book.yaml"), "--output", "json"]
    return subprocess.run(argv, capture_output=True, text=True, timeout=HANGS, check=False)


@contextlib.contextmanager
def disturbed(scene: Scene, stage: Stage) -> Iterator[list[float]]:
    """Act as another administrator a moment after the run has begun, and long before it can be ready.

    The list gets the times before and after the command: on a slow machine it may reach systemd after the run's end.
    """
    acted: list[float] = []

    def act() -> None:
        acted.append(time.monotonic())
        words = ("kill", "--kill-who=main", "--signal=KILL") if scene.meanwhile == "kill" else (scene.meanwhile,)
        stage.control("--no-block", *words, stage.unit, check=False)
        acted.append(time.monotonic())

    timer = threading.Timer(0.3 + 0.1 * (stage.port % 6), act)
    if scene.meanwhile:
        timer.start()
    try:
        yield acted
    finally:
        timer.cancel()
        if scene.meanwhile:
            timer.join()


def look_first(scene: Scene, stage: Stage, before: Snapshot) -> dict[str, Any]:
    """Run a command that only reads, and return what it said and which processes ended meanwhile."""
    real = truth(scene, stage, set(before.staged))
    done = run_program(stage, *(("apply", "--dry-run") if scene.first == "dry-run" else ("check",)))
    now = truth(scene, stage, set(before.staged))
    return {
        "exit": done.returncode,
        "serves": real["serves"],
        "changed": scene.state != "looping" and real["invocation"] != now["invocation"],
        "ended": [] if scene.holder == "dying" else [before.staged[pid][1] for pid in before.ended()],
        **outcome(done.stdout),
        "traceback": "Traceback" in done.stderr,
    }


def outcome(printed: str) -> dict[str, Any]:
    """Return the last event of a run, and a line for each step."""
    events = []
    for line in printed.splitlines():
        with contextlib.suppress(ValueError):
            events.append(json.loads(line))
    last = events[-1] if events else {}
    steps = [f"{e['id']} {e['status']} {e['verdict']}: {e['reason']}" for e in events if e["event"] == "step-finished"]
    kept = {name: last.get(name) for name in ("event", "status", "verdict", "reason", "now", "hint", "run", "detail")}
    return {"last": kept, "steps": steps, "traceback": "Traceback" in printed or "internal error" in printed}


def clear(scene: Scene, stage: Stage) -> None:
    """Remove all that an attempt has left."""
    port = stage.port
    if scene.does == "freezes":
        systemctl("thaw", stage.unit, check=False)
    own = [stage.unit, *([f"att-socket@{port}.socket"] if scene.unit == "socket" else [])]
    others = [f"innocent@{port}.service", f"spared@{port}.service"]
    others += [f"innocent@{port}.socket"] if scene.holder == "other-socket" else []
    managed = [(own, stage.user), (others, False)]
    managed += [([f"innocent@{port}.service"], True)] if scene.holder == "user-unit" else []
    for names, user in managed:
        systemctl("kill", "--signal=KILL", *names, check=False, user=user)
        systemctl("stop", *names, check=False, user=user)
    for _ in range(100):
        mine = [
            pid
            for pid, (_, command, group) in processes().items()
            if f"/run/attempts/{port}" in command or any(f"{mark}{port}" in group for mark in MARKS)
        ]
        for pid in mine:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        if not mine:
            break
        time.sleep(0.02)
    for names, user in managed:
        systemctl("reset-failed", *names, check=False, user=user)
    for folder in (folder for runs in RUNS for folder in runs.glob("*")):
        with contextlib.suppress(OSError, ValueError):
            if json.loads((folder / "run.json").read_text())["file"].startswith(f"{stage.folder}/"):
                subprocess.run(["rm", "-rf", folder], check=True)
    subprocess.run(["rm", "-rf", stage.folder], check=True)


def main() -> None:
    port, system = int(sys.argv[1]), of_the_system()
    for line in sys.stdin:
        facts = json.loads(line)
        try:
            answer = carry_out(Scene.of(facts), port, system)
        except Exception as error:  # attempts.py judges the failure.
            answer = {"scene": facts, "port": port, "broken": f"{type(error).__name__}: {error}"}
        print(json.dumps(answer), flush=True)
        port += 1


if __name__ == "__main__":
    main()
