"""Scenarios for the adapter of systemd, inside a machine: `python -m tests.machine.adapter SCOPE SCENARIO …`.

Each scenario prints its results, one JSON object a line. If a test must act in the middle, the scenario prints a line
and waits for one on standard input.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from pathlib import Path
from typing import Any

from runbook.errors import Interrupted, RunbookError
from runbook.host.facts import JobRef, JobResult, JobVerb
from runbook.host.local import LocalHost
from runbook.host.queries import Command
from runbook.host.systemd import transient
from runbook.host.systemd.addresses import ManagerScope
from runbook.model import Deadline, Wake

PATIENCE = 20.0
ODD = """ it's "$HOME" `x` \\n \\\\ # ; ${A} \n two\tlines, %n, ☃ """


def say(**values: Any) -> None:
    print(json.dumps(values, default=str), flush=True)


def pause(**values: Any) -> None:
    """Print a line, on which the test acts, and wait for its answer."""
    say(**values)
    assert sys.stdin.readline()


def finish(host: LocalHost, ref: JobRef) -> JobResult | None:
    """Wait for the end of a job, as the engine does."""
    deadline = Deadline.after(host.clock, PATIENCE)
    while (result := host.job(ref)) is None and not deadline.expired:
        host.wait(Wake(frozenset({ref.unit})), deadline)
    return result


def job(host: LocalHost, verb: str, unit: str) -> None:
    """Run one job, and wait for its end."""
    before = host.unit(unit)
    began = time.monotonic()
    result = finish(host, host.enqueue_job(JobVerb(verb), unit))
    seconds = time.monotonic() - began
    after = host.unit(unit)
    say(
        name=after.name,
        result=result,
        seconds=seconds,
        state=after.active_state,
        unit_result=after.result,
        condition=after.condition_result,
        assertion=after.assert_result,
        status=after.exec_main_status,
        new=after.invocation_id not in ("", before.invocation_id),
        pid=after.main_pid,
    )


def look(host: LocalHost, unit: str) -> None:
    """Read a unit once."""
    seen = host.unit(unit)
    say(name=seen.name, load=seen.load_state, state=seen.active_state, live=host._systemd.read_loaded_state(unit))


def crash(host: LocalHost, unit: str) -> None:
    """Kill a unit, and wait until it has another invocation. Only signals of the bus end the wait."""
    before = host.unit(unit)
    began = time.monotonic()
    os.kill(before.main_pid, signal.SIGKILL)
    deadline = Deadline.after(host.clock, PATIENCE)
    while host.unit(unit).invocation_id in ("", before.invocation_id) and not deadline.expired:
        host.wait(Wake(frozenset({unit}), within=PATIENCE), deadline)
    say(seconds=time.monotonic() - began, restarts=host.unit(unit).n_restarts)


def command(host: LocalHost, script: str, *options: str) -> None:
    """Run a command in a unit of its own. Options: user=NAME, timeout=SECONDS, argv (a list, by commas), odd."""
    given = dict(option.split("=", 1) for option in options)
    argv = tuple(script.split(",")) if "argv" in given else ("/bin/sh", "-e", "-c", script)
    output = Path(given.get("output", "/tmp/adapter.out"))
    output.unlink(missing_ok=True)
    wanted = Command(
        argv,
        user=given.get("user", ""),
        cwd=given.get("cwd", "/tmp"),
        env={"GREETING": ODD, "SHELL": "/else"} if "odd" in given else {"GREETING": "a  b $HOME"},
        timeout=float(given.get("timeout", "60")),
        output=str(output),
    )
    ref = host.start_command(given.get("name", "adapter"), wanted)
    job_result = finish(host, ref)
    result = host.read_command_result(ref)
    left = Path(f"{output}.result")
    say(
        job=job_result,
        result=result.result,
        status=result.status,
        output=result.output,
        mode=oct(output.stat().st_mode & 0o777),
        left=left.read_text() if left.exists() else "",
        still=host._systemd.read_loaded_state(ref.unit),
        files=sorted(found.name for found in output.parent.glob(f"{output.name}*")),
    )


def begin(host: LocalHost, name: str, script: str, output: str) -> None:
    """Start a command, print the name of its unit, and wait to be killed."""
    wanted = Command(("/bin/sh", "-e", "-c", script), cwd="/", env={"TOKEN": "open sesame"}, output=output)
    ref = host.start_command(name, wanted)
    pause(path=ref.path, unit=ref.unit)


def resume(host: LocalHost, path: str, unit: str, output: str) -> None:
    """Wait for a command that another process started."""
    ref = JobRef(path, unit, "start", output)
    job_result = finish(host, ref)
    result = host.read_command_result(ref)
    say(job=job_result, result=result.result, status=result.status, output=result.output)


def again(host: LocalHost, name: str, script: str, output: str) -> None:
    """Start a command under the name of one that may be running. The test then lets that one end."""
    ref = host.start_command(name, Command(("/bin/sh", "-e", "-c", script), cwd="/", output=output))
    pause(unit=ref.unit)
    job_result = finish(host, ref)
    say(job=job_result, output=host.read_command_result(ref).output)


def twice(host: LocalHost) -> None:
    """Start a command under a name that is still referenced: the result of the first one was not read."""
    for script in ("echo first; exit 1", "echo second"):
        wanted = Command(("/bin/sh", "-c", script), cwd="/", output="/tmp/twice.out")
        ref = host.start_command("twice", wanted)
        finish(host, ref)
    result = host.read_command_result(ref)
    say(result=result.result, output=result.output)


def stop(host: LocalHost, script: str, grace: str) -> None:
    """Stop a command that ignores TERM. It gets KILL after `grace` seconds."""
    transient.STOP_GRACE = float(grace)
    wanted = Command(("/bin/sh", "-c", script), cwd="/", output="/tmp/stop.out")
    ref = host.start_command("stop", wanted)
    while not Path("/tmp/stop.out").read_text():
        host.wait(Wake(within=0.02), Deadline.after(host.clock, PATIENCE))
    pids = [int(word) for word in Path("/tmp/stop.out").read_text().split()]
    began = time.monotonic()
    host.stop_command(ref)
    seconds = time.monotonic() - began
    left = [pid for pid in pids if Path(f"/proc/{pid}").exists()]
    result = host.read_command_result(ref)
    host.stop_command(ref)  # To stop a command that has ended is no error.
    say(seconds=seconds, pids=len(pids), left=left, job=host.job(ref), result=result.result)


def interrupted(host: LocalHost, script: str) -> None:
    """Wait for a command. On an interrupt stop it, as a run does."""
    ref = host.start_command("interrupted", Command(("/bin/sh", "-c", script), cwd="/", output="/tmp/int.out"))
    say(unit=ref.unit)
    try:
        finish(host, ref)
    except Interrupted as error:
        host.stop_command(ref)
        say(signal=error.signum, state=host._systemd.read_loaded_state(ref.unit))


def across(host: LocalHost, unit: str) -> None:
    """Keep a job in flight while the test breaks the connection."""
    before = host.unit(unit)
    ref = host.enqueue_job(JobVerb.RESTART, unit)
    pause(job=host.job(ref))
    result = finish(host, ref)
    after = host.unit(unit)
    # The new connection receives signals, too.
    began = time.monotonic()
    second = finish(host, host.enqueue_job(JobVerb.RESTART, unit))
    say(
        result=result,
        new=after.invocation_id != before.invocation_id,
        state=after.active_state,
        second=second,
        seconds=time.monotonic() - began,
    )


def refused(host: LocalHost, unit: str) -> None:
    """Try each kind of change, as a user without the right to it."""
    for what in (
        lambda: host.enqueue_job(JobVerb.RESTART, unit),
        host.daemon_reload,
        lambda: host.start_command("refused", Command(("true",), cwd="/", output="/tmp/refused.out")),
        lambda: host.reset_failed(unit),
    ):
        try:
            what()
        except RunbookError as error:
            say(error=type(error).__name__, message=error.message, hint=error.hint)
        else:
            say(error="")


def often(host: LocalHost, times: str) -> None:
    """Connect many times."""
    for _ in range(int(times)):
        with LocalHost(host.scope) as another:
            another.unit("web.service")
    say(connections=times)


def speed(host: LocalHost, unit: str) -> None:
    """Measure reads of a unit, in milliseconds."""
    say(look=_median(lambda: host.unit(unit)), live=_median(lambda: host._systemd.read_loaded_state(unit)))


def _median(what: Any) -> float:
    times = []
    for _ in range(50):
        began = time.perf_counter()
        what()
        times.append(1000 * (time.perf_counter() - began))
    return round(sorted(times)[25], 2)


SCENARIOS = (
    job,
    look,
    crash,
    command,
    begin,
    resume,
    again,
    twice,
    stop,
    interrupted,
    across,
    refused,
    often,
    speed,
)


def main() -> None:
    scope, name, *words = sys.argv[1:]
    scenario: Any = {found.__name__: found for found in SCENARIOS}[name]
    chosen: ManagerScope = "user" if scope == "user" else "system"
    try:
        with LocalHost(chosen) as host:
            scenario(host, *words)
    except RunbookError as error:
        say(error=type(error).__name__, message=error.message, hint=error.hint)


if __name__ == "__main__":
    main()
