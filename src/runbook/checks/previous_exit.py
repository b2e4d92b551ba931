"""How the previous invocation ended, for a unit that restarts so fast that its properties no longer show it."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import NamedTuple

from runbook.checks.exit_reason import describe_exit, has_not_notified
from runbook.host.exit_status import describe_exit_status
from runbook.host.facts import Unit
from runbook.host.interface import HostView
from runbook.host.queries import PreviousExit, PreviousExitQuery, Query
from runbook.spec.state import RunState

EXIT_LOOKUP_TIMEOUT = 1.0  # seconds for systemd's entries to arrive in the journal and to be read
ANSWER_GRACE = 0.2  # seconds after its time-out within which a query has an answer, even if that is a time-out
CLD_CODES = {"exited": 1, "killed": 2, "dumped": 3}  # the numbers of waitid(2) that ExecMainCode holds


class ExitDescription(NamedTuple):
    """An exit in words."""

    text: str
    not_notified: bool = False  # True if the service had not reported in time that it is ready


UNKNOWN_EXIT = ExitDescription("its main process keeps exiting")


@dataclass
class PreviousExitLookup:
    """A lookup in the journal, repeated until the entries are there or the time is over."""

    query: Query[PreviousExit] | None = None
    deadline: float = 0.0  # seconds of the monotonic clock; 0 before the first poll

    def poll(self, view: HostView, unit: Unit, run: RunState) -> ExitDescription | None:
        """Return how the previous invocation ended; None while the query runs."""
        now = view.clock.monotonic()
        self.deadline = self.deadline or now + EXIT_LOOKUP_TIMEOUT
        if self.query is None:
            # One query at a time. In a fast loop each poll may find another invocation; any exit of the loop will do.
            kind = PreviousExitQuery(unit.name, unit.invocation_id, of_user=unit.of_user)
            self.query = Query(kind, run.next_query_id(), max(0.05, self.deadline - now))
        answer = view.query(self.query)
        if answer is None:
            return None if now < self.deadline + ANSWER_GRACE else UNKNOWN_EXIT
        if answer.value is not None:
            return _describe_previous(unit, answer.value)
        # The entries arrive in the journal a little after systemd has restarted the unit.
        self.query = None
        return None if answer.ok and now < self.deadline else UNKNOWN_EXIT


def _describe_previous(unit: Unit, previous: PreviousExit) -> ExitDescription:
    """Describe the exit as that of a unit whose properties still show it."""
    if previous.result == "success":
        return ExitDescription("it exited, and systemd counts that as a success")
    if not previous.result:
        return UNKNOWN_EXIT
    code = CLD_CODES.get(previous.code, 0)
    # has_start_timed_out() compares these two moments. Of them the journal shows only which one was later.
    entered = unit.inactive_exit_monotonic - (not previous.started)
    exited = replace(unit, result=previous.result, active_enter_monotonic=entered, exec_main_code=0, failed_command="")
    if previous.command == "ExecStart":
        # The journal does not show whether the program was executed.
        exited = replace(
            exited, exec_main_code=code, exec_main_status=previous.status, exec_main_handoff_monotonic=None
        )
    elif previous.command:
        how = describe_exit_status(previous.status) if code == 1 else f"was killed by signal {previous.status}"
        exited = replace(exited, failed_command=f"{previous.command}= {how}")
    return ExitDescription(describe_exit(exited), has_not_notified(exited))
