"""What the judge does around the rules: reading again, network namespaces, stored and passed-on sockets."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import replace
from typing import Any

import pytest

from runbook.errors import LookLimitExceeded
from runbook.host.facts import ActiveState
from runbook.host.holders import Listener, PortUse, Role, SocketState
from runbook.host.kernel.descriptors import DescriptorScan
from runbook.host.ownership.judge import PortJudge
from runbook.model import Port, Verdict
from tests.unit.fake_machine import FakeMachine

from .scene import MANAGER, SESSION, listener, process, unit

PORT = Port(80)
INIT = process(1, ppid=0, name="systemd", cgroup="/init.scope")


def machine(**facts: Any) -> FakeMachine:
    known = {"units": {"gw.service": unit()}, "processes": {100: process(100)}, "sockets": {100: [listener()]}}
    return FakeMachine(**{**known, **facts})


def judge(on: FakeMachine, name: str = "gw.service", **options: Any) -> PortJudge:
    return PortJudge(on.units[name], on, on, **options)


class Churning(FakeMachine):
    """A machine whose sockets are different at each of the first reads."""

    changes = 0

    def list_listeners(self, port: Port) -> tuple[Listener, ...]:
        self.changes -= 1
        return (listener(inode=100 + self.changes if self.changes > 0 else 7),)


@pytest.mark.parametrize(("changes", "verdict"), [(7, Verdict.OWNED), (99, Verdict.OWNER_UNKNOWN)])
def test_sockets_that_change_are_read_again_a_few_times(changes: int, verdict: Verdict) -> None:
    on = Churning(units={"gw.service": unit()}, processes={100: process(100)}, sockets={100: [listener()]})
    on.changes = changes
    assert judge(on).judge_port(PORT).verdict is verdict


class HandsOn(FakeMachine):
    """A process passes its socket to a live service and exits, after the holders were searched for."""

    def find_held_sockets(self, pid: int, inodes: Collection[int]) -> set[int]:
        if pid == 74 and 74 in self.processes:
            self.sockets[75] = self.sockets.pop(74)
            del self.processes[74]
        return super().find_held_sockets(pid, inodes)


def test_a_process_that_passed_its_socket_on_meanwhile_is_not_its_holder() -> None:
    on = HandsOn(
        {"gw.service": unit(), "takes.service": unit("takes.service", main_pid=75)},
        {74: process(74, cgroup=SESSION), 75: process(75, cgroup="/system.slice/takes.service")},
        sockets={74: [listener(number=80, cgroup_id=5)]},
        cgroups={5: ""},
    )
    found = judge(on).judge_port(Port(80))
    assert (found.verdict, [one.process.pid for one in found.holders]) == (Verdict.OTHER_UNIT_HOLDS_PORT, [75])


def test_a_socket_of_another_user_may_have_been_handed_over() -> None:
    """Whatever the process is otherwise; but if it has one of its own as well, it is judged by that."""
    handed = listener(uid=1000)
    for cgroup in (SESSION, "/system.slice/other.service", "/system.slice/gw.service"):
        on = machine(
            units={
                "gw.service": unit(active_state=ActiveState.FAILED, main_pid=0),
                "other.service": unit("other.service"),
            },
            processes={74: process(74, cgroup=cgroup)},
            sockets={74: [handed]},
        )
        found = judge(on).judge_port(PORT)
        assert (found.verdict, found.holders[0].role) == (Verdict.OWNER_UNKNOWN, Role.UNKNOWN)
        assert "its socket was created by user 1000 in session-7.scope, but it runs as root in" in found.reason
        own = replace(on, sockets={74: [handed, listener(inode=8)]})
        assert judge(own).judge_port(PORT).holders[0].role is not Role.UNKNOWN


def test_a_port_without_a_socket() -> None:
    found = judge(machine(sockets={})).judge_port(PORT)
    assert (found.verdict, found.reason) == (Verdict.NOT_LISTENING, "no process listens on port 80")


@pytest.mark.parametrize(
    ("settings", "verdict"),
    [
        ({"private_network": True}, Verdict.NOT_LISTENING),
        ({"network_namespace_path": "/run/netns/blue"}, Verdict.OWNER_UNKNOWN),
    ],
)
def test_a_network_namespace_of_a_unit_that_is_down(settings: dict[str, Any], verdict: Verdict) -> None:
    on = machine(units={"gw.service": unit(main_pid=0, **settings)})
    assert judge(on, own_network=True).judge_port(PORT).verdict is verdict


@pytest.mark.parametrize(
    ("child", "executed", "verdict"),
    [
        ({"exe": "/usr/lib/systemd/systemd"}, False, Verdict.OWNED),  # before its execve(2)
        ({"exe": "/usr/sbin/agetty"}, True, Verdict.OWNED),  # during the look
        ({"exe": "/usr/sbin/agetty"}, False, Verdict.PORT_SHARED),  # a service to which systemd passed the socket
        ({"exe": "/usr/lib/systemd/systemd", "ppid": 9}, False, Verdict.PORT_SHARED),
    ],
)
def test_a_process_that_systemd_has_just_forked(child: dict[str, Any], executed: bool, verdict: Verdict) -> None:
    """It has all descriptors of systemd until it executes its service, and is in the cgroup of that already."""
    forked = process(120, **{"ppid": 1, "cgroup": "/system.slice/other.service", **child})
    socket = unit(
        "gw.socket", listen=(("Stream", "0.0.0.0:80"),), main_pid=0, control_group="", triggers=("gw.service",)
    )
    on = machine(
        units={
            "gw.service": unit(triggered_by=("gw.socket",)),
            "gw.socket": socket,
            "other.service": unit("other.service", main_pid=120, control_group="/system.slice/other.service"),
        },
        processes={1: replace(INIT, exe="/usr/lib/systemd/systemd"), 100: process(100), 120: forked},
        sockets={pid: [listener()] for pid in (1, 100, 120)},
    )
    on.executed = {120} if executed else set()
    assert judge(on).judge_port(PORT).verdict is verdict


def test_a_manager_that_stores_the_units_sockets() -> None:
    on = machine(processes={100: process(100), 1: INIT}, sockets={100: [listener()], 1: [listener()]})
    found = judge(on).judge_port(PORT)
    assert found.verdict is Verdict.OWNED
    assert {holder.process.pid: holder.role for holder in found.holders} == {1: Role.SOCKET_UNIT, 100: Role.CURRENT}


@pytest.mark.parametrize(("inode", "verdict"), [(7, Verdict.OWNED), (8, Verdict.OTHER_UNIT_HOLDS_PORT)])
def test_a_service_that_was_passed_the_sockets_of_its_socket_unit(inode: int, verdict: Verdict) -> None:
    """A service that also listens on a socket of its own is a rival."""
    socket = unit(
        "gw.socket", triggers=("gw.service",), listen=(("Stream", "0.0.0.0:80"),), main_pid=0, control_group=""
    )
    on = machine(
        units={"gw.service": unit(), "gw.socket": socket},
        processes={100: process(100), 1: INIT},
        sockets={100: [listener(inode=inode)], 1: [listener()]},
    )
    assert judge(on, "gw.socket").judge_port(PORT).verdict is verdict


@pytest.mark.parametrize(
    ("made_in", "by", "verdict"),
    [(55, 1000, Verdict.OWNED), (56, 1000, Verdict.OWNER_UNKNOWN), (55, 0, Verdict.OWNER_UNKNOWN)],
)
def test_a_users_manager_that_its_user_may_not_read(made_in: int, by: int, verdict: Verdict) -> None:
    socket = unit("gw.socket", listen=(("Stream", "0.0.0.0:80"),))
    gw = unit(triggered_by=("gw.socket",), of_user=True)
    on = machine(
        units={"gw.service": gw, "gw.socket": socket, "init.scope": unit("init.scope", control_group_id=55)},
        processes={9: process(9, cgroup=MANAGER)},
        sockets={8: [listener(uid=by, cgroup_id=made_in)]},
        hidden=1,
    )
    assert judge(on, manager_uid=1000).judge_port(PORT).verdict is verdict


def test_leftovers_hold_a_port_or_not() -> None:
    on = machine(processes={100: process(100), 90: process(90, started=700.0), 91: process(91, dead=True, started=1.0)})
    assert [holder.process.pid for holder in judge(on).find_leftovers()] == [90]


def test_protection_is_asked_for_what_could_be_killed() -> None:
    on = machine(spared={70: "it is a terminal multiplexer", 100: "never read"})
    orphan, current = process(70, cgroup=SESSION), process(100)
    assert judge(on).judge_process(orphan, ()).protection == "it is a terminal multiplexer"
    assert judge(on).judge_process(current, ()).protection == ""


class Slow(FakeMachine):
    """A machine whose processes cannot all be read in time."""

    def scan_holders(self, inodes: Collection[int], likely: Sequence[int]) -> DescriptorScan:
        raise LookLimitExceeded("the open files of all processes cannot be read in time")


def test_a_look_that_takes_too_long_has_no_owner() -> None:
    on = Slow(units={"gw.service": unit()}, processes={100: process(100)}, sockets={100: [listener()]})
    found = judge(on).judge_port(PORT)
    assert found.verdict is Verdict.OWNER_UNKNOWN
    why = "the open files of all processes cannot be read in time"
    assert found.reason == f"which processes hold port 80 cannot be determined: {why}"
    assert found.unread == (found.reason,)


def test_the_work_grows_with_the_sockets_and_no_faster() -> None:
    """Of 40,000 sockets in 2,000 processes, which took minutes while each was compared with each."""
    count = 2000
    known = {pid: process(pid, cgroup=SESSION) for pid in range(2000, 2000 + count)}
    sockets = {pid: [listener(inode=pid * 100 + at) for at in range(20)] for pid in known}
    on = FakeMachine(units={"gw.service": unit()}, processes=known, sockets=sockets)
    began = time.process_time()
    found = judge(on).judge_port(PORT)
    assert time.process_time() - began < 10
    assert (found.verdict, len(found.holders)) == (Verdict.ORPHAN_HOLDS_PORT, count)
    assert all(len(holder.sockets) == 20 for holder in found.holders)


def test_connections_that_are_being_closed_are_named_only_if_the_unit_logged_an_address_in_use() -> None:
    """A service that is masked, stopped or ends for another reason left them when it served, too."""
    closing = PortUse(Listener("tcp", "127.0.0.1", 80, 0), SocketState.CLOSING, "10.0.0.7:443")
    bound = PortUse(Listener("tcp", "127.0.0.1", 80, 4711, uid=1000), SocketState.BOUND)
    quiet, refused = machine(uses=[closing]), machine(uses=[closing], refused=("",))
    assert judge(quiet, addresses=quiet).describe_uses(PORT) == ""
    assert "logged that its address is in use: a connection" in judge(refused, addresses=refused).describe_uses(PORT)
    quiet.uses = [bound, closing]
    assert judge(quiet, addresses=quiet).describe_uses(PORT).endswith("a process of uid 1000 is bound to 127.0.0.1:80")
