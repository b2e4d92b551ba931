"""One JSON object a line, for programs."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import TextIO

from runbook.model import Event


def line(event: Event) -> str:
    """Write an event as JSON. `time` is RFC 3339, in UTC, with milliseconds."""
    stamp = datetime.fromtimestamp(event.time, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"time": stamp, "run": event.run, "event": event.event, **event.data}, default=str)


class JsonLines:
    """Prints every event as it happens. A reader that went away does not end the run."""

    def __init__(self, out: TextIO) -> None:
        self._out: TextIO | None = out

    def __call__(self, event: Event) -> None:
        """Print one event."""
        if self._out is None:
            return
        try:
            print(line(event), file=self._out, flush=True)
        except OSError:
            self._out = None
