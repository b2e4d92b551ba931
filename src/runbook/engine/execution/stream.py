"""The stream of events from which all output and the record are made."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from runbook.events import Event, Payload
from runbook.model import Clock

Sink = Callable[[Event], None]  # A receiver of events: the text report, the JSON lines, the journal, the record
MASK = "***"  # the text that replaces a secret
ELLIPSIS = "..."  # the end of a text that was shortened for a sentence
MIN_SECRET_PART = 4  # the length from which on a part of a secret is masked
MIN_SECRET_LINE = 8  # the same for a line of a secret that has several: reports show text line by line


@dataclass
class EventStream:
    """Adds the time to events, masks the secrets in them, and passes them to every sink, in order."""

    run: str  # the ID of the run
    clock: Clock
    sinks: Iterable[Sink]
    secrets: tuple[str, ...] = ()  # values, not names
    emitted: list[Event] = field(default_factory=list)

    def emit(self, payload: Payload) -> Event:
        """Pass an event to the sinks. What it announces counts as done when every sink has it."""
        event = Event(self.clock.now(), self.run, payload.event, self.mask(payload.to_data()))
        self.emitted.append(event)
        for sink in self.sinks:
            sink(event)
        return event

    def mask(self, value: Any) -> Any:
        """Return a value with the secrets in it masked."""
        if not self.secrets:
            return value
        if isinstance(value, str):
            for secret in self.secret_forms:
                value = _mask_cut(value.replace(secret, MASK), secret)
            return value
        if isinstance(value, Mapping):
            return {key: self.mask(item) for key, item in value.items()}
        if isinstance(value, list | tuple):
            return [self.mask(item) for item in value]
        return value

    @cached_property
    def secret_forms(self) -> tuple[str, ...]:
        """The forms that a secret can have in a text, the longest first, as one may be a part of another."""
        forms = set[str]()
        for secret in self.secrets:
            forms |= {secret, secret.strip(), shlex.quote(secret).strip("'")}
            lines = [line.strip() for line in secret.splitlines()]
            forms.update(line for line in lines if len(lines) > 1 and len(line) >= MIN_SECRET_LINE)
        return tuple(sorted(forms - {""}, key=len, reverse=True))


def _mask_cut(text: str, secret: str) -> str:
    """Mask the beginning of a secret before an ELLIPSIS, where a text was shortened within the secret."""
    at = len(text)
    while (at := text.rfind(ELLIPSIS, 0, at)) >= 0:
        for length in range(min(len(secret) - 1, at), MIN_SECRET_PART - 1, -1):
            if text.startswith(secret[:length], at - length):
                text, at = text[: at - length] + MASK + text[at:], at - length
                break
    return text
