"""The kernel of this machine as a source: real processes and sockets."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace

import pytest

from runbook.host.cgroups import parse_cgroup_path
from runbook.host.holders import Listener
from runbook.host.kernel.cgroupfs import find_cgroup_mount
from runbook.host.kernel.sock_diag import SocketTable
from runbook.host.loop import Loop
from runbook.host.ownership.kernel_source import LocalKernel
from runbook.model import Deadline, Wake
from tests.unit.host.kernel.family import Family


@pytest.fixture
def kernel(loop: Loop) -> Iterator[LocalKernel]:
    with SocketTable() as table:
        yield LocalKernel(table, loop)


def test_the_holders_of_a_port(kernel: LocalKernel, family: Family) -> None:
    inodes = {one.inode for one in kernel.list_listeners(family.port)}
    child = family.bear()
    assert {family.parent.pid, child} <= set(kernel.scan_holders(inodes, ()).holders)
    assert {one.inode for one in kernel.list_netns_listeners(child, family.port)} == inodes


def test_this_program_is_protected_and_in_no_container(kernel: LocalKernel, family: Family) -> None:
    me, other = kernel.read_process(os.getpid()), kernel.read_process(family.parent.pid)
    assert me is not None
    assert other is not None
    assert kernel.find_protection(me) == "it is this very program"
    assert kernel.describe_container(other) == ""


def test_who_may_have_handed_a_socket_over(kernel: LocalKernel) -> None:
    me = kernel.read_process(os.getpid())
    assert me is not None
    mine, theirs = Listener("tcp", "::1", 80, 7, uid=me.uid), Listener("tcp", "::1", 80, 8, uid=54321)
    assert kernel.describe_giver(me, (theirs,)) == "user 54321"
    gone = theirs._replace(cgroup_id=2**60)
    assert kernel.describe_giver(me, (gone,)) == "user 54321 in a cgroup that cannot be found"
    mount = find_cgroup_mount()
    here = theirs._replace(cgroup_id=(mount / me.cgroup.lstrip("/")).stat().st_ino)
    where = parse_cgroup_path(me.cgroup).unit or me.cgroup
    assert kernel.describe_giver(me, (here,)) == f"user 54321 in {where}"
    for sockets in ((), (theirs, mine), (theirs._replace(uid=0),)):
        assert kernel.describe_giver(me, sockets) == ""
    # In another user namespace, root has another number.
    assert kernel.describe_giver(replace(me, user_namespace=1), (theirs,)) == ""


def test_a_wait_begins_from_the_sockets_that_were_read(kernel: LocalKernel, family: Family, loop: Loop) -> None:
    """The loop of this test finds no socket at any port, which counts as a change of what was read."""
    kernel.list_listeners(family.port)
    deadline = Deadline.after(loop.clock, 10)
    loop.wait(Wake(ports=frozenset({family.port}), within=10.0), deadline)
    assert deadline.remaining > 5
