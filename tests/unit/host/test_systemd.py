"""How a unit's properties become one look at it, and its name a path."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.host.bus import Properties, variant
from runbook.host.facts import ActiveState, LoadState, Unit
from runbook.host.systemd import unit_of, unit_path


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("dbus.socket", "dbus_2esocket"),
        ("getty@tty1.service", "getty_40tty1_2eservice"),
        ("openclaw-gateway.service", "openclaw_2dgateway_2eservice"),
        ("1st.service", "_31st_2eservice"),
        ("a_b.service", "a_5fb_2eservice"),
        (r"x\x2dy.service", "x_5cx2dy_2eservice"),
        ("größe.service", "gr_c3_b6_c3_9fe_2eservice"),
    ],
)
def test_the_path_of_a_unit(name: str, last: str) -> None:
    """As `systemd-escape` and busctl spell them; bus_label_escape() in systemd's own tests."""
    assert unit_path(name) == f"/org/freedesktop/systemd1/unit/{last}"


def look(**values: tuple[str, Any]) -> Unit:
    return unit_of(Properties(variant("a{sv}", {name: variant(*value) for name, value in values.items()})))


def test_a_service() -> None:
    unit = look(
        Id=("s", "web.service"),
        Names=("as", ["web.service", "www.service"]),
        LoadState=("s", "loaded"),
        ActiveState=("s", "active"),
        SubState=("s", "running"),
        InvocationID=("ay", bytes.fromhex("00ff10ab") * 4),
        Job=("(uo)", (7, "/org/freedesktop/systemd1/job/7")),
        ConditionResult=("b", True),
        ConditionTimestampMonotonic=("t", 5),
        MainPID=("u", 315),
        ControlGroupId=("t", 2**40),
        RestartPreventExitStatus=("(aiai)", ([78, 2], [6])),
        TimeoutStartUSec=("t", 2**64 - 1),
        LoadError=("(ss)", ("", "")),
    )
    assert unit == Unit(
        "web.service",
        names=("web.service", "www.service"),
        active_state=ActiveState.ACTIVE,
        sub_state="running",
        invocation_id="00ff10ab" * 4,
        job=7,
        main_pid=315,
        control_group_id=2**40,
        restart_prevent_statuses=(78, 2),
        timeout_start_usec=2**64 - 1,
    )


def test_a_unit_that_is_no_service_and_never_started() -> None:
    unit = look(
        Id=("s", "web.socket"),
        LoadState=("s", "not-found"),
        LoadError=("(ss)", ("org.freedesktop.systemd1.NoSuchUnit", "Unit web.socket not found.")),
        ActiveState=("s", "inactive"),
        InvocationID=("ay", b""),
        Job=("(uo)", (0, "/")),
    )
    assert (unit.load_state, unit.load_error) == (LoadState.NOT_FOUND, "Unit web.socket not found.")
    assert (unit.invocation_id, unit.job, unit.main_pid) == ("", 0, 0)


@pytest.mark.parametrize(("checked", "held"), [(0, True), (5, False)])
def test_a_condition_that_was_never_checked_says_nothing(checked: int, held: bool) -> None:
    unit = look(
        Id=("s", "web.service"),
        ConditionResult=("b", False),
        ConditionTimestampMonotonic=("t", checked),
        AssertResult=("b", False),
        AssertTimestampMonotonic=("t", checked),
    )
    assert (unit.condition_result, unit.assert_result) == (held, held)


def test_a_word_of_a_later_systemd_is_taken_as_it_is() -> None:
    assert look(Id=("s", "web.service"), ActiveState=("s", "hibernating")).active_state == "hibernating"
