"""Advice about processes: why one is not killed, and why one did not exit."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from runbook.actions.kill_advice import describe_stuck, find_refusal
from runbook.host.holders import Holder, PortOwnership, Role
from runbook.model import Port, Verdict
from tests.unit.fake_machine import FakeMachine, process, unit
from tests.unit.runs import ORPHAN

ORPHANED = Holder(process(74, ppid=50, **ORPHAN), Role.ORPHAN, "session-9.scope", "", ())
ID = "3f4f9a1b2c3d4e5f60718293a4b5c6d7e8f90123456789abcdef0123456789ab"


def _port(*holders: Holder, verdict: Verdict = Verdict.ORPHAN_HOLDS_PORT) -> PortOwnership:
    return PortOwnership(Port(80), verdict, "the reason of the port", (), holders)


def test_a_process_that_may_be_killed_is_no_reason_to_refuse() -> None:
    assert find_refusal(unit(), [_port(ORPHANED)], lambda _: "") == ""


@pytest.mark.parametrize(
    ("seen", "mismatch", "why"),
    [
        (
            _port(replace(ORPHANED, protection="it is an ancestor")),
            "",
            "ancestor; kill it by hand if it is not needed: kill 74",
        ),
        (_port(ORPHANED), "it runs as bob", "not what was expected: it runs as bob"),
        (_port(verdict=Verdict.OWNER_UNKNOWN), "", "the reason of the port"),
    ],
    ids=["protected", "unexpected", "unknown"],
)
def test_what_forbids_every_signal(seen: PortOwnership, mismatch: str, why: str) -> None:
    refusal = find_refusal(unit(), [seen], lambda _: mismatch)
    assert re.search(why, refusal), refusal


@pytest.mark.parametrize(
    ("scope", "command"),
    [
        (f"/system.slice/docker-{ID}.scope", "docker stop 3f4f9a1b2c3d"),
        (f"/machine.slice/libpod-{ID}.scope", "podman stop 3f4f9a1b2c3d"),
        ("/machine.slice/machine-web.scope", "machinectl poweroff web"),
        ("/machine.slice/machine-web\\x2d1.scope", "machinectl poweroff web-1"),
    ],
)
def test_a_container_is_stopped_by_its_engine(scope: str, command: str) -> None:
    inside = Holder(process(74, cgroup=scope), Role.OTHER_UNIT, "x.scope", "", (), "it belongs to a container")
    assert f"({command})" in find_refusal(unit(), [_port(inside)], lambda _: "")


@pytest.mark.parametrize("inner", ["a;touch pwned;b", "db", "-M", "web", "1"])
def test_a_cgroup_that_a_container_made_changes_no_command(inner: str) -> None:
    """The name of the innermost container is chosen by the root user of the one around it."""
    scope = f"/machine.slice/machine-web1.scope/payload/machine.slice/machine-{inner}.scope"
    inside = Holder(process(74, cgroup=scope), Role.OTHER_UNIT, "x.scope", "", (), "it belongs to a container")
    assert "(machinectl poweroff web1)" in find_refusal(unit(), [_port(inside)], lambda _: "")


USERS = "/user.slice/user-1000.slice/user@1000.service"


@pytest.mark.parametrize(
    ("scope", "command"),
    [(f"docker-{ID}.scope", "(sudo -u anna docker stop 3f4f9a1b2c3d)"), ("machine.slice/machine-web.scope", "")],
)
def test_a_scope_that_a_user_named_is_no_advice_about_the_containers_of_others(scope: str, command: str) -> None:
    forged = process(74, user="anna", cgroup=f"{USERS}/{scope}")
    why = find_refusal(unit(), [_port(Holder(forged, Role.OTHER_UNIT, "x", "", (), "it is one"))], lambda _: "")
    assert why.partition("it is one")[2].partition(" or give")[0] == (
        f"; stop the container {command}" if command else ""
    )


def test_a_process_that_may_outlive_the_stop_is_to_be_killed_then() -> None:
    worker = Holder(process(74, cgroup="/system.slice/web.service"), Role.OTHER_UNIT, "web.service", "", (), "it is up")
    stop = "it is up; stop it (systemctl stop web.service) or give one of them another port"
    assert find_refusal(unit(), [_port(worker)], lambda _: "").endswith(stop)
    left = f"{stop}; if PID 74 (gateway) still runs after the stop, kill it by hand: kill 74"
    assert find_refusal(unit(), [_port(replace(worker, outlives_stop=True))], lambda _: "").endswith(left)


def test_a_crowd_that_did_not_exit_is_counted() -> None:
    stuck = describe_stuck(FakeMachine(), [process(pid) for pid in range(100, 110)])
    assert stuck.count("is in state D") == 3
    assert stuck.endswith("and 7 more did not exit")
