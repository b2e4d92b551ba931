"""Tests each rule about a manager, a container or another service by itself."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runbook.host.facts import ActiveState, Unit
from runbook.host.holders import Process, Role
from runbook.host.ownership.other_unit import (
    listen_addresses,
    rule_by_invocation_id,
    rule_container,
    rule_main_process_elsewhere,
    rule_manager,
    rule_moved_out_of_other,
    rule_other_service,
)
from runbook.host.ownership.ruling import RoleRuling
from tests.unit.fake_machine import EARLIER

from .scene import MANAGER, SESSION, listener, place, process, scene, unit

INIT = process(1, ppid=0, name="systemd", cgroup="/init.scope")
SOCKET = unit("gw.socket", listen=(("Stream", "0.0.0.0:80"),))
WEB = process(70, cgroup="/system.slice/web.service")


def test_the_addresses_of_a_socket_unit() -> None:
    both = unit("gw.socket", listen=(("Stream", "0.0.0.0:80"), ("Datagram", "[::]:80"), ("Special", "/x")))
    assert set(listen_addresses(both)) == {("tcp", "0.0.0.0:80"), ("udp", "[::]:80"), ("Special", "/x")}


def manager(one: Process = INIT, *units: Unit, **of_unit: Any) -> RoleRuling:
    uid = 1000 if one.pid != 1 else None
    ruling = rule_manager(scene(one, units=units, manager_uid=uid, **of_unit), one, place(one), (listener(),))
    assert ruling is not None
    return ruling


def test_systemd_listens_for_a_socket_unit() -> None:
    ours = manager(INIT, SOCKET, triggered_by=("gw.socket",))
    assert (ours.role, ours.unit) == (Role.SOCKET_UNIT, "gw.socket")
    other = manager(INIT, replace(SOCKET, name="web.socket"), triggered_by=())
    assert (other.role, other.unit) == (Role.OTHER_UNIT, "web.socket")
    elsewhere = replace(SOCKET, listen=(("Stream", "0.0.0.0:81"),))
    assert manager(INIT, elsewhere, triggered_by=("gw.socket",)).role is Role.OTHER_UNIT


def test_systemd_stores_the_sockets_of_a_service() -> None:
    assert manager(INIT, stored_fds=1).role is Role.SOCKET_UNIT
    assert manager(INIT, stored_fds=0).role is Role.OTHER_UNIT


def test_a_process_beside_a_manager_is_not_a_manager() -> None:
    beside = manager(process(300, name="node", user="anna", cgroup=MANAGER))
    assert (beside.role, beside.unit) == (Role.OTHER_UNIT, "user@1000.service")
    assert "in the cgroup of the manager of user anna itself" in beside.why
    assert rule_manager(scene(WEB), WEB, place(WEB), ()) is None


@pytest.mark.parametrize(
    ("changes", "unit_name", "verb"),
    [
        ({"cgroup": f"/system.slice/docker-{'0' * 64}.scope"}, f"docker-{'0' * 64}.scope", "stop"),
        ({"cgroup": SESSION, "pid_namespace": 5}, "session-9.scope", "stop"),
        ({"cgroup": SESSION, "exe": "/usr/bin/conmon"}, "session-9.scope", ""),
        ({"cgroup": "/system.slice/web.service", "pid_namespace": 5}, "web.service", "stop"),
        ({"cgroup": "/", "pid_namespace": 5}, "a container", "stop"),
    ],
)
def test_containers_and_their_keepers(changes: dict[str, Any], unit_name: str, verb: str) -> None:
    one = process(70, **changes)
    ruling = rule_container(scene(one), one, place(one))
    assert ruling is not None
    assert (ruling.role, ruling.unit, ruling.stop_verb, bool(ruling.protection)) == (
        Role.OTHER_UNIT,
        unit_name,
        verb,
        True,
    )


def test_a_service_is_no_container() -> None:
    assert rule_container(scene(WEB), WEB, place(WEB)) is None


def service(one: Process = WEB, *units: Unit) -> tuple[str, str, str]:
    ruling = rule_other_service(scene(one, units=units), one, place(one))
    assert ruling is not None
    assert ruling.role is Role.OTHER_UNIT
    return ruling.why, ruling.protection, ruling.stop_verb


def test_another_service() -> None:
    web = unit("web.service", main_pid=70)
    assert service(WEB, web) == ("web.service is active", "web.service is a live service", "stop")
    worker, forks = process(72, ppid=70, cgroup=WEB.cgroup), replace(web, kill_mode="process")
    for one, of, outlives in ((worker, web, False), (worker, forks, True), (WEB, forks, False)):
        ruling = rule_other_service(scene(one, units=(of,)), one, place(one))
        assert ruling is not None
        assert ruling.outlives_stop is outlives
    spares = replace(web, main_pid=71, kill_mode="process")
    assert service(WEB, spares)[1:] == (
        "web.service is a live service, and stopping it would leave this process running (KillMode=process); kill it "
        "by hand if it is not needed: kill 70",
        "",
    )


def test_another_service_that_is_down() -> None:
    down = unit("web.service", active_state=ActiveState.FAILED, main_pid=0)
    assert service(WEB, down) == (*["it was left over by web.service, which is failed"] * 2, "kill")
    assert service(WEB) == (*["it was left over by web.service, which is not loaded"] * 2, "kill")
    lost = replace(down, active_state=ActiveState.INACTIVE, main_pid=70)
    assert "lost track of web.service" in service(WEB, lost)[0]


def test_a_service_of_another_manager() -> None:
    theirs = process(70, cgroup="/user.slice/user-1000.slice/user@1000.service/app.slice/web.service")
    assert service(theirs)[:2] == (
        "it is a service of the manager of user 1000",
        "web.service is a service of the manager of user 1000",
    )


def test_a_process_that_another_service_started_in_a_session() -> None:
    web = unit("web.service", invocation_id=EARLIER, main_pid=71)
    main = process(71, invocation_id=EARLIER, cgroup=SESSION)
    child = process(72, ppid=71, cgroup=SESSION)
    ruling = rule_moved_out_of_other(scene(main, child, units=(web,)), child)
    assert ruling is not None
    assert ruling.why == "it descends from the main process of web.service, PID 71"
    # sshd and cron are in their own cgroup, and what they started in a session is not theirs.
    at_home = replace(main, cgroup="/system.slice/web.service")
    assert rule_moved_out_of_other(scene(at_home, child, units=(web,)), child) is None
    assert ruling.outlives_stop
    # Its parent has exited: only its own INVOCATION_ID is left, which any process can set.
    lost = replace(child, ppid=1, invocation_id=EARLIER)
    assert rule_moved_out_of_other(scene(lost, units=(web,)), lost) is None
    ruling = rule_by_invocation_id(scene(lost, units=(web,)), lost, place(lost))
    assert ruling is not None
    assert (ruling.role, ruling.unit) == (Role.UNKNOWN, "session-9.scope")
    assert rule_by_invocation_id(scene(child, units=(web,)), child, place(child)) is None


def test_a_login_on_a_console_starts_nothing_that_was_typed_there() -> None:
    getty = unit("getty@tty1.service", invocation_id=EARLIER, main_pid=71)
    login = process(71, name="login", invocation_id=EARLIER, cgroup=SESSION)
    shell = process(72, ppid=71, name="bash", command=("-bash",), has_terminal=True, cgroup=SESSION)
    server = process(73, ppid=72, cgroup=SESSION)
    assert rule_moved_out_of_other(scene(login, shell, server, units=(getty,)), server) is None
    fed = replace(shell, has_terminal=False)
    assert rule_moved_out_of_other(scene(login, fed, server, units=(getty,)), server) is not None


def test_the_main_process_of_another_service_outside_of_its_cgroup() -> None:
    """Nothing of it names the service: `su -` has cleared its environment, and PAM has moved it."""
    web = unit("web.service", main_pid=71)
    main, worker = process(71, cgroup=SESSION), process(72, ppid=71, cgroup=SESSION)
    for one, how in ((main, "is"), (worker, "descends from")):
        ruling = rule_main_process_elsewhere(scene(main, worker, units=(web,)), one, place(one))
        assert ruling is not None
        assert (ruling.role, ruling.unit) == (Role.OTHER_UNIT, "web.service")
        assert ruling.why == f"it {how} the main process of web.service, PID 71"
        assert (ruling.protection, ruling.outlives_stop) == ("web.service is a live service", one is worker)
    # cron is in its own cgroup, and what it starts in a session is not part of it.
    cron = replace(main, cgroup="/system.slice/web.service")
    assert rule_main_process_elsewhere(scene(cron, worker, units=(web,)), worker, place(worker)) is None
    down = replace(web, active_state=ActiveState.FAILED)
    assert rule_main_process_elsewhere(scene(main, units=(down,)), main, place(main)) is None


def test_without_the_main_processes_of_all_services_no_process_is_an_orphan() -> None:
    one = process(71, cgroup=SESSION)
    context = scene(one)
    context.manager.hides_main_pids = True  # type: ignore[attr-defined]
    ruling = rule_main_process_elsewhere(context, one, place(one))
    assert ruling is not None
    assert (ruling.role, ruling.unit) == (Role.UNKNOWN, "session-9.scope")
    assert "did not report the main processes of all services" in ruling.protection
