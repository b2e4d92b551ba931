"""Holders in a sentence: counted, grouped, with the unit and its manager."""

from __future__ import annotations

import re

import pytest

from runbook.host.facts import ActiveState
from runbook.host.holders import Holder, Listener, PortUse, Role, SocketState
from runbook.host.ownership import describe
from runbook.host.ownership.describe import describe_holders, describe_processes, describe_unseen, describe_untracked
from runbook.model import Port

from .scene import SESSION, listener, process, unit

USER = "/user.slice/user-1000.slice/user@1000.service/app.slice/gw.service"


def holder(
    pid: int, name: str = "gunicorn", where: str = "gw.service", cgroup: str = "/system.slice/gw.service"
) -> Holder:
    return Holder(process(pid, name=name, cgroup=cgroup, user="anna", uid=1000), Role.CURRENT, where, "", ())


def test_more_than_three_are_counted() -> None:
    many = [holder(pid) for pid in range(70, 75)]
    assert describe_processes(many) == "PID 70, 71, 72 and 2 more (gunicorn)"
    kinds = [holder(pid, name) for pid, name in enumerate("abcde", 1)]
    assert describe_processes(kinds) == "PID 1 (a), PID 2 (b), PID 3 (c) and 2 more"
    assert describe_holders(kinds, None).endswith("PID 3 (c), in gw.service and 2 more")


def test_the_unit_and_its_manager() -> None:
    assert describe_holders([holder(70)], None) == "PID 70 (gunicorn), in gw.service"
    assert describe_holders([holder(70)], 1000).endswith("in gw.service of the system")
    assert describe_holders([holder(70, cgroup=USER)], None).endswith("in gw.service of the user manager of anna")
    assert describe_holders([holder(70, cgroup=USER)], 1000).endswith("in gw.service")
    assert describe_holders([holder(70, where="session-9.scope", cgroup=SESSION)], None).endswith(
        "in session-9.scope of user anna"
    )
    assert describe_holders([holder(1, "systemd", "gw.socket", "/init.scope")], None).endswith("for gw.socket")


def test_the_oldest_stands_for_its_workers() -> None:
    assert describe_holders([holder(72), holder(70), holder(71)], None).startswith("PID 70, 71, 72")


def test_what_is_not_seen_names_the_command_that_shows_it() -> None:
    found = (listener(uid=7),)
    assert describe_unseen(Port(80), found, None, 0).endswith("ss -lnte sport = :80 shows it")
    assert describe_unseen(Port(53, "udp"), found, None, 0).endswith("ss -lnue sport = :53 shows it")
    assert describe_unseen(Port(80), found, None, 2) == (
        "the process that holds port 80 (made by uid 7) cannot be found; run it as root, which can read every process"
    )
    assert describe_unseen(Port(80), found, 1000, 2).endswith("cannot be found; root can see it: ss -lntp sport = :80")


def test_a_unit_that_systemd_lost_track_of() -> None:
    lost = unit(active_state=ActiveState.INACTIVE, of_user=True)
    assert describe_untracked(lost).endswith("first run systemctl --user daemon-reload again")


BOUND = PortUse(Listener("tcp", "127.0.0.1", 80, 7), SocketState.BOUND)
CLIENT = PortUse(Listener("tcp", "127.0.0.1", 80, 8, uid=1000), SocketState.CONNECTED, "10.0.0.7:443")
CLOSING = PortUse(Listener("tcp", "127.0.0.1", 80, 0), SocketState.CLOSING, "10.0.0.7:443")


@pytest.mark.parametrize(
    ("uses", "text"),
    [
        ([], "^$"),
        ([BOUND], r"may keep gw.service from listening: PID 74 \(gateway\), in .* is bound to 127.0.0.1:80$"),
        (
            [CLIENT],
            r"a process of uid 1000 is connected from 127.0.0.1:80 to 10.0.0.7:443; add it to net.ipv4.ip_local_r",
        ),
        ([CLOSING], "its address is in use: a connection that is being closed .* may keep port 80 for another minute$"),
        ([BOUND] * 5 + [CLOSING] * 2, "2 more have it, 2 connections that are being closed"),
    ],
)
def test_what_keeps_a_port_on_which_no_process_listens(uses: list[PortUse], text: str) -> None:
    holder = Holder(process(74), Role.ORPHAN, "session-9.scope", "", (BOUND.socket,))
    assert re.search(text, describe.describe_uses(unit(), Port(80), uses, [holder], None))
