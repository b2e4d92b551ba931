"""How the invocation before ended, where a unit was restarted so fast that it does not tell any more."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from runbook.checks.exit_reason import how_it_ended, never_notified
from runbook.host.facts import Unit
from runbook.host.interface import HostView
from runbook.host.queries import EndBefore, Question
from runbook.spec.state import RunState

PATIENCE = 1.0
"""Seconds for the journal to be read, and for what systemd wrote to have come there."""

EXPIRY = 0.2
"""Seconds after its time within which a question has its answer, and be it that there is none."""

CODES = {"exited": 1, "killed": 2, "dumped": 3}
"""The numbers of waitid(2) that ExecMainCode holds."""


@dataclass(frozen=True)
class End:
    """An end in words; `silent`: it had not reported in time that it is ready."""

    text: str
    silent: bool = False


UNKNOWN = End("its main process keeps ending")
"""Nobody tells."""


@dataclass
class Asking:
    """What the journal is asked, and until when; `until` is in seconds of the monotonic clock."""

    question: Question | None = None
    until: float = 0.0

    def tell(self, view: HostView, unit: Unit, run: RunState) -> End | None:
        """Tell how it ended; None as long as the answer is on its way."""
        now = view.clock.monotonic()
        self.until = self.until or now + PATIENCE
        if self.question is None:
            # One at a time: in a fast loop each look may find another invocation, and any end of it tells enough.
            what = EndBefore(unit.name, unit.invocation_id, unit.of_user)
            self.question = Question(what, run.new_question(), max(0.05, self.until - now))
        answer = view.ask(self.question)
        if answer is None:
            return None if now < self.until + EXPIRY else UNKNOWN
        if answer.good and answer.output:
            return _read(unit, json.loads(answer.output))
        # The journal takes its entries a little later than systemd goes on.
        self.question = None
        return None if answer.good and now < self.until else UNKNOWN


def _read(unit: Unit, told: Mapping[str, Any]) -> End:
    """Say it in the words that are used of a unit that tells it itself."""
    result, command, status = told["result"], told.get("command", ""), told.get("status", 0)
    if result == "success":
        return End("it ended, and systemd takes that for a success")
    if not result:
        return UNKNOWN
    code = CODES.get(told.get("code", ""), 0)
    # Its start had come to its end, or not: that is all that is known of the moments.
    entered = unit.inactive_exit_monotonic - (not told["started"])
    ended = replace(unit, result=result, exec_main_code=0, exec_main_status=0, broke="", active_enter_monotonic=entered)
    if command == "ExecStart":
        ended = replace(ended, exec_main_code=code, exec_main_status=status)
    elif command:
        how = f"ended with status {status}" if code == 1 else f"was killed by signal {status}"
        ended = replace(ended, broke=f"{command}= {how}")
    return End(how_it_ended(ended), never_notified(ended))
