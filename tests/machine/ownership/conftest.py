"""The stage of the modules that judge many services and processes at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.machine import Machine
from tests.machine.ownership.staging import Stage


@pytest.fixture(scope="module")
def stage(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Stage]:
    """Start what the module's `start_all` starts, and judge all ports."""
    with Stage(machine) as made:
        request.module.start_all(made)
        yield made
