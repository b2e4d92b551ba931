"""A unit and a machine as data, for the rules about one process at a time."""

from __future__ import annotations

from typing import Any

from runbook.host.cgroups import CgroupUnit, parse_cgroup_path
from runbook.host.facts import Unit
from runbook.host.holders import Listener, Process
from runbook.host.ownership.ruling import UnitContext
from tests.unit.fake_machine import FakeMachine, process, unit

SESSION = "/user.slice/user-0.slice/session-9.scope"
MANAGER = "/user.slice/user-1000.slice/user@1000.service/init.scope"


def scene(
    *processes: Process, units: tuple[Unit, ...] = (), manager_uid: int | None = None, **of_unit: Any
) -> UnitContext:
    """Make gw.service, changed as the test needs it, on a machine with these processes and further units."""
    gw = unit(**of_unit)
    machine = FakeMachine(units={one.name: one for one in (gw, *units)}, processes={one.pid: one for one in processes})
    return UnitContext(gw, machine, machine, manager_uid)


def place(process: Process) -> CgroupUnit:
    return parse_cgroup_path(process.cgroup)


def listener(address: str = "0.0.0.0", number: int = 80, inode: int = 7, **facts: Any) -> Listener:
    return Listener("tcp", address, number, inode, **facts)


__all__ = ["MANAGER", "SESSION", "listener", "place", "process", "scene", "unit"]
