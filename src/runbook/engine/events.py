"""The stream of events that everything anybody sees is made from."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runbook.model import Clock, Event

Sink = Callable[[Event], None]
"""Takes each event as it happens: the text on the terminal, JSON lines, the record."""

MASK = "***"


@dataclass
class Events:
    """Stamps events, takes secrets out of them, and hands them to every sink, in order.

    `secrets` are values, not names: wherever one stands in an event, a mask stands instead.
    """

    run: str
    clock: Clock
    sinks: Iterable[Sink]
    secrets: tuple[str, ...] = ()
    seen: list[Event] = field(default_factory=list)

    def emit(self, event: str, **data: Any) -> Event:
        """Let an event happen. What it announces counts as done when every sink has it."""
        happened = Event(self.clock.now(), self.run, event, self._masked(data))
        self.seen.append(happened)
        for sink in self.sinks:
            sink(happened)
        return happened

    def _masked(self, value: Any) -> Any:
        if not self.secrets:
            return value
        if isinstance(value, str):
            for secret in self.secrets:
                value = value.replace(secret, MASK)
            return value
        if isinstance(value, Mapping):
            return {key: self._masked(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self._masked(item) for item in value]
        return value
