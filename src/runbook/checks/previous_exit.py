"""How the invocation before ended, where a unit was restarted so fast that it does not tell any more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from runbook.checks.exit_reason import describe_exit, has_not_notified
from runbook.host.facts import Unit
from runbook.host.interface import HostView
from runbook.host.queries import PreviousExitQuery, Query
from runbook.spec.state import RunState

EXIT_LOOKUP_TIMEOUT = 1.0
"""Seconds for the journal to be read, and for what systemd wrote to have come there."""

ANSWER_GRACE = 0.2
"""Seconds after its time within which a question has its answer, and be it that there is none."""

CLD_CODES = {"exited": 1, "killed": 2, "dumped": 3}
"""The numbers of waitid(2) that ExecMainCode holds."""


@dataclass(frozen=True)
class PreviousExit:
    """An end in words; `silent`: it had not reported in time that it is ready."""

    text: str
    not_notified: bool = False


UNKNOWN_EXIT = PreviousExit("its main process keeps ending")
"""Nobody tells."""


@dataclass
class PreviousExitLookup:
    """What the journal is asked, and until when; `until` is in seconds of the monotonic clock."""

    query: Query | None = None
    deadline: float = 0.0

    def poll(self, view: HostView, unit: Unit, run: RunState) -> PreviousExit | None:
        """Tell how it ended; None as long as the answer is on its way."""
        now = view.clock.monotonic()
        self.deadline = self.deadline or now + EXIT_LOOKUP_TIMEOUT
        if self.query is None:
            # One at a time: in a fast loop each look may find another invocation, and any end of it tells enough.
            what = PreviousExitQuery(unit.name, unit.invocation_id, unit.of_user)
            self.query = Query(what, run.next_query_id(), max(0.05, self.deadline - now))
        answer = view.query(self.query)
        if answer is None:
            return None if now < self.deadline + ANSWER_GRACE else UNKNOWN_EXIT
        if answer.ok and answer.output:
            return _read(unit, json.loads(answer.output))
        # The journal takes its entries a little later than systemd goes on.
        self.query = None
        return None if answer.ok and now < self.deadline else UNKNOWN_EXIT


def _read(unit: Unit, told: Mapping[str, Any]) -> PreviousExit:
    """Say it in the words that are used of a unit that tells it itself."""
    result, command, status = told["result"], told.get("command", ""), told.get("status", 0)
    if result == "success":
        return PreviousExit("it ended, and systemd takes that for a success")
    if not result:
        return UNKNOWN_EXIT
    code = CLD_CODES.get(told.get("code", ""), 0)
    # Its start had come to its end, or not: that is all that is known of the moments.
    entered = unit.inactive_exit_monotonic - (not told["started"])
    ended = replace(
        unit, result=result, exec_main_code=0, exec_main_status=0, failed_command="", active_enter_monotonic=entered
    )
    if command == "ExecStart":
        ended = replace(ended, exec_main_code=code, exec_main_status=status)
    elif command:
        how = f"ended with status {status}" if code == 1 else f"was killed by signal {status}"
        ended = replace(ended, failed_command=f"{command}= {how}")
    return PreviousExit(describe_exit(ended), has_not_notified(ended))
