"""The diagnosis of one unit: how bad it is, what systemd and the kernel report, and what could not be read."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from runbook.doctor.findings import Severity
from runbook.errors import NoSuchUnit
from runbook.host.facts import ActiveState, LoadState
from runbook.host.queries import Answer, OtherManagers, PreviousExit
from runbook.model import Port, Verdict
from tests.unit.doctor.diagnosed import FAILED, diagnose, gw, healthy, incident
from tests.unit.fake_machine import UNSEEN, FakeMachine, journal_lines, listen, process, unit


def test_a_healthy_unit_needs_no_command() -> None:
    found = diagnose(healthy())
    assert (found.severity, found.is_healthy, found.verdict) == (Severity.OK, True, Verdict.READY)
    assert (found.causes, found.commands, found.unseen) == ((), (), ())
    assert found.kernel == ("port 18789 is held only by PID 100 (127.0.0.1)",)
    assert not found.systemd_lines
    assert not found.journal


def test_a_loop_beside_an_orphan() -> None:
    machine = incident(n_restarts=2)
    machine.answers["journal tail of gw.service"] = [journal_lines("port 18789 is already in use")]
    machine.answers["what systemd logged of gw.service"] = [journal_lines("Scheduled restart job", pid=1)]
    exit_ = PreviousExit("exit-code", True, "ExecStart", "exited", 78)
    machine.answers[f"exit before {gw(machine).invocation_id} of gw.service"] = [Answer(True, "", exit_)]
    found = diagnose(machine)
    assert (found.severity, found.verdict) == (Severity.PROBLEM, Verdict.ORPHAN_HOLDS_PORT)
    assert found.summary == (
        "systemd reports gw.service as active (running); what answers on port 18789 is PID 74 (gateway)"
    )
    assert found.systemd[1:3] == ("2 restarts by systemd", "last exit: its main process exited with status 78")
    assert "is held by PID 74 (gateway) of agentops since" in found.kernel[0]
    assert found.systemd_lines == ("Scheduled restart job",)
    assert found.journal == ("port 18789 is already in use",)
    assert [command for command in found.commands if not command.startswith("timeout")] == [
        "systemctl reset-failed gw.service",
        "systemctl stop gw.service",
        "kill 74",
        "systemctl start gw.service",
    ]


def test_a_reached_start_limit_beside_an_orphan() -> None:
    found = diagnose(incident(**FAILED))
    assert found.summary == "gw.service is down; what answers on port 18789 is PID 74 (gateway)"
    assert [cause.source for cause in found.causes] == [
        "/proc/74/cgroup, /proc/74/environ",
        "StartLimitBurst=, StartLimitIntervalSec=",
    ]
    assert [command.split()[0] for command in found.commands] == ["systemctl", "kill", "timeout", "systemctl"]


def test_a_unit_that_systemd_restarted_a_short_time_ago_is_no_healthy_one() -> None:
    machine = healthy(n_restarts=2, exec_main_start_monotonic=990_000_000)
    found = diagnose(machine)
    assert (found.severity, found.verdict) == (Severity.WARNING, Verdict.READY)
    assert found.summary == "systemd restarted gw.service 2 times: its main process exited"
    machine.clock.time += 3600
    assert diagnose(machine).is_healthy


def test_several_restarts_in_a_row_are_a_loop_until_it_has_run_for_a_while() -> None:
    machine = healthy(n_restarts=3, exec_main_start_monotonic=990_000_000)
    found = diagnose(machine)
    assert (found.severity, found.verdict) == (Severity.PROBLEM, Verdict.CRASH_LOOP)
    assert found.decision == ("find out why it exits", ("journalctl -u gw.service -n 30",))
    machine.clock.time += 60
    assert diagnose(machine).severity is Severity.WARNING


def test_a_unit_that_is_starting() -> None:
    machine = healthy(active_state=ActiveState.ACTIVATING, sub_state="start", type="notify")
    machine.units["gw.service"] = replace(gw(machine), inactive_exit_monotonic=999_000_000)
    found = diagnose(machine)
    assert (found.severity, found.verdict, found.commands) == (Severity.WARNING, Verdict.STILL_STARTING, ())


def test_a_unit_that_does_not_listen_yet() -> None:
    machine = FakeMachine({"gw.service": unit(inactive_exit_monotonic=990_000_000)}, {100: process(100)})
    found = diagnose(machine, "gw.service", Port(18789))
    assert (found.severity, found.verdict) == (Severity.WARNING, Verdict.NOT_LISTENING)
    assert found.decision.text == "it began 10s ago, and may need more time: look again"
    machine.clock.time += 60
    found = diagnose(machine, "gw.service", Port(18789))
    assert found.severity is Severity.PROBLEM
    assert found.decision == ("find out what it does instead", ("journalctl -u gw.service -n 30",))


def test_a_oneshot_that_has_done_its_work() -> None:
    done = unit(type="oneshot", active_state=ActiveState.INACTIVE, sub_state="dead", main_pid=0, restart="no")
    assert diagnose(FakeMachine({"gw.service": done})).is_healthy


def test_a_holder_that_cannot_be_read_does_not_count_as_healthy() -> None:
    machine = healthy()
    machine.sockets[UNSEEN] = machine.sockets.pop(100)
    machine.hidden = 1
    found = diagnose(machine, "gw.service", Port(18789), uid=1000)
    assert (found.verdict, found.severity, found.is_healthy) == (Verdict.OWNER_UNKNOWN, Severity.WARNING, False)
    assert "run it as root, which can read every process" in found.unseen[0]


def test_a_port_that_only_the_configuration_names_may_be_of_another_service() -> None:
    machine = healthy(start_arguments=("/usr/bin/gateway", "--port", "5432"))
    machine.units["db.service"] = unit("db.service", main_pid=200)
    machine.processes[200] = process(200, cgroup="/system.slice/db.service", name="postgres")
    listen(machine, 200, "127.0.0.1:5432")
    assert diagnose(machine).is_healthy
    # If it listens nowhere, it may be trying again and again.
    own = machine.sockets.pop(100)
    found = diagnose(machine)
    assert (found.severity, found.verdict, found.commands) == (Severity.WARNING, Verdict.READY, ())
    assert found.causes[0].sentence.startswith("its configuration names port 5432, and gw.service listens on no port: ")
    assert "held by PID 200 (postgres), in db.service" in found.summary
    # It may as well be a client of that service.
    assert found.decision.text == "find out whether it is to listen there, or uses that port as a client"
    machine.sockets[100] = own
    # But if it does not stay up, that may be why.
    machine.units["gw.service"] = replace(gw(machine), n_restarts=1)
    assert diagnose(machine).verdict is Verdict.OTHER_UNIT_HOLDS_PORT
    machine.units["gw.service"] = replace(gw(machine), n_restarts=0)
    del machine.units["db.service"]
    # And no service but this one would have started a process in a login.
    machine.processes[200] = process(200, cgroup="/user.slice/user-1000.slice/session-9.scope")
    assert diagnose(machine).verdict is Verdict.ORPHAN_HOLDS_PORT


def test_a_unit_that_does_not_exist() -> None:
    with pytest.raises(NoSuchUnit, match=r"systemd has no unit gv.service; did you mean gw.service\?"):
        diagnose(healthy(), "gv.service")


def test_a_unit_of_another_manager() -> None:
    machine = FakeMachine(other_managers=OtherManagers(own=True))
    with pytest.raises(NoSuchUnit) as refused:
        diagnose(machine)
    assert refused.value.hint == "gw.service is a unit of your user manager: add --user"


def test_a_masked_unit() -> None:
    machine = FakeMachine({"gw.service": unit(load_state=LoadState.MASKED, active_state=ActiveState.INACTIVE)})
    found = diagnose(machine)
    assert found.verdict is Verdict.UNIT_MASKED
    assert found.commands == ()  # An operator decided that.
    assert found.decision.commands == ("systemctl unmask gw.service", "systemctl start gw.service")


def test_the_json_has_every_part() -> None:
    found = json.loads(json.dumps(diagnose(incident(**FAILED)).evidence()))
    assert found["ports"][0]["found-in"] == ["its log: in use", "ExecStart="]
    assert found["ports"][0]["holders"][0]["pid"] == 74
    assert found["systemd"]["NRestarts"] == 5
