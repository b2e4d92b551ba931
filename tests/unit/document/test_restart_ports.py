"""Which ports a restart demands: what the service promises, and nothing that may be different afterwards."""

from __future__ import annotations

from typing import Any

from runbook.document.restart_ports import MAX_PORTS, DemandedPorts, find_demanded_ports
from runbook.host.facts import ActiveState
from runbook.model import Port
from tests.unit.fake_machine import EARLIER, FakeMachine, listen, process, unit

DOWN: dict[str, Any] = {
    "active_state": ActiveState.INACTIVE,
    "sub_state": "dead",
    "main_pid": 0,
    "control_group": "",
    "invocation_id": "",
}
OTHER = {"cgroup": "/system.slice/other.service"}


def machine(**changes: Any) -> FakeMachine:
    made = FakeMachine({"gw.service": unit(**changes)})
    if made.units["gw.service"].main_pid:
        made.processes[100] = process(100)
    return made


def demanded(one: FakeMachine, *named: Port, recorded: tuple[Port, ...] = (), draft: bool = False) -> DemandedPorts:
    return find_demanded_ports(one, one.units["gw.service"], named, lambda: recorded, draft=draft)


def ports(one: FakeMachine, *named: Port, recorded: tuple[Port, ...] = ()) -> list[str]:
    return [str(port) for port in demanded(one, *named, recorded=recorded).ports]


def test_each_address_of_a_port_is_demanded() -> None:
    one = machine()
    listen(one, 100, "127.0.0.1:8080", "[::1]:8080", "10.0.0.7:80")
    found = demanded(one)
    assert [str(port) for port in found.ports] == ["127.0.0.1:8080", "[::1]:8080", "10.0.0.7:80"]
    assert found.notices == []


def test_a_wildcard_contains_the_addresses_beside_it() -> None:
    one = machine()
    listen(one, 100, "0.0.0.0:80", "10.0.0.7:80", "[::1]:80", "[::]:81", "127.0.0.1:81")
    assert ports(one) == ["0.0.0.0:80", "[::1]:80", "[::]:81"]


def test_a_link_local_address_is_left_out() -> None:
    one = machine()
    listen(one, 100, "[fe80::1]:80", "[fe80::1]:81", "127.0.0.1:81")
    assert ports(one) == ["80", "127.0.0.1:81"]


def test_the_ports_that_the_operator_names() -> None:
    one = machine()
    listen(one, 100, "0.0.0.0:80")
    assert ports(one, Port(81), Port(53, "udp")) == ["81", "udp:53"]


def test_a_number_that_the_kernel_may_have_chosen_is_not_demanded() -> None:
    one = machine()
    listen(one, 100, "0.0.0.0:41581", "0.0.0.0:9000")
    found = demanded(one)
    assert [str(port) for port in found.ports] == ["0.0.0.0:9000"]
    assert found.notices == [
        "port 41581 is not proved: its number is one that the kernel chooses (ip_local_port_range); to have it proved, "
        "add --port 41581"
    ]


def test_a_high_number_in_the_command_line_is_fixed() -> None:
    one = machine(start_arguments=("gw", "--port", "50051"))
    listen(one, 100, "0.0.0.0:50051")
    assert ports(one) == ["0.0.0.0:50051"]


def test_a_port_that_another_service_shares_is_not_demanded() -> None:
    one = machine()
    one.units["other.service"] = unit("other.service", main_pid=300)
    one.processes[300] = process(300, **OTHER)
    listen(one, 100, "0.0.0.0:53")
    listen(one, 300, "0.0.0.0:53")
    found = demanded(one)
    assert found.ports == []
    why = "it is held by gw.service and by PID 300 (gateway), in other.service"
    assert found.notices == [f"port 53 is not proved: {why}; to have it proved, add --port 53"]


def test_a_port_that_an_orphan_shares_is_demanded() -> None:
    one = machine()
    one.processes[74] = process(74, cgroup="/user.slice/user-1000.slice/session-9.scope", user="agentops")
    listen(one, 100, "0.0.0.0:53")
    listen(one, 74, "0.0.0.0:53")
    assert ports(one) == ["0.0.0.0:53"]


def test_a_process_that_a_stop_leaves_running_keeps_its_port() -> None:
    one = machine(kill_mode="process")
    one.processes[101] = process(101, ppid=100, name="worker")
    one.processes[102] = process(102, ppid=101, name="session")
    listen(one, 101, "0.0.0.0:22")
    listen(one, 102, "127.0.0.1:6010")
    found = demanded(one)
    assert [str(port) for port in found.ports] == ["0.0.0.0:22"]
    assert found.notices == [
        "port 6010 is not proved: a restart leaves PID 102 (session) running (KillMode=process); to have it proved,"
        " add --port 6010"
    ]


def test_the_socket_unit_of_a_running_service() -> None:
    one = machine(triggered_by=("gw.socket",))
    one.units["gw.socket"] = unit("gw.socket", main_pid=0, triggers=("gw.service",), listen=(("Stream", "[::1]:80"),))
    one.processes[1] = process(1, ppid=0, name="systemd", cgroup="/init.scope")
    listen(one, 1, "[::1]:80")
    assert ports(one) == ["[::1]:80"]


def test_a_socket_unit_that_is_down_is_not_needed_by_a_service_with_ports() -> None:
    one = machine(triggered_by=("gw.socket",))
    one.units["gw.socket"] = unit("gw.socket", **DOWN, triggers=("gw.service",), listen=(("Stream", "[::1]:81"),))
    listen(one, 100, "0.0.0.0:80")
    assert ports(one) == ["0.0.0.0:80"]


def test_a_unit_that_is_down_has_the_ports_of_its_socket_unit() -> None:
    one = machine(**DOWN, triggered_by=("gw.socket",))
    one.units["gw.socket"] = unit("gw.socket", **DOWN, triggers=("gw.service",), listen=(("Stream", "[::1]:81"),))
    assert ports(one, recorded=(Port(82),)) == ["81"]


def test_a_unit_that_is_down_has_the_ports_that_an_earlier_run_recorded() -> None:
    found = demanded(machine(**DOWN), recorded=(Port(82),))
    assert found.ports == [Port(82)]
    assert found.notices == ["gw.service does not listen on port 82 now; it must (an earlier run)"]


def test_a_unit_that_is_up_without_a_port_no_longer_needs_what_an_earlier_run_recorded() -> None:
    assert ports(machine(), recorded=(Port(82),)) == []
    assert ports(machine(n_restarts=1), recorded=(Port(82),)) == ["82"]


def test_what_only_its_log_names_is_not_demanded() -> None:
    """Other users may be able to write into it."""
    one = machine(**DOWN)
    one.refused_ports["gw.service"] = (Port(22),)
    found = demanded(one)
    assert found.ports == []
    assert found.notices == [
        "port 22 is not proved: gw.service does not listen on it now, and only its log: in use names it; to have it"
        " proved, add --port 22"
    ]


def test_what_its_log_and_its_command_line_name_is_demanded() -> None:
    one = machine(start_arguments=("gw", "--port", "18789"))
    one.refused_ports["gw.service"] = (Port(18789),)
    assert ports(one) == ["18789"]
    listen(one, 100, "0.0.0.0:80")
    assert ports(one) == ["0.0.0.0:80", "18789"]


def test_what_only_its_command_line_names_is_not_demanded() -> None:
    found = demanded(machine(**DOWN, start_arguments=("gw", "--port", "18789")))
    assert found.ports == []
    assert "only ExecStart= names it" in found.notices[0]


def test_the_port_of_a_leftover_is_demanded_if_its_log_names_it_too() -> None:
    one = machine()
    one.processes[90] = process(90, invocation_id=EARLIER, started=100.0)
    listen(one, 90, "0.0.0.0:3000")
    assert ports(one) == []
    one.refused_ports["gw.service"] = (Port(3000),)
    assert ports(one) == ["3000"]


SESSION = {"cgroup": "/user.slice/user-1000.slice/session-9.scope", "user": "agentops"}
WITH_PORT = {"start_arguments": ("gw", "--port", "18789")}


def beside_a_holder(holder: dict[str, str], **changes: Any) -> FakeMachine:
    """Return a machine with the unit up, and another process on its port, of which its log has nothing yet."""
    one = machine(**changes)
    if holder is OTHER:
        one.units["other.service"] = unit("other.service", main_pid=74)
    one.processes[74] = process(74, **holder)
    listen(one, 74, "127.0.0.1:18789")
    return one


def test_a_port_that_an_orphan_holds_is_named_with_its_holder() -> None:
    found = demanded(beside_a_holder(SESSION, **WITH_PORT))
    assert (found.ports, found.notices) == (
        [],
        [
            "port 18789 is not proved: it is held by PID 74 (gateway), in session-9.scope of user agentops, and only"
            " ExecStart= names it; to have it proved, add --port 18789"
        ],
    )


def test_a_draft_has_the_port_that_an_orphan_holds() -> None:
    found = demanded(beside_a_holder(SESSION, **WITH_PORT), draft=True)
    assert [str(port) for port in found.ports] == ["18789"]
    assert found.notices == ["gw.service does not listen on port 18789 now; it must (ExecStart=)"]


def test_a_draft_has_the_port_of_an_earlier_run_only_while_another_process_holds_it() -> None:
    lost = demanded(beside_a_holder(SESSION), recorded=(Port(18789),), draft=True)
    assert [str(port) for port in lost.ports] == ["18789"]
    assert demanded(machine(), recorded=(Port(18789),), draft=True).ports == []


def test_a_draft_has_the_port_of_another_service_only_for_a_unit_that_does_not_stay_up() -> None:
    """The number may be that of a service which the unit connects to."""
    assert demanded(beside_a_holder(OTHER, **WITH_PORT), draft=True).ports == []
    assert demanded(beside_a_holder(OTHER, **WITH_PORT, n_restarts=2), draft=True).ports == [Port(18789)]


def test_a_unit_without_ports() -> None:
    assert demanded(machine()).notices == ["gw.service listens on no port, so only its health is proved"]
    assert demanded(machine(type="oneshot")).notices == [
        "gw.service runs no server (Type=oneshot), so no port is proved"
    ]
    assert demanded(machine(**DOWN)).notices == [
        "gw.service is inactive (dead), and no port of it is known, so none is proved; --port PORT names one"
    ]


def test_no_more_ports_than_can_be_watched() -> None:
    one = machine()
    listen(one, 100, *(f"0.0.0.0:{number}" for number in range(1000, 1001 + MAX_PORTS)))
    found = demanded(one)
    assert len(found.ports) == MAX_PORTS
    assert found.notices == [f"gw.service has {MAX_PORTS + 1} ports, of which the first {MAX_PORTS} are proved"]


def test_a_port_whose_owner_is_unknown_is_demanded() -> None:
    """An ordinary user plans what root will run."""
    one = machine()
    listen(one, 100, "127.0.0.1:80")
    one.sockets[9999] = one.sockets[100]
    one.hidden = 1
    one.unreadable = (9999,)
    assert ports(one) == ["127.0.0.1:80"]
