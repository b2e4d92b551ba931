"""Fixtures for the service that is rolled back, in the machine of a module."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.machine import Machine
from tests.machine.rollback.staging import Stage


@pytest.fixture(scope="module")
def installed(machine: Machine) -> Stage:
    """Install the service, which is down."""
    stage = Stage(machine)
    stage.install()
    return stage


@pytest.fixture
def stage(installed: Stage) -> Iterator[Stage]:
    """Run version 1.0.0 of both parts."""
    installed.begin()
    yield installed
    installed.end()
