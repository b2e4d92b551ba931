"""One look at a step as things stand, waiting for nothing but the answers to its own questions."""

from __future__ import annotations

from typing import Any

from runbook.engine.attempt import refusal
from runbook.errors import HostError
from runbook.host.ports import HostView, Waiter
from runbook.memory import RunState
from runbook.model import Deadline, Finding, State
from runbook.step import Step

LONGEST_ANSWER = 90.0
"""Seconds for all the questions of one look; each has a time-out of its own besides."""


def glance(step: Step[Any], view: HostView, waiter: Waiter, run: RunState) -> Finding:
    """Say how a step stands at this moment, without changing anything. Raises Interrupted."""
    memory = step.memory(run)
    deadline = Deadline.after(view.clock, LONGEST_ANSWER)
    while True:
        try:
            finding = step.glance(view, memory)
        except HostError as error:
            return refusal(step, error)
        waits_for_answer = finding.state is State.NOT_YET and finding.wake is not None and finding.wake.pending
        if not waits_for_answer or deadline.passed:
            return finding
        assert finding.wake is not None
        waiter.wait(finding.wake, deadline)
