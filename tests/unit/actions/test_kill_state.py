"""The phases of the state machine, as they are drawn above it."""

from __future__ import annotations

import inspect
import re

from runbook.actions import termination
from runbook.actions.kill_state import Phase


def test_the_drawing_has_every_phase_once() -> None:
    source = inspect.getsource(termination)
    drawn = re.findall(r"[A-Z][A-Z_]{3,}", "".join(line for line in source.splitlines() if line.startswith("# ")))
    assert sorted(drawn) == sorted(phase.name for phase in Phase if phase is not Phase.JUDGE)
