"""What a restart of a unit ends."""

from __future__ import annotations

import pytest

from runbook.doctor.disruption import describe_disruption
from tests.unit.fake_machine import unit


@pytest.mark.parametrize(
    ("name", "ended"),
    [
        ("gdm.service", "the graphical sessions"),
        ("gdm3.service", "the graphical sessions"),
        ("display-manager.service", "the graphical sessions"),
        ("sddm.service", "the graphical sessions"),
        ("lightdm.service", "the graphical sessions"),
        ("getty@tty1.service", "the login on that terminal"),
        ("serial-getty@ttyS0.service", "the login on that terminal"),
        ("user@1000.service", "all services of that user's manager"),
        ("NetworkManager.service", "connections, and maybe"),
        ("strongswan-starter.service", "connections, and maybe"),
        ("docker.service", "containers or virtual machines"),
        ("systemd-logind.service", "the graphical sessions"),
    ],
)
def test_what_a_restart_ends(name: str, ended: str) -> None:
    assert describe_disruption(name, None, of_user=False).startswith(f"choose the moment: a restart ends {ended}")


@pytest.mark.parametrize(
    "name", ["ssh.service", "nginx.service", "gdmap.service", "cron.service", "slimserver.service"]
)
def test_the_restart_of_another_service_ends_nothing_else(name: str) -> None:
    assert describe_disruption(name, None, of_user=False) == ""


def test_a_reboot_and_the_operators_own_session() -> None:
    assert "a reboot ends everything" in describe_disruption("dbus.service", None, of_user=False)
    assert "a reboot ends everything" in describe_disruption("a.service", unit(refuse_manual_stop=True), of_user=False)
    assert describe_disruption("dbus.service", None, of_user=True) == ""
    own = "choose the moment: a restart ends the session in which you run this"
    assert describe_disruption("ttyd.service", None, of_user=False, is_own=True) == own
