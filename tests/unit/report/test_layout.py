"""Lines on a screen: columns, wrapping, and no control characters."""

from __future__ import annotations

import io

import pytest

from runbook.report.layout import WIDTH, Layout, PlainScreen, TerminalScreen


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


def test_the_status_of_a_terminal_is_plain_text() -> None:
    seen: list[str] = []

    class Screen(PlainScreen):
        def status(self, text: str) -> None:
            seen.append(text)

    Layout(Screen(io.StringIO())).status("run \x1b]0;evil\x07")
    assert seen == ["run \\x1b]0;evil\\x07"]


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
    layout.status("two")
    assert layout.is_reader_gone
