"""Commands in transient units of their own, which outlive this program; all their processes end with the unit.

A command's output goes to a file, never through a pipe of this program. When the command is over, the unit itself
writes the result next to that file: systemd forgets a transient unit as soon as it has no reference, and `resume` must
still find the result.

Every user of the machine may read a unit's settings over D-Bus, and its description is in the journal. Therefore
everything that a runbook passes to a command goes through files that only its owner can read (`transient_files`).
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import signal
from typing import Any

from runbook.errors import BusLost, BusTimeout, HostError, Interrupted, NoSuchUnit
from runbook.host.facts import ActiveState, JobRef, JobResult, LoadState, unit_path
from runbook.host.kernel.accounts import account_environment, find_account
from runbook.host.loop import Loop
from runbook.host.queries import Command, CommandResult
from runbook.host.systemd.bus import variant
from runbook.host.systemd.manager import MANAGER, MANAGER_PATH, UNIT, SystemdManager
from runbook.host.systemd.transient_files import CANNOT_ENTER, CommandFiles
from runbook.model import Deadline

OUTPUT_TAIL_BYTES = 64 * 1024  # bytes of a command's output that are returned, from its end
BACKSTOP_MARGIN = 5.0  # seconds after a command's time-out at which systemd stops it, in case this program is gone
STOP_GRACE = 5.0  # seconds from SIGTERM to SIGKILL for a command that is stopped
INTERRUPTED_STOP_GRACE = 0.3  # the same if this program was interrupted: it has one second for its whole cleanup
STOP_LIMIT = 10.0  # seconds that stopping a command may take in all
NO_JOB = f"{MANAGER_PATH}/job/0"  # stands for the job of a command that ended before its job was found; no job has 0


class TransientCommands:
    """Starts, judges and stops commands through one manager."""

    def __init__(self, systemd: SystemdManager, loop: Loop) -> None:
        self._systemd = systemd
        self._loop = loop
        self._results: dict[str, CommandResult] = {}  # by the name of the command's unit
        self._unanswered: set[str] = set()  # the units whose start was requested and not answered

    def start(self, name: str, command: Command) -> JobRef:
        """Start a command, or join it if a unit of this name is running it already.

        Raises BusLost if it is unknown whether it was started; the next call finds that out first.
        """
        unit = transient_unit_name(name)
        if (joined := self._join(unit, command)) is not None:
            return joined
        self._unanswered.discard(unit)
        self._results.pop(unit, None)
        if not command.output:
            raise HostError(f"cannot start {command}: there is no place for its result")
        CommandFiles(command.output).write(command, find_account(command.user))
        try:
            answer = _start_unit(self._systemd, unit, self._settings(name, command), what=f"start {unit}")
        except (Interrupted, BusTimeout):
            # It may have been started all the same. The bus keeps the order, so this request comes after the start.
            with contextlib.suppress(HostError):
                self._systemd.bus.send(MANAGER_PATH, MANAGER, "StopUnit", ("(ss)", (unit, "replace")))
            raise
        except BusLost:
            self._unanswered.add(unit)
            if joined := self._join(unit, command):
                return joined
            raise
        except HostError:
            CommandFiles(command.output).clear()  # The unit was not started, so it will not remove them.
            raise
        return self._systemd.make_job_ref(answer, unit, "start", command.output)

    def find(self, name: str, output: str, token: str) -> JobRef | None:
        """Find a command that another process started under this name: by its unit, else by the result that it left."""
        unit = transient_unit_name(name)
        if self._systemd.read_loaded_state(unit) in (ActiveState.ACTIVATING, ActiveState.DEACTIVATING):
            with contextlib.suppress(NoSuchUnit):  # It may end at this moment.
                return self._find_job(unit, output)
        return JobRef(NO_JOB, unit, "start", output) if CommandFiles(output).read_result(token) else None

    def list_running(self) -> tuple[str, ...]:
        """List the units of commands that are running, of this run or of another."""
        states = [str(state) for state in (ActiveState.ACTIVATING, ActiveState.ACTIVE, ActiveState.DEACTIVATING)]
        arguments = (states, ["runbook-*.service"])
        what = "list the running commands"
        (found,) = self._systemd.call_manager(
            "ListUnitsByPatterns", "(asas)", *arguments, what=what, repeat_if_lost=True
        )
        return tuple(entry[0] for entry in found)

    def result(self, ref: JobRef) -> CommandResult:
        """Return how a command ended: from its unit while that exists, else from the result on disk."""
        if ref.unit not in self._results:
            self._results[ref.unit] = self._from_unit(ref) or self._from_disk(ref)
            self._unref(ref.unit)
            # If systemd could not start it at all, the unit itself could not remove them.
            if ref.output:
                CommandFiles(ref.output).clear()
        return self._results[ref.unit]

    def stop(self, ref: JobRef) -> None:
        """Stop a command and all its processes, and wait until they have exited. Raises BusTimeout."""
        deadline = Deadline.after(self._loop.clock, STOP_LIMIT)
        what = f"stop {ref.unit}"
        try:
            arguments = (ref.unit, "replace")
            answer = self._systemd.call_manager(
                "StopUnit", "(ss)", *arguments, what=what, repeat_if_lost=True, await_answer=True
            )
            job = self._systemd.make_job_ref(answer, ref.unit, "stop")
            if not self._ended(job, INTERRUPTED_STOP_GRACE if self._loop.interrupted else STOP_GRACE):
                self._systemd.kill_cgroup(ref.unit)
                if not self._ended(job, deadline.remaining):
                    raise BusTimeout(f"cannot {what}: its processes do not exit")
        except NoSuchUnit:
            return
        with contextlib.suppress(HostError):
            self.result(ref)

    def _ended(self, job: JobRef, seconds: float) -> bool:
        deadline = Deadline.after(self._loop.clock, seconds)
        while self._systemd.job(job) is None:
            if deadline.expired:
                return False
            self._loop.run_until(lambda: self._systemd.has_job_ended(job), min(deadline.remaining, 0.25))
        return True

    def _join(self, unit: str, command: Command) -> JobRef | None:
        """Return the job of a unit that is running; free the name of one that has ended.

        A unit whose start was requested and never answered may have ended already, too: then the result on disk is its
        own, because that of an earlier attempt was removed before.
        """
        if unit in self._unanswered and CommandFiles(command.output).read_result(command.token):
            self._unanswered.discard(unit)
            return JobRef(NO_JOB, unit, "start", command.output)
        state = self._systemd.read_loaded_state(unit)
        # The start job continues while the unit is deactivating and writes the result.
        if state is ActiveState.ACTIVATING or (state is ActiveState.DEACTIVATING and unit in self._unanswered):
            self._unanswered.discard(unit)
            return self._find_job(unit, command.output)
        if state is ActiveState.FAILED:
            self._systemd.reset_failed(unit)
        if state is not None:
            self._unref(unit)
        return None

    def _find_job(self, unit: str, output: str) -> JobRef:
        path = self._systemd.bus.read(unit_path(unit), UNIT, "Job", what=f"find {unit}")[1]
        self._systemd.mark_own_unit(unit)
        return JobRef(path, unit, "start", output)

    def _unref(self, unit: str) -> None:
        """Make systemd forget a unit, which it does at once."""
        with contextlib.suppress(HostError):  # It may be gone, or referenced by an earlier connection.
            self._systemd.call_manager("UnrefUnit", "(s)", unit, what=f"release {unit}")

    def _from_unit(self, ref: JobRef) -> CommandResult | None:
        if ref.path == NO_JOB:
            return None
        unit = self._systemd.unit(ref.unit)
        if unit.load_state is not LoadState.LOADED:
            return None
        # A job that was canceled was stopped. Even if its command exited with 0 then, it was cut short.
        canceled = self._systemd.job(ref) is JobResult.CANCELED
        if unit.is_running and not canceled:
            raise HostError(f"cannot find out how {ref.unit} ended: it is still running")
        return _make_result(ref, "canceled" if canceled else unit.result, unit.exec_main_status)

    def _from_disk(self, ref: JobRef) -> CommandResult:
        try:
            result, code, status = (CommandFiles(ref.output).read_result() if ref.output else [])[:3]
            number = int(status) if code == "exited" else int(signal.Signals[f"SIG{status}"])
        except (ValueError, KeyError):
            raise HostError(f"cannot find out how {ref.unit} ended: it left no result") from None
        return _make_result(ref, result, number)

    def _settings(self, name: str, command: Command) -> dict[str, tuple[str, Any]]:
        """Return the settings of the unit, each under its D-Bus name and with its D-Bus type."""
        files = CommandFiles(command.output)
        environment = account_environment(command.user)
        settings = {
            "Description": ("s", f"runbook: {name}"),
            "Type": ("s", "oneshot"),
            # Without a reference a unit that succeeded is gone before its exit status can be read.
            "AddRef": ("b", not self._systemd.bus.peer),
            "CollectMode": ("s", "inactive-or-failed"),
            # A oneshot has no start time-out of its own.
            "TimeoutStartUSec": ("t", round((command.timeout + BACKSTOP_MARGIN) * 1_000_000)),
            "TimeoutStopUSec": ("t", round(STOP_LIMIT * 1_000_000)),
            "KillMode": ("s", "control-group"),
            "IgnoreSIGPIPE": ("b", False),  # Shell pipelines depend on it.
            "StandardInput": ("s", "null"),
            "Environment": ("as", [f"{key}={value}" for key, value in environment.items()]),
            "WorkingDirectory": ("s", files.folder),
            # Not the Ex properties: 252 writes `ExecStartEx=` to the unit's file, and rejects it at a daemon-reload.
            "ExecStart": ("a(sasb)", [(files.start_argv[0], files.start_argv, False)]),
            "ExecStopPost": ("a(sasb)", [(files.stop_post_argv[0], files.stop_post_argv, True)]),
        }
        for stream in ("StandardOutput", "StandardError"):
            if command.keep_output:
                settings[f"{stream}FileToAppend"] = ("s", command.output)
            else:
                settings[stream] = ("s", "null")
        return settings


def transient_unit_name(name: str) -> str:
    """Make the name of a command's unit: `runbook-NAME.service`, of characters that systemd accepts."""
    plain = re.sub(r"[^A-Za-z0-9:_.-]+", "-", name).strip("-")
    if len(plain) > 200:  # noqa: PLR2004 - systemd takes 255 in all
        plain = f"{plain[:180]}-{hashlib.sha256(name.encode()).hexdigest()[:16]}"
    return f"runbook-{plain}.service"


def _make_result(ref: JobRef, result: str, status: int) -> CommandResult:
    """Add the end of the command's output to its result; if its folder could not be entered, a line about that."""
    text = CommandFiles(ref.output).tail(OUTPUT_TAIL_BYTES) if ref.output else ""
    if not text and result == "exit-code" and status == CANNOT_ENTER:
        text = f"it could not be started: {CANNOT_ENTER}/CHDIR: its folder cannot be entered; `cwd` names another\n"
    return CommandResult(result, status, text)


SLICES = {"system": "system.slice", "user": "app.slice"}  # the slice of a scope: that of services, not that of logins


def start_scope(systemd: SystemdManager, name: str) -> JobRef:
    """Request a scope with this program in it. Raises AccessDenied, HostError.

    The kernel moves a process with all its threads. Its parent stays where it was.
    """
    unit = f"runbook-{name}.scope"
    settings = {
        "Description": ("s", f"runbook: run {name}"),
        "PIDs": ("au", [os.getpid()]),
        "Slice": ("s", SLICES[systemd.scope]),
        "CollectMode": ("s", "inactive-or-failed"),
    }
    return systemd.make_job_ref(_start_unit(systemd, unit, settings, what=f"move to {unit}"), unit, "start")


def _start_unit(systemd: SystemdManager, unit: str, settings: dict[str, tuple[str, Any]], *, what: str) -> Any:
    properties = [(key, variant(*value)) for key, value in settings.items()]
    arguments: tuple[Any, ...] = (unit, "fail", properties, [])
    return systemd.call_manager("StartTransientUnit", "(ssa(sv)a(sa(sv)))", *arguments, what=what, await_answer=True)
