"""The report of a run as a page for a browser: one file that needs no network and contains no script.

It shows text from commands, units and process names, which others control. So every text is escaped, and the
Content-Security-Policy of the page permits nothing but its style.
"""

from __future__ import annotations

import html
import json
from collections.abc import Iterable

from runbook.events import Event
from runbook.report.layout import Piece, Screen
from runbook.util.stdio import escape_controls

_STYLE = """\
:root { color-scheme: light dark; }
body { font-family: sans-serif; margin: 2em auto; max-width: 60em; padding: 0 1em; }
pre { font-family: monospace; white-space: pre-wrap; overflow-wrap: anywhere; }
.green { color: #187018; } .yellow { color: #8a6100; } .red { color: #b01818; }
.dim { opacity: 0.65; } .bold { font-weight: bold; }
@media (prefers-color-scheme: dark) {
  .green { color: #6c6; } .yellow { color: #db5; } .red { color: #f77; }
}"""

_PAGE = """\
<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>{title}</title>
<style>
{style}
</style>
</head>
<body>
<pre>
{lines}
</pre>
<h2>Events</h2>
{events}
</body>
</html>
"""


class HtmlScreen(Screen):
    """A screen that collects lines for a page."""

    def __init__(self) -> None:
        self._lines: list[str] = []

    def line(self, pieces: Iterable[Piece]) -> None:
        self._lines.append("".join(_span(text, style) for text, style in pieces).rstrip())

    def page(self, title: str, events: Iterable[Event]) -> bytes:
        """Return the page: the lines, and the events as they are recorded."""
        page = _PAGE.format(
            title=html.escape(escape_controls(title)),
            style=_STYLE,
            lines="\n".join(self._lines),
            events="\n".join(_details(event) for event in events),
        )
        return page.encode(errors="backslashreplace")  # JSON can contain a lone surrogate, which UTF-8 cannot encode.


def _span(text: str, style: str) -> str:
    return f'<span class="{html.escape(style)}">{html.escape(text)}</span>' if style else html.escape(text)


def _details(event: Event) -> str:
    facts = json.loads(event.to_line())
    words = " ".join(str(event.data.get(name) or "") for name in ("id", "status", "verdict"))
    head = html.escape(f"{facts['time']} {event.event} {words}".rstrip())
    return f"<details><summary>{head}</summary><pre>{html.escape(json.dumps(facts, indent=2))}</pre></details>"
