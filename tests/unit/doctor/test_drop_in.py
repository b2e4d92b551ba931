"""The path and the text of a drop-in file."""

from __future__ import annotations

from runbook.doctor.drop_in import make_drop_in
from tests.unit.fake_machine import unit


def test_each_setting_is_in_its_section() -> None:
    found = make_drop_in(unit("gw@1.service"), "limit", "it ends", StartLimitBurst="5", RestartSec="2s")
    assert found.path == "/etc/systemd/system/gw@1.service.d/zz-runbook-limit.conf"
    assert found.text == "[Unit]\nStartLimitBurst=5\n\n[Service]\nRestartSec=2s\n"


def test_a_unit_of_a_user() -> None:
    path = make_drop_in(unit(of_user=True), "type", "it waits", Type="exec").path
    assert path == "~/.config/systemd/user/gw.service.d/zz-runbook-type.conf"
