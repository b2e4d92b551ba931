"""Runs a test's change between two steps of `signals.signal_process`."""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from unittest import mock

from runbook.host.holders import Holder, Process, SignalResult
from runbook.host.kernel.signals import signal_process

MOMENTS = ("judged", "opened", "checked", "about to signal")


def signal_with_change(holder: Holder, happen: Callable[[str], None]) -> SignalResult:
    """Send SIGTERM. `happen` is called with each moment: before and after the pidfd is opened, after the checks of the
    process, and before the signal."""
    pidfd_open, send = os.pidfd_open, signal.pidfd_send_signal

    def opening(pid: int) -> int:
        happen("judged")
        fd = pidfd_open(pid)
        happen("opened")
        return fd

    def confirm(_process: Process) -> bool:
        happen("checked")
        return True

    def sending(fd: int, signum: int) -> None:
        happen("about to signal")
        send(fd, signum)

    with mock.patch.object(os, "pidfd_open", opening), mock.patch.object(signal, "pidfd_send_signal", sending):
        return signal_process(holder, signal.SIGTERM, confirm=confirm)
