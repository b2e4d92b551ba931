"""The report of a run for programs: one JSON object per line."""

from __future__ import annotations

from typing import TextIO

from runbook.events import Event


class JsonLines:
    """Prints every event when it happens. If the reader closes the pipe, the run continues."""

    def __init__(self, out: TextIO) -> None:
        self._out: TextIO | None = out

    @property
    def is_reader_gone(self) -> bool:
        """True if the reader has closed the pipe."""
        return self._out is None

    def __call__(self, event: Event) -> None:
        """Print one event."""
        if self._out is None:
            return
        try:
            print(event.to_line(), file=self._out, flush=True)
        except OSError:
            self._out = None
