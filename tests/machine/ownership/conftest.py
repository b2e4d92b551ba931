"""What the modules share that judge a whole street of services and strangers at once."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.machine import Machine
from tests.machine.ownership.street import Street


@pytest.fixture(scope="module")
def street(machine: Machine, request: pytest.FixtureRequest) -> Iterator[Street]:
    """Everybody whom the module's `move_in` lets in listens, and everybody was judged."""
    with Street(machine) as made:
        request.module.move_in(made)
        yield made
