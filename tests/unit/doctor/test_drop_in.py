"""The path and the text of a drop-in file, and the file of another that decides in its place."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from runbook.doctor.drop_in import make_drop_in
from runbook.doctor.findings import DropIn
from runbook.host.facts import Unit
from runbook.host.queries import FileText
from tests.unit.fake_machine import FakeMachine, unit

FOLDER = "/etc/systemd/system/gw.service.d"


def made(of: Unit, *files: FileText, **settings: str) -> tuple[DropIn | None, str]:
    machine = FakeMachine(files={file.path: file for file in files})
    return make_drop_in(machine, of, "kill-mode", "it ends", **(settings or {"KillMode": "control-group"}))


def advice(*files: FileText, **changes: Any) -> str:
    """Return the advice to edit a file that is there; empty if a new one decides."""
    return made(unit(**{"drop_in_paths": tuple(file.path for file in files), **changes}), *files)[1]


def test_each_setting_is_in_its_section() -> None:
    found, _ = made(unit("gw@1.service"), StartLimitBurst="5", RestartSec="2s")
    assert found is not None
    assert found.path == "/etc/systemd/system/gw@1.service.d/zz-runbook-kill-mode.conf"
    assert found.text == "[Unit]\nStartLimitBurst=5\n\n[Service]\nRestartSec=2s\n"


def test_a_unit_of_a_user() -> None:
    found, _ = made(unit(of_user=True))
    assert found is not None
    assert found.path == "~/.config/systemd/user/gw.service.d/zz-runbook-kill-mode.conf"
    path = str(Path(found.path).expanduser())
    assert "in ~/.config/systemd/user/gw.service.d/zz" in made(unit(of_user=True), FileText(path))[1]


def test_a_file_that_exists_is_not_overwritten() -> None:
    path = f"{FOLDER}/zz-runbook-kill-mode.conf"
    found, instead = made(unit(), FileText(path, "[Service]\nNice=5\n"))  # systemd may not have read it yet
    assert (found, instead) == (None, f"so that it ends: set KillMode=control-group in {path}: that file decides")


def test_the_file_that_decides_is_to_be_edited() -> None:
    override = FileText(f"{FOLDER}/override.conf", "[Service]\n KillMode = process\n")
    assert f" in {override.path}: that file decides" in advice(override)
    assert advice(FileText(override.path, "#KillMode=process\nSendSIGKILL=no\n")) == ""
    # The last one counts.
    later = FileText(f"{FOLDER}/zzz.conf", "KillMode=mixed")
    assert f" in {later.path}: that" in advice(override, later)


def test_a_file_of_a_package_or_of_all_services_is_not_edited() -> None:
    vendor = FileText("/usr/lib/systemd/system/gw.service.d/10-vendor.conf", "KillMode=process")
    assert advice(vendor) == ""
    shared = FileText("/etc/systemd/system/service.d/zzz.conf", "KillMode=process")
    assert f" in a copy of {shared.path} in {FOLDER}: " in advice(shared)
    assert " in a copy of /x/zzz.conf in " in advice(FileText("/x/zzz.conf", error="not permitted"))


def test_a_unit_without_a_file_has_another_one_at_its_next_start() -> None:
    assert advice(is_transient=True) == "so that it ends: start it with KillMode=control-group"
