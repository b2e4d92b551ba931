"""What is wrong with a unit that runs."""

from __future__ import annotations

from runbook.doctor.findings import Severity
from tests.unit.doctor.diagnosed import causes, diagnose, healthy
from tests.unit.fake_machine import listen, process


def test_a_changed_unit_file() -> None:
    found = diagnose(healthy(need_daemon_reload=True), uid=1000)
    assert [cause.source for cause in found.causes] == ["NeedDaemonReload"]
    assert (found.severity, found.commands) == (Severity.WARNING, ("sudo systemctl daemon-reload",))


def test_old_code() -> None:
    machine = healthy()
    machine.processes[100] = process(100, exe="/usr/bin/gateway (deleted)")
    assert causes(machine) == [
        "the main process, PID 100 (gateway), executes /usr/bin/gateway, which was removed or replaced since"
    ]


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
