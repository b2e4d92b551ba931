"""What the tests of the host's rooms share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from .family import Family


@pytest.fixture
def family() -> Iterator[Family]:
    """Real processes that hold a listening socket."""
    with Family() as new:
        yield new
