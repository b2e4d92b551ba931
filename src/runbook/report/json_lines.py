"""One JSON object a line, for programs."""

from __future__ import annotations

from typing import TextIO

from runbook.events import Event


class JsonLines:
    """Prints every event as it happens. A reader that went away does not end the run."""

    def __init__(self, out: TextIO) -> None:
        self._out: TextIO | None = out

    @property
    def is_reader_gone(self) -> bool:
        """Whether whoever read it went away."""
        return self._out is None

    def __call__(self, event: Event) -> None:
        """Print one event."""
        if self._out is None:
            return
        try:
            print(event.to_line(), file=self._out, flush=True)
        except OSError:
            self._out = None
