"""Which methods a predicted host has."""

from __future__ import annotations

import pytest

from runbook.engine.execution.predicted_host import PredictedHost
from runbook.host.interface import Host, HostView
from tests.unit.fake_machine import FakeMachine, unit

WRITING = sorted(name for name in set(dir(Host)) - set(dir(HostView)) if not name.startswith("_"))


def test_it_reads_the_machine_as_it_is() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, session="session-3.scope")
    view: HostView = PredictedHost(machine)
    assert view.unit("gw.service") == unit()
    assert view.find_login() == "session-3.scope"
    assert view.clock is machine.clock


@pytest.mark.parametrize("name", [*WRITING, "processes"])
def test_it_passes_on_nothing_that_writes(name: str) -> None:
    """Even if it is made from a `Host`, which has all of these methods."""
    predicted = PredictedHost(FakeMachine())
    with pytest.raises(AttributeError, match=name):
        getattr(predicted, name)
