"""The report of a run for programs: one JSON object per line."""

from __future__ import annotations

from typing import TextIO

from runbook.events import Event


class JsonLines:
    """Prints every event when it happens. If the reader closes the pipe, the run continues."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        self.is_reader_gone = False

    def __call__(self, event: Event) -> None:
        """Print one event."""
        try:
            if not self.is_reader_gone:
                print(event.to_line(), file=self._out, flush=True)
        except OSError:
            self.is_reader_gone = True
