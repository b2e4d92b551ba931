"""Switches the echo of a terminal off while a live view is shown.

An echoed newline moves the view, so that old rows of it stay on the screen. Only ECHO is changed: Ctrl-C, Ctrl-Z and
Ctrl-S have their effect, and what is typed is read by the shell afterwards. The echo is restored at the end, while the
program is stopped (Ctrl-Z), and before a signal ends it; not before SIGKILL or SIGSTOP, which cannot be caught.
"""

from __future__ import annotations

import contextlib
import os
import signal
import termios
import threading
from types import FrameType

CAUGHT = (signal.SIGTSTP, signal.SIGQUIT, signal.SIGTERM, signal.SIGHUP)
"""Signals that stop or end a program which does not catch them. Python itself catches SIGINT."""

_LFLAG = 3  # the index of the local modes in what tcgetattr() returns


class EchoSwitch:
    """The echo of one terminal. Made in the main thread; any thread may call `switch_off`."""

    def __init__(self, fd: int) -> None:
        self._fd = fd
        self._is_off = False  # True if this object switched it off
        self._is_held = False  # True if it must stay on
        self._lock = threading.RLock()  # A signal may arrive while the main thread has it.
        self._undo = contextlib.ExitStack()
        for signum in CAUGHT if threading.current_thread() is threading.main_thread() else ():
            if signal.getsignal(signum) == signal.SIG_DFL:
                self._undo.callback(signal.signal, signum, signal.signal(signum, self._on_signal))

    def switch_off(self) -> None:
        """Switch the echo off, if it is on."""
        with self._lock:
            if not self._is_held and self._change(echo=False):
                self._is_off = True

    def close(self) -> None:
        """Restore the echo for good."""
        self._restore()
        self._undo.close()

    def _restore(self) -> None:
        with self._lock:
            self._is_held = True
            if self._is_off:
                self._change(echo=True)
                self._is_off = False

    def _on_signal(self, signum: int, _frame: FrameType | None) -> None:
        """Restore the echo, and do what the signal does by default. After SIGTSTP, this returns with SIGCONT."""
        self._restore()
        handler = signal.signal(signum, signal.SIG_DFL)
        signal.raise_signal(signum)
        signal.signal(signum, handler)
        self._is_held = False

    def _change(self, *, echo: bool) -> bool:
        """Switch the echo, and return whether that was a change.

        It does nothing in the background: there the shell has set the mode.
        """
        # Without this, the kernel would stop a program that has just been moved to the background.
        former = signal.pthread_sigmask(signal.SIG_BLOCK, {signal.SIGTTOU})
        try:
            modes = termios.tcgetattr(self._fd)
            if bool(modes[_LFLAG] & termios.ECHO) == echo or not is_in_foreground(self._fd):
                return False
            modes[_LFLAG] ^= termios.ECHO
            termios.tcsetattr(self._fd, termios.TCSANOW, modes)  # Another mode would wait until Ctrl-Q after Ctrl-S.
        except (OSError, termios.error):
            return False  # The terminal is gone.
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, former)
        return True


def is_in_foreground(fd: int) -> bool:
    """True unless a shell runs the program in the background of this terminal."""
    try:
        # 0 is a group of another PID namespace.
        return os.tcgetpgrp(fd) in (0, os.getpgrp())
    except OSError:
        return True  # It is not the terminal of this session.
