"""A unit's name as an object path. The rest of the manager is tested on a bus, in tests/bus."""

from __future__ import annotations

import pytest

from runbook.host.systemd.manager import unit_path


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
    """As `systemd-escape` and busctl write them, and systemd's own tests of bus_label_escape()."""
    assert unit_path(name) == f"/org/freedesktop/systemd1/unit/{last}"
