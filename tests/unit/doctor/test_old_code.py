"""What must be restarted after an upgrade."""

from __future__ import annotations

import re
from dataclasses import replace

import pytest

from runbook.doctor.findings import FindingKind, Severity
from runbook.host.dpkg import Installation
from runbook.host.queries import FileChange
from tests.unit.doctor.diagnosed import SESSION, healthy
from tests.unit.doctor.test_machine import diagnose, only
from tests.unit.fake_machine import EPOCH, FakeMachine, process

SSL = "/usr/lib/x86_64-linux-gnu/libssl.so.3"


def after_upgrade(pid: int = 100, cgroup: str = "/system.slice/gw.service") -> FakeMachine:
    machine = healthy()
    machine.processes[pid] = process(pid, cgroup=cgroup)
    machine.replaced[pid] = (SSL,)
    return machine


def test_a_service() -> None:
    found = only(after_upgrade())
    assert (found.kind, found.severity, found.subject) == (FindingKind.OLD_CODE, Severity.WARNING, "gw.service")
    assert found.reason == "PID 100 (gateway) runs code that was replaced since it began: libssl.so.3"
    assert found.next == "runbook restart gw.service"
    assert only(after_upgrade(), 1000).next == "sudo runbook restart gw.service"


def test_many_processes_and_files_are_counted() -> None:
    machine = after_upgrade()
    machine.processes[101] = process(101, ppid=100)
    machine.replaced[101] = tuple(f"/usr/lib/lib{name}.so" for name in "abcd")
    reason = "PID 100 (gateway) and 1 more run code that was replaced since they began: "
    assert only(machine).reason == f"{reason}libssl.so.3, liba.so, libb.so and 2 more"


@pytest.mark.parametrize(
    ("cgroup", "subject", "command"),
    [
        ("/init.scope", "systemd", "systemctl daemon-reexec"),
        (SESSION, "logins", "log out and in again"),
        ("/system.slice/dbus.service", "dbus.service", "systemctl reboot"),
        (
            "/user.slice/user-0.slice/user@0.service/app.slice/x.service",
            "x.service",
            "runbook restart --user x.service",
        ),
    ],
)
def test_what_is_no_common_service(cgroup: str, subject: str, command: str) -> None:
    found = only(after_upgrade(50, cgroup))
    assert (found.subject, found.next) == (subject, command)


def test_a_unit_that_must_not_be_stopped() -> None:
    machine = after_upgrade()
    machine.units["gw.service"] = replace(machine.units["gw.service"], refuse_manual_stop=True)
    assert only(machine).next == "systemctl reboot"


def test_a_containers_files_are_its_own() -> None:
    assert diagnose(after_upgrade(50, f"/machine.slice/libpod-{'a' * 64}.scope")).is_healthy
    machine = after_upgrade()
    machine.processes[1] = process(1, cgroup="/init.scope", pid_namespace=7)
    machine.processes[100] = process(100, pid_namespace=8)
    assert not [one for one in diagnose(machine).findings if one.kind is FindingKind.OLD_CODE]


def test_what_cannot_be_read_is_no_health() -> None:
    machine = healthy()
    machine.replaced[100] = None
    found = diagnose(machine, 1000)
    assert found.unseen[0].startswith("the files that a process of other users execute")
    assert not found.is_healthy


SCRIPT = "/usr/bin/app"


@pytest.mark.parametrize("words", [("/usr/bin/python3", "-u", SCRIPT, "--port", "1"), (SCRIPT, "/etc/app.conf")])
def test_a_script_that_was_written_since(words: tuple[str, ...]) -> None:
    machine = healthy(start_arguments=words)
    machine.latest_changes[SCRIPT] = FileChange(SCRIPT, EPOCH + 900, 1)
    machine.latest_changes["/etc/app.conf"] = FileChange("/etc/app.conf", EPOCH + 999, 1)
    assert diagnose(machine).findings == ()
    machine.latest_changes[SCRIPT] = FileChange(SCRIPT, EPOCH + 990, 1)
    found = only(machine)
    assert (found.kind, found.next) == (FindingKind.OLD_CODE, "runbook restart gw.service")
    assert re.fullmatch(
        rf"PID 100 \(\w+\) began [\d.]+s before {SCRIPT} changed: the old code still runs", found.reason
    )


def test_a_script_whose_package_was_upgraded_since() -> None:
    machine = healthy(start_arguments=("/usr/bin/python3", SCRIPT))
    machine.installations[SCRIPT] = Installation("app", EPOCH + 900)
    assert diagnose(machine).findings == ()
    machine.installations[SCRIPT] = Installation("app", EPOCH + 990)
    assert only(machine).reason == f"the package app, which has its program {SCRIPT}, was installed since it began"
    # One finding is enough.
    machine.replaced[100] = (SSL,)
    assert "libssl" in only(machine).reason


def test_the_child_of_a_user_manager_that_only_waits() -> None:
    machine = after_upgrade(50, "/user.slice/user-1000.slice/user@1000.service/init.scope")
    assert only(machine).subject == "systemd"
    machine.processes[50] = replace(machine.processes[50], name="(sd-pam)")
    assert diagnose(machine).is_healthy
