"""The stream of events that everything anybody sees is made from."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from runbook.events import Event, Payload
from runbook.model import Clock

Sink = Callable[[Event], None]
"""Takes each event as it happens: the text on the terminal, JSON lines, the record."""

MASK = "***"

ELLIPSIS = "..."
"""What stands where a text was cut off for a sentence."""

MIN_SECRET_PART = 4
"""Characters of a secret from which on a piece of it gives something away."""

MIN_SECRET_LINE = 8
"""The same of a line of a secret that has several: texts are shown line by line."""


@dataclass
class EventStream:
    """Stamps events, takes secrets out of them, and hands them to every sink, in order.

    `secrets` are values, not names: wherever one stands in an event, a mask stands instead.
    """

    run: str
    clock: Clock
    sinks: Iterable[Sink]
    secrets: tuple[str, ...] = ()
    emitted: list[Event] = field(default_factory=list)

    def emit(self, payload: Payload) -> Event:
        """Let an event happen. What it announces counts as done when every sink has it."""
        happened = Event(self.clock.now(), self.run, payload.event, self.mask(payload.to_data()))
        self.emitted.append(happened)
        for sink in self.sinks:
            sink(happened)
        return happened

    def mask(self, value: Any) -> Any:
        """Give a value, or what is in it, without the secrets."""
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
        """The secrets as they may stand in a text, the longest first: one may be a part of another."""
        forms = set[str]()
        for secret in self.secrets:
            forms |= {secret, secret.strip(), shlex.quote(secret).strip("'")}
            lines = [line.strip() for line in secret.splitlines()]
            forms.update(line for line in lines if len(lines) > 1 and len(line) >= MIN_SECRET_LINE)
        return tuple(sorted(forms - {""}, key=len, reverse=True))


def _mask_cut(text: str, secret: str) -> str:
    """Mask what is left of a secret where the text was cut in the middle of it."""
    at = len(text)
    while (at := text.rfind(ELLIPSIS, 0, at)) >= 0:
        for length in range(min(len(secret) - 1, at), MIN_SECRET_PART - 1, -1):
            if text.startswith(secret[:length], at - length):
                text, at = text[: at - length] + MASK + text[at:], at - length
                break
    return text
