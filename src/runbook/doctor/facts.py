"""The facts that the diagnosis of one unit is made from, read once."""

from __future__ import annotations

import math
from functools import cached_property
from pathlib import PurePosixPath

from runbook.checks.exit_reason import (
    START_LIMIT_RESULTS,
    USEC_INFINITY,
    has_exited_by_itself,
    has_not_notified,
    has_start_timed_out,
    is_start_limit_hit,
    was_stopped,
)
from runbook.checks.health import HealthReport
from runbook.checks.propagation import find_reached
from runbook.checks.start_limit import is_interval_over
from runbook.doctor.journal import NO_JOURNAL, RECENT_RESTART, JournalFacts
from runbook.doctor.old_code import describe_old_program, name_files
from runbook.doctor.ports import LOG_SOURCE, FoundPort
from runbook.host.exit_status import EXIT_EXEC
from runbook.host.facts import DOWN, ActiveState, JobVerb, LoadState, Unit
from runbook.host.holders import Holder, PortOwnership, Process, Role
from runbook.host.interface import HostView
from runbook.host.requesters import is_runtime, name_program
from runbook.model import Verdict, frozen
from runbook.util.timespan import format_span

_WITHOUT_FAILURE = (Verdict.UNIT_EXITED, Verdict.ORPHAN_HOLDS_PORT, Verdict.LEFTOVER_HOLDS_PORT)
LOOPS = 3  # restarts by systemd in a row that count as a loop
STEADY = 60.0  # seconds after which a unit is no longer at its start, nor in the loop that it was in


def is_looping(unit: Unit, now: float) -> bool:
    """True if systemd restarts a unit again and again. `now` is in seconds of CLOCK_MONOTONIC."""
    age = now - unit.exec_main_start_monotonic / 1e6
    is_new = age < STEADY + 2 * unit.restart_usec / 1e6
    return unit.is_service and unit.active_state not in DOWN and unit.n_restarts >= LOOPS and is_new


@frozen
class UnitFacts:
    """What was read of a unit."""

    view: HostView
    unit: Unit
    uid: int  # the effective user of this program, for whom the commands are written
    found: tuple[FoundPort, ...]
    ports: tuple[PortOwnership, ...]  # the same ports, judged
    health: HealthReport
    journal: JournalFacts = NO_JOURNAL  # empty if the unit is healthy: then it is not read
    taken: tuple[PortOwnership, ...] = ()  # likely ports that another unit has, while this one runs and owns none

    @cached_property
    def rivals(self) -> tuple[Holder, ...]:
        """The processes on the unit's ports that are not the unit's, each once."""
        holders = {holder.process.id: holder for port in self.ports for holder in port.foreign_holders}
        return tuple(holders.values())

    @cached_property
    def strays(self) -> tuple[Holder, ...]:
        """Those of the rivals that may be killed."""
        return tuple(holder for holder in self.rivals if holder.may_be_killed)

    @cached_property
    def leftovers(self) -> tuple[Holder, ...]:
        """The processes of earlier invocations in the unit's cgroup, whether they hold a port or not."""
        held = [holder for holder in self.rivals if holder.role is Role.LEFTOVER]
        return tuple({one.process.id: one for one in (*self.view.find_leftovers(self.unit), *held)}.values())

    @cached_property
    def activator(self) -> str:
        """The timer, path or socket unit that starts the unit on demand while it is down; empty if there is none."""
        if self.unit.active_state is not ActiveState.INACTIVE:
            return ""
        # The timer of a unit that a boot starts, too, may only restart it at night.
        is_enabled = self.unit.unit_file_state in ("enabled", "enabled-runtime")
        names = [name for name in self.unit.triggered_by if name.endswith(".socket") or not is_enabled]
        return next((name for name in names if self.view.unit(name).active_state not in DOWN), "")

    @property
    def is_down_in_order(self) -> bool:
        """True if it is down and did not fail: it was stopped, was never started, or has ended by itself."""
        unit, verdict = self.unit, self.health.verdict
        is_down = unit.active_state is ActiveState.INACTIVE and unit.load_state is LoadState.LOADED
        return is_down and unit.result in ("", "success") and verdict in _WITHOUT_FAILURE

    @cached_property
    def conflicting(self) -> tuple[Unit, ...]:
        """The units that run, and that a start of this one would stop (Conflicts=)."""
        reached = find_reached(self.view, self.unit, JobVerb.START) if self.unit.active_state in DOWN else []
        return tuple(one.unit for one in reached if one.is_changed and one.verb is JobVerb.STOP)

    @property
    def actions(self) -> tuple[str, ...]:
        """The settings by which a failure or an exit of the unit reboots, powers off or ends the manager."""
        unit = self.unit
        set_ = {
            "FailureAction": unit.failure_action,
            "StartLimitAction": unit.start_limit_action,
            "SuccessAction": unit.success_action,
        }
        return tuple(f"{setting}={action}" for setting, action in set_.items() if action not in ("", "none"))

    @property
    def is_limit_reached(self) -> bool:
        """True if systemd gave the unit up because of its start limit."""
        return self.unit.active_state in DOWN and is_start_limit_hit(self.unit)

    @property
    def is_limit_over(self) -> bool:
        """True if systemd would accept a start by now, although it gave the unit up."""
        budget = self.journal.budget
        is_accepted = budget is not None and bool(budget.recent) and budget.remaining > 0
        return is_accepted or is_interval_over(self.unit, self.view.clock.monotonic())

    @property
    def is_only_refused(self) -> bool:
        """True if requested starts alone reached the start limit, and the service itself did not fail."""
        budget = self.journal.budget
        by_requests = was_stopped(self.unit) or (budget is not None and budget.used > 0 == budget.by_systemd)
        return self.unit.result in START_LIMIT_RESULTS and by_requests

    @property
    def has_not_notified(self) -> bool:
        """True if the last start timed out because the service had not reported that it is ready."""
        return has_not_notified(self.unit) or "it did not report that it is ready" in self.journal.last_exit

    @property
    def has_start_timed_out(self) -> bool:
        """True if the last start that ended took longer than TimeoutStartSec=."""
        return has_start_timed_out(self.unit) or "TimeoutStartSec=" in self.journal.last_exit

    @property
    def is_never_ready(self) -> bool:
        """True if several starts in a row timed out, and none has succeeded since systemd loaded the unit."""
        unit = self.unit
        return self.has_start_timed_out and unit.n_restarts > 1 and not unit.active_enter_monotonic

    @property
    def is_starting(self) -> bool:
        """True while a start is in progress: a restart would throw away what it has done."""
        unit = self.unit
        return unit.active_state is ActiveState.ACTIVATING and unit.sub_state.startswith(("condition", "start"))

    @property
    def start_time_left(self) -> float:
        """The seconds that systemd still waits for the start in progress; infinite without TimeoutStartSec=."""
        limit = self.unit.timeout_start_usec
        return math.inf if limit in (0, USEC_INFINITY) else limit / 1e6 - self.age

    @property
    def never_notifies(self) -> bool:
        """True if the last start of a Type=notify service failed by that: another one would fail, too."""
        return self.has_not_notified and self.unit.type in ("notify", "notify-reload")

    @cached_property
    def missing_program(self) -> str:
        """The program of ExecStart= that systemd could not execute because it does not exist; else empty."""
        unit, program = self.unit, next(iter(self.unit.start_arguments), "")
        is_named = (unit.exec_main_code, unit.exec_main_status) == (1, EXIT_EXEC) and program.startswith("/")
        return program if is_named and not self.view.read_files(program) else ""

    @cached_property
    def endless_loop(self) -> tuple[str, str]:
        """Why no start limit ends the loop that the unit is in, and which settings show it; empty if one may."""
        unit, budget, pause = self.unit, self.journal.budget, self.unit.restart_usec / 1e6
        burst, interval = unit.start_limit_burst, unit.start_limit_interval_usec / 1e6
        is_timed = self.has_not_notified and unit.active_state not in DOWN and unit.n_restarts > 0
        if not self.is_looping and not is_timed:
            return "", ""
        if not burst or not interval:
            return "it has no start limit", "StartLimitIntervalSec="
        period = pause + (unit.timeout_start_usec / 1e6 if is_timed else 0.0)
        # In a row of restarts, some of the starts are older than the window: it was renewed before it was full.
        is_renewed = budget is not None and 0 < budget.used < unit.n_restarts
        if period * burst > interval or unit.n_restarts > burst or is_renewed:
            slow = f"with RestartSec={format_span(pause)} and the time that it runs"
            why = f"{slow}, the start limit ({burst} starts in {format_span(interval)}) is never reached"
            return why, "RestartSec=, StartLimitIntervalSec=, NRestarts"
        return "", ""

    @cached_property
    def old_program(self) -> str:
        """Why the main process is older than its program: the file that it executes, or what ExecStart= names."""
        return describe_old_program(self.view, self.unit)

    @cached_property
    def replaced_libraries(self) -> str:
        """The libraries of the main process that were removed or replaced since; empty if there are none."""
        main = self.view.find_process(self.unit.main_pid) if self.unit.main_pid else None
        files = self.view.find_replaced_files(main.id) if main is not None else None
        return name_files(files or ())

    @property
    def runs_old_code(self) -> bool:
        """True if the program or a library of the main process was removed or replaced since."""
        return bool(self.old_program or self.replaced_libraries)

    @property
    def age(self) -> float:
        """The seconds since its last start began."""
        return self.view.clock.monotonic() - self.unit.inactive_exit_monotonic / 1e6

    @property
    def may_start_yet(self) -> bool:
        """True if it began so short a time ago that it may be going to listen."""
        return self.health.verdict is Verdict.NOT_LISTENING and self.age < STEADY and not self.unit.n_restarts

    @property
    def is_restarted(self) -> bool:
        """True if systemd restarted it by itself a short time ago, or is going to."""
        unit = self.unit
        age = self.view.clock.monotonic() - unit.exec_main_start_monotonic / 1e6
        return unit.is_service and unit.n_restarts > 0 and unit.active_state not in DOWN and age < RECENT_RESTART

    @property
    def is_looping(self) -> bool:
        """True if systemd restarts it again and again."""
        return is_looping(self.unit, self.view.clock.monotonic())

    @cached_property
    def masks(self) -> tuple[str, ...]:
        """The links by which the unit is masked, for good in /etc, until the next boot in /run."""
        kind = "user" if self.unit.of_user else "system"
        paths = [f"{folder}/systemd/{kind}/{self.unit.name}" for folder in ("/etc", "/run")]
        return tuple(file.path for file in self.view.read_files(*paths) if file.error)  # /dev/null is no file.

    def is_refused(self, holder: Holder) -> bool:
        """True if the unit's log, or the exit of its program, shows that a process keeps the unit from its port."""
        mine = {port.port for port in self.ports if holder in port.holders}
        by_log = any(LOG_SOURCE in found.sources for found in self.found if found.port in mine)
        return by_log or (self.unit.active_state in DOWN and has_exited_by_itself(self.unit))

    def runs_same_program(self, process: Process) -> bool:
        """True if a process executes the program that ExecStart= names, or the same script with any interpreter."""
        words = self.unit.start_arguments
        own = name_program(PurePosixPath(words[0]).name, words) if words else ""
        if not own or is_runtime(own):
            return False
        theirs = {PurePosixPath(word).name for word in (process.exe_path, *process.command[:2])}
        return own in theirs or own == name_program(process.name, process.command)

    def held_ports(self, holder: Holder) -> str:
        """Return the ports that a process holds, for a sentence: "port 80", "ports 80 and 443"."""
        mine = [str(port.port) for port in self.ports if holder.process.id in {one.process.id for one in port.holders}]
        *most, last = mine or ["?"]
        return f"ports {', '.join(most)} and {last}" if most else f"port {last}"
