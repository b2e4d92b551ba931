"""The echo of a terminal: switched off and restored, whatever state it is in."""

from __future__ import annotations

import os
import pty
import signal
import termios
from collections.abc import Iterator

import pytest

from runbook.report.echo import CAUGHT, EchoSwitch, is_in_foreground


@pytest.fixture
def terminal() -> Iterator[int]:
    """A terminal that is not that of this session."""
    other_end, fd = pty.openpty()
    yield fd
    os.close(fd)
    os.close(other_end)


def modes(fd: int) -> int:
    return int(termios.tcgetattr(fd)[3])


def test_only_the_echo_changes(terminal: int) -> None:
    before = modes(terminal)
    switch = EchoSwitch(terminal)
    switch.switch_off()
    switch.switch_off()
    assert modes(terminal) == before & ~termios.ECHO
    switch.close()
    assert modes(terminal) == before
    switch.switch_off()
    assert modes(terminal) == before


def test_an_echo_that_was_off_stays_off(terminal: int) -> None:
    first = EchoSwitch(terminal)
    first.switch_off()
    second = EchoSwitch(terminal)
    second.switch_off()
    second.close()
    assert not modes(terminal) & termios.ECHO
    first.close()
    assert modes(terminal) & termios.ECHO


def test_what_is_no_terminal_is_left_alone() -> None:
    reader, writer = os.pipe()
    switch = EchoSwitch(writer)
    switch.switch_off()
    switch.close()
    os.close(reader)
    os.close(writer)


def test_the_handlers_of_signals_are_restored(terminal: int) -> None:
    before = [signal.getsignal(signum) for signum in CAUGHT]
    switch = EchoSwitch(terminal)
    assert signal.getsignal(signal.SIGTSTP) != signal.SIG_DFL
    switch.close()
    assert [signal.getsignal(signum) for signum in CAUGHT] == before


def test_a_terminal_of_another_session_counts_as_foreground(terminal: int) -> None:
    assert is_in_foreground(terminal)
