"""What is wrong with a unit that runs."""

from __future__ import annotations

from runbook.doctor.findings import Severity
from runbook.host.queries import FileChange
from tests.unit.doctor.diagnosed import causes, diagnose, healthy
from tests.unit.fake_machine import listen, process


def test_a_changed_unit_file() -> None:
    found = diagnose(healthy(need_daemon_reload=True), uid=1000)
    assert [cause.source for cause in found.causes] == ["NeedDaemonReload"]
    assert (found.severity, found.commands) == (
        Severity.WARNING,
        ("sudo systemctl daemon-reload", "sudo systemctl restart gw.service"),
    )


def test_old_code() -> None:
    machine = healthy()
    machine.processes[100] = process(100, exe="/usr/bin/gateway (deleted)")
    assert causes(machine) == [
        "PID 100 (gateway) runs /usr/bin/gateway, and that file was replaced or removed since: the old code still runs"
    ]


def test_a_program_that_changed_since() -> None:
    """As verify-version with newer-than judges it: by a link on the way to it, too."""
    machine = healthy(start_arguments=("/usr/bin/python3", "/opt/gw/current/gateway"))
    began = machine.find_start_time(machine.processes[100])
    machine.latest_changes["/opt/gw/current/gateway"] = FileChange("/opt/gw/current", began - 5, 3)
    assert diagnose(machine).is_healthy
    machine.latest_changes["/opt/gw/current/gateway"] = FileChange("/opt/gw/current", began + 28.4, 3)
    found = diagnose(machine)
    why = "PID 100 (gateway) began 28.4s before /opt/gw/current changed: the old code still runs"
    assert [(cause.sentence, cause.severity) for cause in found.causes] == [(why, Severity.WARNING)]
    assert (found.commands, found.proved_restart) == (
        ("systemctl restart gw.service",),
        "runbook restart gw.service",
    )


def test_a_running_program_of_which_only_the_mode_changed() -> None:
    machine = healthy(start_arguments=("/usr/bin/gateway",))
    machine.latest_changes["/usr/bin/gateway"] = FileChange("/usr/bin/gateway", 2e9, 1)
    machine.processes[100] = process(100, exe="/usr/bin/gateway")
    assert diagnose(machine).is_healthy


def test_a_port_of_the_configuration_on_which_it_does_not_listen() -> None:
    machine = healthy(environment=("GW_PORT=8080",))
    assert causes(machine) == ["Environment= names port 8080, and gw.service does not listen there"]
    listen(machine, 100, "127.0.0.1:8080")
    assert causes(machine) == []


def test_a_frozen_unit() -> None:
    machine = healthy(freezer_state="frozen")
    assert causes(machine) == [
        "gw.service is frozen, so none of its processes runs (systemctl thaw gw.service lets them run)"
    ]
    assert diagnose(machine).commands == ("systemctl thaw gw.service",)


def test_a_library_that_was_replaced() -> None:
    machine = healthy()
    machine.replaced[100] = ("/usr/lib/x86_64-linux-gnu/libssl.so.3",)
    found = diagnose(machine)
    [cause] = found.causes
    assert cause.sentence == "the main process, PID 100, runs code that was replaced since it began: libssl.so.3"
    assert (cause.source, found.severity) == ("/proc/100/maps", Severity.WARNING)
    assert found.commands == ("systemctl restart gw.service",)
    assert found.proved_restart == "runbook restart gw.service"
