"""Fixtures for machines with real software from the distribution's packages, installed and not started."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.machine import Machine


@pytest.fixture(scope="module")
def machine(suite: str) -> Iterator[Machine]:
    """Boot a machine with the software for the tests of a module."""
    with Machine(suite, software=True) as booted:
        yield booted


@pytest.fixture
def fresh_machine(suite: str) -> Iterator[Machine]:
    """Boot a machine with the software for one test alone."""
    with Machine(suite, software=True) as booted:
        yield booted
