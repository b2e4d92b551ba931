"""The diagnosis of a whole machine."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.doctor.findings import FindingKind, MachineDiagnosis, MachineFinding, Severity
from runbook.doctor.machine import MachineDoctor
from runbook.errors import HostError
from runbook.host.facts import ActiveState, LoadState
from runbook.host.queries import Answer, StartEvent, StartEventKind
from tests.unit.doctor.diagnosed import COMMAND, FAILED, SESSION, healthy, incident, orphan
from tests.unit.fake_machine import EPOCH, FakeMachine, listen, process, unit


def diagnose(machine: FakeMachine, uid: int = 0) -> MachineDiagnosis:
    return MachineDoctor(machine, machine, uid).diagnose()


def only(machine: FakeMachine, uid: int = 0) -> MachineFinding:
    (found,) = diagnose(machine, uid).findings
    return found


def test_a_healthy_machine() -> None:
    found = diagnose(healthy())
    assert (found.is_healthy, found.findings, found.unseen) == (True, (), ())
    assert (found.services, found.healthy_services, found.ports) == (1, 1, 1)
    assert found.evidence()["severity"] == "ok"


def test_the_incident_is_one_finding() -> None:
    found = only(incident(**FAILED))
    assert (found.kind, found.severity, found.subject) == (FindingKind.FAILED, Severity.PROBLEM, "gw.service")
    assert found.reason.startswith("port 18789 (127.0.0.1, ::1) is held by PID 74 (gateway) of agentops since ")
    assert found.reason.endswith(", in session-9.scope; its start limit was reached")
    assert found.next == "runbook doctor gw.service"


def test_a_unit_that_loops() -> None:
    found = only(incident(n_restarts=7, exec_main_start_monotonic=999_000_000))
    assert (found.kind, found.severity) == (FindingKind.LOOP, Severity.PROBLEM)


def test_without_time_for_a_diagnosis_the_properties_of_a_unit_must_do(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runbook.doctor.machine.DIAGNOSES_TIME", -1.0)
    found = only(incident(**FAILED))
    assert (found.kind, found.severity) == (FindingKind.FAILED, Severity.PROBLEM)
    end = "its main process exited with status 78; its start limit was reached"
    assert found.reason == f"systemd restarted it 5 times: {end}"


def test_a_unit_that_systemd_restarted_is_a_warning() -> None:
    found = only(healthy(n_restarts=1, exec_main_start_monotonic=940_000_000))
    assert (found.kind, found.reason) == (FindingKind.RESTARTED, "systemd restarted it once, the last time 1min ago")
    assert diagnose(healthy(n_restarts=1, exec_main_start_monotonic=100_000_000)).findings == ()


def test_an_orphan_that_its_parent_has_left() -> None:
    machine = healthy()
    machine.processes[90] = process(
        90, cgroup=SESSION, uid=1000, user="agentops", name="node", command=("node", "x.js"), environment=("HOME",)
    )
    listen(machine, 90, "0.0.0.0:3000")
    found = only(machine)
    assert (found.kind, found.severity, found.subject) == (FindingKind.ORPHAN, Severity.WARNING, "port 3000")
    assert "PID 90 (node) of agentops, in session-9.scope, holds port 3000: the process that started it" in found.reason
    assert found.next == "ps -fp 90"
    # A program that a login still has is its user's affair.
    machine.processes[80] = process(80, cgroup=SESSION, name="bash")
    machine.processes[90] = process(90, cgroup=SESSION, ppid=80, name="node", command=("node", "x.js"))
    assert diagnose(machine).findings == ()


def test_a_copy_of_a_healthy_units_program_on_its_port() -> None:
    machine = healthy()
    machine.processes[74] = orphan()
    listen(machine, 74, "127.0.0.1:18789")
    found = only(machine)
    assert (found.kind, found.severity, found.subject) == (FindingKind.FAILED, Severity.PROBLEM, "gw.service")
    assert found.next == "runbook doctor gw.service"


def test_a_copy_of_a_units_program_on_another_port_is_no_fault_of_the_unit() -> None:
    machine = healthy()
    machine.processes[80] = process(80, cgroup=SESSION, name="bash")
    machine.processes[74] = orphan(ppid=80)
    listen(machine, 74, "127.0.0.1:9999")
    assert diagnose(machine).findings == ()


def test_a_leftover() -> None:
    machine = healthy()
    machine.processes[60] = process(60, started=100.0, invocation_id="e" * 32, environment=("INVOCATION_ID",))
    found = only(machine)
    assert (found.kind, found.subject) == (FindingKind.LEFTOVER, "gw.service")
    assert found.reason == "PID 60 (gateway) of an earlier invocation is still in its cgroup"


def test_hardly_any_start_is_left() -> None:
    times = {"inactive_exit_monotonic": 990_000_000, "inactive_enter_monotonic": 989_000_000}
    machine = healthy(**times, active_enter_monotonic=990_000_000, active_exit_monotonic=988_000_000)
    machine.processes[100] = process(100, started=990.5)
    starts = tuple(StartEvent(EPOCH + 985.0 + n, StartEventKind.START) for n in range(4))
    machine.answers["starts of gw.service"] = [Answer(True, "", starts)]
    found = only(machine)
    assert (found.kind, found.severity) == (FindingKind.START_LIMIT, Severity.WARNING)
    assert found.reason.startswith("4 starts counted, and the start limit is 5 starts in 1min: one more")
    machine = healthy(**times, active_enter_monotonic=990_000_000, active_exit_monotonic=988_000_000)
    machine.processes[100] = process(100, started=990.5)
    machine.answers["starts of gw.service"] = [Answer(False, "no rights")]
    assert diagnose(machine).unseen == ("how many starts are left of gw.service: no rights",)


def test_a_unit_that_failed() -> None:
    reason = only(FakeMachine({"gw.service": unit(**FAILED)})).reason
    assert (
        reason
        == "systemd gave gw.service up, its starts (5 in 60s) were used up: its main process exited with status 78"
    )
    facts = {**FAILED, "restart": "no", "n_restarts": 0}
    assert only(FakeMachine({"gw.service": unit(**facts)})).reason == "failed: its main process exited with status 78"


def test_changed_files_are_one_finding_of_each_manager() -> None:
    machine = healthy(need_daemon_reload=True)
    machine.units["web.service"] = unit("web.service", main_pid=0, need_daemon_reload=True)
    machine.units["gone.service"] = unit("gone.service", main_pid=0, load_state=LoadState.NOT_FOUND)
    first, second = diagnose(machine).findings
    assert first.reason == "its file changed since systemd read it, and so did those of web.service"
    assert (first.subject, first.next) == ("gw.service", "systemctl daemon-reload")
    assert "the file of gone.service is gone" in second.reason


def users_machine() -> FakeMachine:
    machine = healthy()
    machine.units["user@1000.service"] = unit("user@1000.service", main_pid=0, control_group="/user.slice")
    failed = unit("mine.service", of_user=True, **FAILED)
    machine.user_units[1000] = (failed, unit("gw.service", of_user=True, main_pid=0))
    return machine


def test_the_managers_of_users(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runbook.doctor.machine_facts.find_local_user_name", lambda uid: f"u{uid}")
    failed, same = diagnose(users_machine()).findings
    assert (failed.subject, failed.user, failed.severity) == ("mine.service", "u1000", Severity.PROBLEM)
    assert failed.next == "su - u1000 -c 'runbook doctor --user mine.service'"
    assert (same.kind, same.subject) == (FindingKind.TWO_MANAGERS, "gw.service")
    assert same.reason == "the system has a unit of the same name, active (running); this one is active (running)"
    # The user's own view, and that of another one.
    assert diagnose(users_machine(), 1000).findings[0].next == "runbook doctor --user mine.service"
    found = diagnose(users_machine(), 1001)
    assert (found.findings, found.unseen) == ((), ("the user manager of u1000 (not root)",))
    assert not found.is_healthy


def test_a_unit_of_a_user_whose_port_another_process_has() -> None:
    machine = users_machine()
    loops = {**FAILED, "active_state": ActiveState.ACTIVATING, "exec_main_start_monotonic": 999_000_000}
    mine = unit("mine.service", of_user=True, start_arguments=COMMAND, **loops)
    machine.user_units[1000] = (mine,)
    [found] = diagnose(machine).findings
    assert (found.kind, found.severity) == (FindingKind.LOOP, Severity.PROBLEM)
    held = "port 18789 is held by PID 100 (gateway) of "
    assert found.reason.startswith(f"systemd restarted it 5 times: its main process exited with status 78; {held}"), (
        found.reason
    )
    assert found.reason.endswith(", in gw.service")
    # A user who cannot see the process sees whose socket it is.
    machine.sockets[100] = [one._replace(cookie=7) for one in machine.sockets[100]]
    hidden = machine.processes.pop(100)
    assert diagnose(machine, 1000).findings[0].reason.endswith("; port 18789 is held by a process of root")
    machine.processes[100] = hidden
    # Its own process is none that has its port taken.
    cgroup = "/user.slice/user-1000.slice/user@1000.service/app.slice/mine.service"
    machine.processes[100] = process(100, cgroup=cgroup)
    assert held not in diagnose(machine).findings[0].reason


def test_a_user_manager_that_does_not_answer_is_unseen() -> None:
    machine = users_machine()
    machine.user_units.clear()
    found = diagnose(machine)
    assert "cannot reach it" in found.unseen[0]
    assert (found.findings, found.is_healthy) == ((), False)


def test_what_is_hidden_is_no_health() -> None:
    machine = healthy()
    machine.hidden = 3
    found = diagnose(machine, 1000)
    assert "the ports of 3 processes of other users" in found.unseen[0]
    assert not found.is_healthy


def test_without_the_system_manager_nothing_can_be_looked_at() -> None:
    machine = healthy()

    def fail(user: int | None = None) -> Any:
        raise HostError("it does not answer")

    machine.list_units = fail  # type: ignore[method-assign]
    with pytest.raises(HostError):
        diagnose(machine)


def test_an_inactive_unit_is_no_service_of_the_list() -> None:
    machine = healthy()
    machine.units["off.service"] = unit("off.service", active_state=ActiveState.INACTIVE)
    assert diagnose(machine).services == 1
