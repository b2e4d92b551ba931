"""Lines on a screen: columns, wrapping, and no control characters."""

from __future__ import annotations

import io

import pytest

from runbook.report.layout import WIDTH, Collector, Layout, PlainScreen
from runbook.report.terminal import TerminalScreen
from runbook.util.text_width import measure


class Gone(io.StringIO):
    """A reader that went away."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("screen", [PlainScreen, TerminalScreen])
def test_what_others_wrote_does_not_steer_the_terminal(screen: type[PlainScreen | TerminalScreen]) -> None:
    evil = "a\x1b[2J\x07b\x9b31mc\r\nd\te\x7f"
    out = io.StringIO()
    page = Layout(screen(out))
    page.heading(evil, evil)
    page.entry("--", evil, evil)
    page.detail(evil)
    page.sentence(evil)
    page.line((evil, ""))
    printed = out.getvalue()
    assert {c for c in printed if not c.isprintable()} == {"\n"}
    assert printed.count("a\\x1b[2J\\x07b\\x9b31mc") == 7
    assert "\n          d       e\\x7f\n" in printed.replace("d   e", "d       e")


@pytest.mark.parametrize("width", [40, 60, 80, 120])
def test_a_line_is_never_wider_than_the_screen(width: int) -> None:
    screen = Collector(width)
    page = Layout(screen)
    for text in ("word " * 50, "x" * 300, "\N{CJK UNIFIED IDEOGRAPH-4E2D}" * 150, "e\u0301" * 200):
        page.heading(text, "run 20261130-1249-azj")
        for depth in (0, 1, 2):
            page.entry("ok", text[:30], text, "1min 12s", depth=depth)
            page.detail(text, depth=depth)
            page.quote(text, depth=depth)
        page.sentence(text)
    assert max(sum(measure(text) for text, _ in line) for line in screen.lines) <= width


def test_on_a_narrow_screen_a_text_begins_below_its_name() -> None:
    screen = Collector(40)
    page = Layout(screen)
    page.heading("upgrade the gateway of the agents", "run 20261130-1249-azj")
    page.entry("ok", "restart", "new invocation, PID 137", "0.4s")
    page.entry("ok", "stop", "gw.service is inactive", depth=1)
    assert ["".join(text for text, _ in line).rstrip() for line in screen.lines] == [
        "upgrade the gateway of the agents",
        "                   run 20261130-1249-azj",
        "",
        "  ok    restart                     0.4s",
        "          new invocation, PID 137",
        "  ok      stop",
        "            gw.service is inactive",
    ]


def test_wide_characters_keep_their_columns() -> None:
    screen = Collector(80)
    Layout(screen).entry("ok", "\u7b49\u5f85", "ready", "2s")
    (line,) = ["".join(text for text, _ in line) for line in screen.lines]
    assert (line.index("ready"), measure(line)) == (27, 80)


def test_a_text_is_wrapped_in_its_column_and_a_time_is_at_the_right_edge() -> None:
    out = io.StringIO()
    Layout(PlainScreen(out)).entry("ok", "wait-ready", "word " * 11, "2s")
    first, second = out.getvalue().splitlines()
    assert (first.index("word"), second.index("word")) == (29, 29)
    assert (first[-4:], len(first)) == ("  2s", WIDTH)


def test_text_is_dropped_when_the_reader_is_gone() -> None:
    layout = Layout(PlainScreen(Gone()))
    assert not layout.is_reader_gone
    layout.sentence("one")
    assert layout.is_reader_gone
