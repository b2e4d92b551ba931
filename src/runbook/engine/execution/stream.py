"""The stream of events from which all output and the record are made."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from runbook.errors import RunbookError
from runbook.events import Event, Payload
from runbook.model import Clock
from runbook.util.secrets import SecretMask

Sink = Callable[[Event], None]  # A receiver of events: the text report, the JSON lines, the journal, the record


@dataclass
class EventStream:
    """Adds the time to events, masks the secrets in them, and passes them to every sink, in order."""

    run: str  # the ID of the run
    clock: Clock
    sinks: Iterable[Sink]
    secrets: tuple[str, ...] = ()  # values, not names
    emitted: list[Event] = field(default_factory=list)
    _broken_sinks: list[Sink] = field(default_factory=list)  # sinks that raised an error of this program

    def emit(self, payload: Payload) -> Event:
        """Pass an event to the sinks. What it announces counts as done when every sink has it."""
        event = Event(self.clock.now(), self.run, payload.event, self.mask(payload.to_data()))
        self.emitted.append(event)
        failure: Exception | None = None
        for sink in self.sinks:
            try:
                sink(event)
            except RunbookError:
                raise
            except Exception as error:
                # An error of this program is reported once, after the other sinks have the event.
                if sink not in self._broken_sinks:
                    self._broken_sinks.append(sink)
                    failure = error
        if failure is not None:
            raise failure
        return event

    def mask(self, value: Any) -> Any:
        """Return a value with the secrets in it masked."""
        return self.secret_mask.mask(value)

    @cached_property
    def secret_mask(self) -> SecretMask:
        """What masks the secrets."""
        return SecretMask(self.secrets)
