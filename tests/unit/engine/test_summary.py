"""The end of a run that failed: the state it leaves, and what to do next."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runbook.engine.execution.outcome import Outcome
from runbook.engine.summary import ADVICE, find_advice
from runbook.errors import BusTimeout, Interrupted
from runbook.host.facts import ActiveState, JobResult, LoadState, Unit
from runbook.host.queries import Answer, Command, CommandResult, FileText, JournalTailQuery
from runbook.model import Port, StepStatus, Verdict
from runbook.spec.runbook import Runbook
from tests.unit.fake_machine import FakeMachine, journal_lines, listen, process, unit
from tests.unit.runs import FIX, ORPHAN, incident, remediate, run, step


def down(**changes: Any) -> FakeMachine:
    failed = {"active_state": ActiveState.FAILED, "sub_state": "failed", "main_pid": 0, "restart": "no"}
    return FakeMachine(units={"gw.service": unit(**{**failed, **changes})})


def test_a_failed_run_tells_how_things_stand_and_what_to_do() -> None:
    end, events = run(down(n_restarts=2), step("wait-ready"))
    assert (end.step, end.verdict) == ("wait-ready", "unit-failed")
    assert end.now == "gw.service is failed, 2 restarts; no process listens on port 80"
    assert end.hint == "journalctl -u gw.service -n 30 shows why"
    assert {"step", "verdict", "now", "hint"} <= events[-1].data.keys()


def test_the_journal_of_a_users_own_unit_is_his_managers() -> None:
    end, _ = run(down(of_user=True), step("wait-ready"))
    assert end.hint == "journalctl --user -u gw.service -n 30 shows why"


def test_a_log_that_is_in_a_file() -> None:
    machine = down(standard_output="append", standard_error="inherit", fragment_path="/etc/gw.service")
    machine.files = {"/etc/gw.service": FileText("/etc/gw.service", "StandardOutput=append:/var/log/gw.log")}
    end, _ = run(machine, step("wait-ready"))
    assert end.hint == "tail -n 30 /var/log/gw.log shows why"
    end, _ = run(down(standard_output="null", standard_error="inherit"), step("wait-ready"))
    assert end.hint.startswith("journalctl -u gw.service -n 30 shows why; what it prints is discarded")


def test_a_unit_that_another_one_keeps_from_starting() -> None:
    """The advice is about the unit that failed, which no step names."""
    failed = unit("db.service", active_state=ActiveState.FAILED, sub_state="failed", main_pid=0, exec_main_code=1)
    machine = down(active_state=ActiveState.INACTIVE, sub_state="dead", invocation_id="", requires=("db.service",))
    machine.units["db.service"] = failed
    end, _ = run(machine, step("wait-ready"))
    assert (end.verdict, end.hint) == ("job-dependency", "journalctl -u db.service -n 30 shows why")
    socket: dict[str, Any] = {"result": "resources", "listen": (("Stream", "0.0.0.0:81"),), "type": ""}
    machine.units["db.service"] = replace(failed, name="db.socket", **socket)
    machine.processes = {981: process(981, name="old", cgroup="/user.slice/user-0.slice/session-1.scope")}
    listen(machine, 981, "0.0.0.0:81")
    end, _ = run(machine, step("wait-ready"))
    assert end.hint == 'a `remediate` step with `kill-orphan: {unit: db.socket, port: "81"}` as a fix solves this'


@pytest.mark.parametrize(
    ("id_", "spared", "how"),
    [
        ("start", {}, " (a `kill-orphan` step kills it)"),
        ("start", {74: "it is an ancestor of this program"}, ""),
        ("rollback.start", {}, ""),
    ],
)
def test_a_port_is_freed_before_the_start_limit_is_cleared(id_: str, spared: dict[int, str], how: str) -> None:
    start, machine = step("start"), down()
    machine.spared = spared
    machine.processes = {74: process(74, **ORPHAN)}
    listen(machine, 74, "0.0.0.0:80")
    facts = {"ports": [machine.judge_port(machine.units["gw.service"], Port(80)).evidence()]}
    ended = Outcome(id_, "start", StepStatus.FAILED, Verdict.START_LIMIT_HIT, "x", evidence=facts)
    said = find_advice(machine, machine, ended, start, Runbook.model_validate({"unit": "gw.service", "steps": [start]}))
    then = "systemctl reset-failed gw.service then lets it start again"
    assert said == f"free port 80 first, which PID 74 holds{how}; {then}"


def test_a_remediation_advises_on_what_its_check_still_finds() -> None:
    machine = FakeMachine(units={"gw.service": unit(), "nginx.service": unit("nginx.service", main_pid=981)})
    machine.processes = {100: process(100), 981: process(981, name="nginx", cgroup="/system.slice/nginx.service")}
    listen(machine, 981, "0.0.0.0:80")
    end, _ = run(machine, remediate(step("verify-port-owner"), fix=tuple(map(step, FIX))))
    assert (end.verdict, end.hint) == ("not-fixed", "stop that service, or give one of the two another port")


def test_the_advice_is_never_to_stop_a_service_that_contains_others() -> None:
    machine = FakeMachine(units={"gw.service": unit(type="oneshot"), "db.service": unit("db.service", main_pid=981)})
    machine.processes = {981: process(981, name="db", cgroup="/system.slice/db.service")}
    listen(machine, 981, "0.0.0.0:80")
    end, _ = run(machine, step("verify-port-owner"))
    assert end.hint == "name that service as `unit` in the runbook, if that is the one you mean"


def test_a_remediation_that_failed_is_not_advised_to_remediate() -> None:
    machine = incident()
    machine.dies_on[74] = None
    end, _ = run(machine, remediate(step("verify-port-owner"), fix=tuple(map(step, FIX))))
    assert end.verdict == "not-fixed"
    assert "kill-orphan" not in end.hint


def test_what_is_still_starting_after_a_fix_is_to_be_waited_for() -> None:
    mends = remediate(step("verify-port-owner"), fix=tuple(map(step, FIX)))
    book = Runbook.model_validate({"unit": "gw.service", "steps": [mends]})
    facts = {"rounds": 1, "found": "orphan-holds-port"}
    ended = Outcome("remediate", "remediate", StepStatus.FAILED, Verdict.STILL_STARTING, "x", evidence=facts)
    machine = FakeMachine(units={"gw.service": unit()})
    said = find_advice(machine, machine, replace(ended, still_starting=True), mends, book, "run-1")
    assert said.startswith("runbook resume run-1 continues to wait; journalctl -u gw.service -f"), said


@pytest.mark.parametrize("verdict", [Verdict.UNIT_CHANGED, Verdict.JOB_CANCELED])
def test_who_is_known_to_act_is_to_be_asked(verdict: Verdict) -> None:
    restart = step("restart")
    book = Runbook.model_validate({"unit": "gw.service", "steps": [restart]})
    machine = FakeMachine(units={"gw.service": unit()})
    facts: dict[str, Any] = {"asked-by": [{"pid": 412, "command": "systemctl stop gw", "user": "root"}]}
    ended = Outcome("restart", "restart", StepStatus.FAILED, verdict, "x", evidence=facts)
    assert (
        find_advice(machine, machine, ended, restart, book)
        == "agree with the requester named there on what gw.service is to do, then run this again"
    )
    for others in ({}, {"asked-by": [{**facts["asked-by"][0], "own": True}]}):
        unknown = find_advice(machine, machine, replace(ended, evidence=others), restart, book)
        assert unknown.startswith("find out who else acts on gw.service: systemctl list-jobs"), unknown


def test_a_machine_that_does_not_answer_is_said_to_be_unknown(monkeypatch: pytest.MonkeyPatch) -> None:
    machine = down()

    def silent(name: str) -> Unit:
        raise BusTimeout("systemd does not answer")

    def breaks(machine: FakeMachine, command: Command) -> CommandResult:
        monkeypatch.setattr(machine, "unit", silent)
        return CommandResult("exit-code", 1)

    machine.on_command = breaks
    end, _ = run(machine, step("run", run="false"))
    assert end.verdict == "command-failed"
    assert end.now == "what runs now is not known: systemd does not answer"


def test_what_the_unit_wrote_last_stands_beside_the_failure() -> None:
    machine = down()
    machine.answers["journal tail of gw.service"] = [journal_lines("starting", "config line 3: no such word")]
    _, events = run(machine, step("wait-ready"))
    [told] = [e.data for e in events if e.event == "step-finished"]
    assert told["evidence"]["journal"] == ["starting", "config line 3: no such word"]


def test_what_systemd_logged_stands_apart() -> None:
    machine = down()
    spawn = "gw.service: Failed at step EXEC spawning /opt/gw: No such file or directory"
    machine.answers["what systemd logged of gw.service"] = [journal_lines(spawn, pid=1)]
    machine.answers["journal tail of gw.service"] = [journal_lines("starting", spawn)]
    _, events = run(machine, step("wait-ready"))
    [told] = [e.data for e in events if e.event == "step-finished"]
    assert (told["evidence"]["systemd"], told["evidence"]["journal"]) == ([spawn], ["starting"])


def test_a_file_that_systemd_could_not_load_has_a_command_that_checks_it() -> None:
    machine = down()
    machine.units["gw.service"] = replace(machine.units["gw.service"], load_state=LoadState.BAD_SETTING, of_user=True)
    machine.answers["what systemd logged of gw.service"] = [journal_lines("gw.service: Refusing.", pid=1)]
    end, _ = run(machine, step("start"))
    assert end.hint == "systemd-analyze --user verify gw.service shows what is wrong with its file"
    [asked] = [query.kind for query in machine.asked if isinstance(query.kind, JournalTailQuery) and query.kind.latest]
    assert (asked.since, asked.of_manager, asked.of_user) == (0.0, True, True)


@pytest.mark.parametrize("answer", [Answer(True, ""), Answer(False, "this user may not read it")])
def test_a_unit_that_wrote_nothing_and_a_journal_that_cannot_be_read_add_nothing(answer: Answer[None]) -> None:
    machine = down()
    machine.answers["journal tail of gw.service"] = [answer]
    _, events = run(machine, step("wait-ready"))
    [told] = [e.data for e in events if e.event == "step-finished"]
    assert "journal" not in told["evidence"]


def test_a_secret_step_does_not_show_what_its_unit_wrote() -> None:
    machine = down()
    machine.answers["journal tail of gw.service"] = [journal_lines("token 12345")]
    _, events = run(machine, step("wait-ready", secret=True))
    assert "12345" not in str(events)


@pytest.mark.parametrize(
    ("versions", "exit_status", "verdict", "hint"),
    [
        (["1.0.0", "1.0.0"], 1, "update-failed", "correct what its output shows, then run this again"),
        (
            ["1.0.0", "1.0.0"],
            0,
            "version-mismatch",
            "`app --version` must print 2.0.0: perhaps it reads another installation than the command changes",
        ),
    ],
)
def test_an_update_that_failed_has_a_next_command(
    versions: list[str], exit_status: int, verdict: str, hint: str
) -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.answers["app --version"] = [Answer(True, "", version) for version in versions]
    machine.on_command = lambda m, command: CommandResult("exit-code" if exit_status else "success", exit_status)
    end, _ = run(machine, step("update", run="install", version="app --version", to="2.0.0"))
    assert (end.verdict, end.hint) == (verdict, hint)


def interrupt(_machine: FakeMachine) -> None:
    raise Interrupted(15)


def test_an_interruption_reports_which_version_it_leaves() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.answers["app --version"] = [Answer(True, "", "1.0.0")]
    machine.later.append((1005.0, interrupt))
    machine.on_command = lambda m, command: None
    end, _ = run(machine, step("update", run="install", version="app --version", to="2.0.0"))
    assert end.status == "interrupted"
    assert end.now.endswith(
        "; `app --version` shows which version is installed (1.0.0 was installed before, 2.0.0 was wanted)"
    )
    assert end.hint.startswith("runbook resume run-1 goes on from there")


def test_the_doctor_is_named_if_it_finds_a_cause() -> None:
    """An earlier run may have recorded the port, or the unit's log may name it: the runbook need not."""
    machine = down(start_arguments=("/usr/bin/gw", "--port", "81"), result="exit-code")
    assert advise(machine) == "journalctl -u gw.service -n 30 shows why"
    machine.processes = {74: process(74, **ORPHAN)}
    listen(machine, 74, "0.0.0.0:81")
    assert advise(machine) == "runbook doctor gw.service names the cause"
    machine.units["gw.service"] = replace(machine.units["gw.service"], of_user=True)
    assert advise(machine) == "runbook doctor --user gw.service names the cause"


def test_a_program_that_could_not_be_executed() -> None:
    failed = {"exec_main_code": 1, "exec_main_status": 203, "fragment_path": "/etc/gw.service"}
    machine = down(start_arguments=("/opt/{gw}/gw",), **failed)
    edit = "systemctl edit --full gw.service"
    assert advise(machine) == f"install /opt/{{gw}}/gw, or correct ExecStart= with {edit}"
    machine.files = {"/opt/{gw}/gw": FileText("/opt/{gw}/gw", "")}
    assert advise(machine) == f"correct that setting with {edit}, then run this again"


def test_a_notification_that_systemd_refuses() -> None:
    facts = {"type": "notify", "result": "timeout", "inactive_exit_monotonic": 1}
    assert advise(down(**facts), Verdict.NOT_NOTIFYING).endswith("add Type=exec with systemctl edit gw.service")
    machine = down(**facts)
    refused = "gw.service: Got notification message from PID 7, but reception only permitted for main PID 5"
    machine.answers["what systemd logged of gw.service"] = [journal_lines(refused, pid=1)]
    assert advise(machine, Verdict.NOT_NOTIFYING) == (
        "runbook doctor gw.service names the cause, and prints the drop-in file that corrects it"
    )


def advise(machine: FakeMachine, verdict: Verdict = Verdict.UNIT_FAILED) -> str:
    start = step("start")
    ended = Outcome("start", "start", StepStatus.FAILED, verdict, "x")
    return find_advice(machine, machine, ended, start, Runbook.model_validate({"unit": "gw.service", "steps": [start]}))


@pytest.mark.parametrize("text", ADVICE.values())
def test_every_advice_can_be_filled(text: str) -> None:
    known = {"unit": "gw.service", "systemctl": "systemctl", "journalctl": "journalctl", "again": "runbook check"}
    known |= {"log": "journalctl", "follow": "journalctl"}
    assert "{" not in text.format(**known)


@pytest.mark.parametrize(("verb", "exit_status"), [("start", 0), ("fail", 1)])
def test_units_that_need_a_stopped_unit_and_are_down_are_reported(verb: str, exit_status: int) -> None:
    """systemd stops it together with the unit, and does not start it with the unit again."""
    app, job, web = unit("app.service", required_by=("web.service",)), unit("job.service"), unit("web.service")
    down: dict[str, Any] = {"active_state": ActiveState.INACTIVE, "sub_state": "dead", "main_pid": 0}
    machine = FakeMachine(units={"gw.service": unit(required_by=("app.service", "job.service"))})
    machine.units |= {"app.service": app, "job.service": replace(job, **down), "web.service": web}

    def stop(machine: FakeMachine, name: str) -> JobResult:
        for one in ("gw.service", "app.service", "web.service"):
            machine.units[one] = replace(machine.units[one], **down)
        return JobResult.DONE

    machine.on_job["stop"] = stop
    machine.on_command = lambda m, command: CommandResult("exit-code", 1)
    end, events = run(machine, step("stop"), step("start") if verb == "start" else step("run", run="false"))
    notices = [event.data["text"] for event in events if event.event == "notice"]
    assert notices.pop(0).startswith("stop: the stop of gw.service also stops app.service (it has Requires=gw.service)")
    assert (end.exit, notices) == (
        exit_status,
        [
            f"{name}, which stops with gw.service, was up before and is inactive (dead) now; systemctl start {name}"
            for name in ("app.service", "web.service")
        ],
    )


def test_a_run_does_not_claim_what_it_did_not_see() -> None:
    """A process that was started before the update may be the old version, and the port may have no holder."""
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.answers = {"app --version": [Answer(True, "", "1.0.0"), Answer(True, "", "1.1.0")]}
    update = step("update", run="install app", version="app --version", to="1.1.0")
    end, _ = run(machine, update)
    assert end.reason == "gw.service is active (running), PID 100; 1.1.0 is installed"

    listen(machine, 200, "127.0.0.1:80")
    machine.answers = {"app --version": [Answer(True, "", "1.0.0"), Answer(True, "", "1.1.0")]}
    end, _ = run(machine, update.model_copy(), step("restart"))
    assert end.reason == "gw.service runs 1.1.0, PID 200, port 80"
