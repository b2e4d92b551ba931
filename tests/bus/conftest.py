"""Fixtures for tests of the bus: each test has a dbus-daemon and a systemd of its own."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook.host.loop import Loop
from runbook.host.systemd.manager import SystemdManager

from .private_bus import PrivateBus


@pytest.fixture
def bus(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[PrivateBus]:
    """Start a private bus with a fake systemd, which the program takes for the system bus."""
    with PrivateBus(tmp_path) as private:
        monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", private.address)
        yield private


@pytest.fixture
def loop() -> Iterator[Loop]:
    """Make an event loop whose ports never change and whose processes never exit."""
    made = Loop(look=lambda _port: frozenset(), pidfd=lambda _process: None)
    yield made
    made.close()


@pytest.fixture
def systemd(bus: PrivateBus, loop: Loop) -> Iterator[SystemdManager]:
    """Connect the program to the private bus."""
    made = SystemdManager("system", loop)
    yield made
    made.close()
