"""Each cause is reported if its evidence is there, and not without it."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runbook.doctor.findings import Severity
from runbook.host.facts import ActiveState
from runbook.host.queries import Answer, StartEvent, StartEventKind
from runbook.model import Port, Verdict
from tests.unit.doctor.diagnosed import FAILED, diagnose, healthy, incident, orphan
from tests.unit.fake_machine import EARLIER, EPOCH, FakeMachine, listen, process, unit


def causes(machine: FakeMachine, *ports: Port) -> list[str]:
    return [cause.sentence for cause in diagnose(machine, "gw.service", *ports).causes]


def test_an_orphan_that_was_started_in_a_login() -> None:
    (cause,) = diagnose(incident()).causes
    assert cause.sentence == (
        "PID 74 (gateway), a copy of the unit's own program, was started in a login of agentops (session-9.scope), and "
        "not by a unit: it has no INVOCATION_ID; each start of gw.service finds port 18789 in use, and exits"
    )
    assert cause.prevention == "start it only through systemd (systemctl start gw.service), never in a login"


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"environment": ()}, "was started in a login of agentops (session-9.scope);"),
        ({"invocation_id": EARLIER}, "but a unit started it before: it has INVOCATION_ID, and left the cgroup"),
        ({"cgroup": "/user.slice/run-r1.scope"}, "runs in run-r1.scope of agentops, a scope and no service"),
        ({"cgroup": "/user.slice"}, "runs in /user.slice, which belongs to no service"),
    ],
)
def test_where_an_orphan_was_started(changes: dict[str, Any], text: str) -> None:
    machine = incident()
    machine.processes[74] = orphan(**changes)
    (sentence,) = causes(machine)
    assert text in sentence


def test_another_program_is_no_copy_and_without_a_line_of_the_log_it_is_in_no_ones_way() -> None:
    machine = incident()
    machine.refused_ports.clear()
    machine.processes[74] = replace(orphan(), command=("/usr/bin/other",), exe="/usr/bin/other", name="other")
    (cause,) = diagnose(machine, "gw.service", Port(18789)).causes
    assert "a copy" not in cause.sentence
    assert "finds port" not in cause.sentence
    assert not cause.prevention


def test_a_user_unit_of_the_same_name() -> None:
    machine = incident()
    cgroup = "/user.slice/user-1000.slice/user@1000.service/app.slice/gw.service"
    machine.processes[74] = orphan(cgroup=cgroup)
    (cause,) = diagnose(machine).causes
    assert cause.sentence == "the user manager of agentops has a unit of the same name, which holds port 18789"
    assert "systemctl --user -M agentops@ disable --now gw.service" in cause.prevention
    machine.processes[74] = orphan(cgroup=cgroup.replace("gw.service", "other.service"))
    assert causes(machine) == []


def leftover(**changes: Any) -> FakeMachine:
    machine = healthy(**changes)
    machine.processes[90] = process(90, invocation_id=EARLIER, started=100.0)
    machine.processes[100] = process(100, invocation_id="a" * 32)
    return machine


def test_a_leftover_that_kill_mode_spared() -> None:
    (cause,) = diagnose(leftover(kill_mode="process")).causes
    assert cause.severity is Severity.WARNING
    assert cause.sentence == (
        "PID 90 (gateway) of an earlier invocation is still in its cgroup: with KillMode=process a stop spares every "
        "other process of the unit"
    )
    assert cause.drop_in is not None
    assert cause.drop_in.path == "/etc/systemd/system/gw.service.d/kill-mode.conf"
    assert cause.drop_in.text == "[Service]\nKillMode=control-group\n"


def test_a_leftover_that_got_no_sigkill_and_one_of_which_the_reason_is_unknown() -> None:
    (cause,) = diagnose(leftover(kill_mode="control-group", send_sigkill=False)).causes
    assert cause.drop_in is not None
    assert "SendSIGKILL=yes" in cause.drop_in.text
    (cause,) = diagnose(leftover(kill_mode="control-group")).causes
    assert cause.drop_in is None
    assert "KillMode" not in cause.sentence


def test_without_a_leftover_kill_mode_is_no_cause() -> None:
    assert causes(healthy(kill_mode="process")) == []


def started(machine: FakeMachine, *before: float) -> FakeMachine:
    events = tuple(StartEvent(EPOCH + machine.clock.time - age, StartEventKind.START) for age in before)
    machine.answers["starts of gw.service"] = [Answer(True, "", events)]
    return machine


def test_a_reached_start_limit() -> None:
    down = FakeMachine({"gw.service": unit(**FAILED)})
    assert causes(down) == ["the start limit (5 starts in 1min) is reached: systemd refuses to start gw.service"]
    assert causes(FakeMachine({"gw.service": unit(**FAILED, restart="no")})) == []


def test_a_start_limit_that_is_nearly_used_up() -> None:
    machine = started(healthy(n_restarts=3, exec_main_start_monotonic=990_000_000), 40, 30, 20, 10)
    assert causes(machine) == [
        "4 starts are in the journal, and the start limit is 5 starts in 1min: one more start is left, unless its "
        "counter was reset since; that is over in 20s"
    ]
    machine = started(healthy(n_restarts=1, exec_main_start_monotonic=990_000_000), 20, 10)
    assert causes(machine) == []


def test_a_changed_unit_file() -> None:
    found = diagnose(healthy(need_daemon_reload=True), uid=1000)
    assert [cause.source for cause in found.causes] == ["NeedDaemonReload"]
    assert (found.severity, found.commands) == (Severity.WARNING, ("sudo systemctl daemon-reload",))


def test_old_code() -> None:
    machine = healthy()
    machine.processes[100] = process(100, exe="/usr/bin/gateway (deleted)")
    assert causes(machine) == [
        "the main process, PID 100 (gateway), executes a file that was removed or replaced since: /usr/bin/gateway"
    ]


def test_a_port_of_the_configuration_on_which_it_does_not_listen() -> None:
    machine = healthy(environment=("GW_PORT=8080",))
    assert causes(machine) == ["Environment= names port 8080, and gw.service does not listen there"]
    listen(machine, 100, "127.0.0.1:8080")
    assert causes(machine) == []


def test_a_stopped_unit_has_no_cause() -> None:
    stopped = unit(active_state=ActiveState.INACTIVE, sub_state="dead", main_pid=0)
    found = diagnose(FakeMachine({"gw.service": stopped}))
    assert (found.verdict, found.causes) == (Verdict.UNIT_EXITED, ())
    assert found.commands == ("systemctl start gw.service",)
