"""Judgements that may be used again for a moment: that a unit owns a port.

A judgement reads the descriptors of all processes. A step that polls does not need that each time, as long as the
unit, its listeners and their holders are unchanged. No step ends on a cached judgement.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from typing import NamedTuple

from runbook.host.facts import Unit
from runbook.host.holders import Listener, PortOwnership
from runbook.host.kernel import processes
from runbook.host.ownership.judge import MAX_READS, PortJudge
from runbook.host.ownership.sources import ManagerSource
from runbook.host.ownership.verdict import owner_changing
from runbook.model import Clock, Port


class _CachedOwnership(NamedTuple):
    """The judgement that a unit owns a port."""

    unit: Unit  # the unit as it was when the judgement began
    judged_at: float  # seconds of the monotonic clock
    ownership: PortOwnership


class OwnershipCache:
    """Judges ports, and keeps each judgement that the unit owns its port."""

    def __init__(
        self,
        make_judge: Callable[[Unit], PortJudge],
        manager: ManagerSource,
        clock: Clock,
        remember: Callable[[Unit, Collection[Listener]], None],
    ) -> None:
        self._make_judge = make_judge
        self._manager = manager
        self._clock = clock
        self._remember = remember  # called with the sockets of a unit that owns its port
        self._owned: dict[tuple[str, Port, tuple[str, ...]], _CachedOwnership] = {}

    def judge_port(
        self, unit: Unit, port: Port, *, max_age: float = 0.0, shared_with: tuple[str, ...] = ()
    ) -> PortOwnership:
        """Judge which processes listen on `port`; see `HostView.judge_port`."""
        known = self._owned.get((unit.name, port, shared_with))
        if known is not None and max_age and self._is_current(known, unit, max_age):
            return known.ownership
        for _ in range(MAX_READS):
            began = self._clock.monotonic()
            judged = _CachedOwnership(unit, began, self._make_judge(unit).judge_port(port, shared_with))
            # A restart while the processes were read mixes two invocations in one judgement: it is made again.
            now = self._manager.unit(unit.name)
            if _is_same_moment(unit, now):
                if judged.ownership.is_owned:
                    self._owned[unit.name, port, shared_with] = judged
                    self._remember(unit, judged.ownership.listeners)
                return judged.ownership
            unit = now
        return owner_changing(port)

    def _is_current(self, known: _CachedOwnership, unit: Unit, max_age: float) -> bool:
        """True if nothing has changed since, as far as that shows without reading all processes."""
        if self._clock.monotonic() - known.judged_at > max_age or not _is_same_moment(known.unit, unit):
            return False
        listeners = self._make_judge(unit).list_listeners(known.ownership.port)
        same = {*listeners} == {*known.ownership.listeners, *known.ownership.apart}
        return same and all(processes.is_alive(holder.process.id) for holder in known.ownership.holders)


def _is_same_moment(before: Unit, now: Unit) -> bool:
    """True if neither the invocation nor the main process of a unit has changed between two reads."""
    first, second = ((one.invocation_id, one.main_pid, one.is_running) for one in (before, now))
    return first == second
