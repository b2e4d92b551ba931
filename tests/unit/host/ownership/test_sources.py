"""The two sources of a judgement, and the classes that implement them."""

from __future__ import annotations

import pytest

from runbook.host.ownership.kernel_source import LocalKernel
from runbook.host.ownership.sources import KernelSource, ManagerSource
from runbook.host.systemd.manager import SystemdManager
from tests.unit.fake_machine import FakeMachine


@pytest.mark.parametrize(
    ("source", "fulfils"),
    [
        (KernelSource, LocalKernel),
        (KernelSource, FakeMachine),
        (ManagerSource, SystemdManager),
        (ManagerSource, FakeMachine),
    ],
)
def test_the_machine_and_its_stand_in_have_the_same_methods(source: type, fulfils: type) -> None:
    wanted = {name for name in vars(source) if not name.startswith("_")}
    assert wanted <= set(dir(fulfils))
