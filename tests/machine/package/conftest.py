"""Machines that have neither Python nor the checkout, and the package to be installed."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.machine import Machine
from tests.machine.package.build import built


@pytest.fixture(scope="session")
def packages() -> Path:
    """Return the folder of the package, the wheel and the source archive."""
    return built()


@pytest.fixture
def clean_machine(suite: str, packages: Path) -> Iterator[Machine]:
    """Boot a machine that has what Debian installs at first, and the packages in /srv/package."""
    with Machine(suite, clean=True, bind={packages: "/srv/package"}) as booted:
        yield booted
