"""Failed runs that are rolled back, on a machine made of data."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest

from runbook.engine.execution.outcome import Outcome
from runbook.engine.rollback import _find_stop_by_another
from runbook.errors import BusLost
from runbook.events import Event
from runbook.host.facts import ActiveState, JobResult
from runbook.host.queries import Answer, Command, CommandResult
from runbook.host.requesters import JobRequest, Requester
from runbook.model import StepStatus, Verdict
from runbook.spec.runbook import Runbook
from runbook.spec.step import Step
from tests.unit.fake_machine import FakeMachine, listen, process, start_anew, unit
from tests.unit.runs import finished, remediate, run, step

OLD, NEW = "1.0.0", "1.1.0"


class Installed:
    """A machine with programs that have a version; a new one of `broken` does not start."""

    def __init__(self, *names: str, broken: bool = True) -> None:
        self.versions = dict.fromkeys(names, OLD)
        self.machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
        listen(self.machine, 100, "127.0.0.1:80")
        self.broken = broken
        self.fails: Callable[[str], bool] = lambda command: False
        self.machine.on_command = self._command
        self.machine.on_job = {"restart": self._starts, "start": self._starts}
        self._tell()

    def _command(self, machine: FakeMachine, command: Command) -> CommandResult:
        _, name, version = str(command).split()
        if not self.fails(str(command)):
            self.versions[name] = version
        self._tell()
        return CommandResult("exit-code", 1) if self.fails(str(command)) else CommandResult("success", 0)

    def _tell(self) -> None:
        for name, version in self.versions.items():
            self.machine.answers[f"{name} --version"] = [Answer(bool(version), "is not there", version)]
        self.machine.asked.clear()

    def _starts(self, machine: FakeMachine, name: str) -> JobResult:
        for pid in list(machine.processes):
            machine.kill(pid)
        if self.broken and NEW in self.versions.values():
            failed: dict[str, Any] = {
                "active_state": ActiveState.FAILED,
                "sub_state": "failed",
                "result": "exit-code",
                "main_pid": 0,
            }
            machine.units[name] = unit(**failed, exec_main_code=1, exec_main_status=3, restart="no")
            return JobResult.FAILED
        start_anew(machine, name)
        listen(machine, 200, "127.0.0.1:80")
        return JobResult.DONE


def _book(*names: str, **fields: Any) -> list[Step[Any]]:
    from runbook.document import parse

    text = "unit: gw\nport: 80\nsteps:\n" + "".join(
        f"  - update: {{id: {name}, run: 'install {name} ${{{{ to }}}}', version: {name} --version, to: {NEW}"
        + "".join(f", {key}: {value}" for key, value in fields.items())
        + "}\n"
        for name in names
    )
    return list(parse(text.encode(), "x.yaml").steps)


def carry_out(made: Installed, *steps: Step[Any], **book: Any) -> tuple[str, int, str, list[Event]]:
    end, events = run(made.machine, *steps, **{"rollback": "auto", **book})
    return str(end.status), end.exit, end.reason, events


def undone(events: list[Event]) -> list[tuple[str, str, str]]:
    return [one for one in finished(events) if one[0].startswith("rollback.")]


def test_updates_are_taken_back_the_last_first_and_the_checks_of_the_runbook_prove_it() -> None:
    made = Installed("one", "two")
    steps = [*_book("one", "two"), step("restart"), step("verify-port-owner")]
    end, events = run(made.machine, *steps, rollback="auto")
    reason = end.reason
    assert (str(end.status), end.exit) == ("rolled-back", 4)
    assert end.cause
    assert reason.startswith(f"{end.step}: {end.cause}; rolled back: ")
    assert end.hint.startswith("runbook show ")
    assert end.hint.endswith(" has the evidence; correct the cause, then run this again")
    assert made.versions == {"one": OLD, "two": OLD}
    assert undone(events) == [
        ("rollback.two", "changed", "updated"),
        ("rollback.one", "changed", "updated"),
        ("rollback.reset-failed", "changed", "reset"),
        ("rollback.restart", "changed", "job-done"),
        ("rollback.verify-port-owner", "ok", "owned"),
        ("rollback.proof", "ok", "version-ok"),
    ]
    assert reason.endswith(f"rolled back: one is back at {OLD}, two is back at {OLD}")


def test_without_any_check_the_unit_must_be_ready_all_the_same() -> None:
    made = Installed("one")
    status, _, _, events = carry_out(made, *_book("one"), step("restart"))
    assert status == "rolled-back"
    assert ("rollback.wait-ready", "ok", "ready") in undone(events)


def test_an_update_whose_failure_is_passed_over_is_not_passed_over_here() -> None:
    made = Installed("one")
    made.fails = lambda command: command.endswith(OLD)
    steps = [*_book("one", **{"on-failure": "continue"}), step("restart"), step("verify-port-owner")]
    status, exit_status, reason, _ = carry_out(made, *steps)
    assert (status, exit_status) == ("failed", 1)
    assert f"the rollback failed at rollback.one: `install one {OLD}` exited with status 1" in reason
    assert f"{NEW} is installed" in reason


def test_a_failed_update_is_taken_back_too() -> None:
    made = Installed("one", "two")
    made.fails = lambda command: command == f"install two {NEW}"
    status, _, _, events = carry_out(made, *_book("one", "two"), step("restart"), step("verify-port-owner"))
    assert status == "rolled-back"
    assert undone(events)[:2] == [("rollback.two", "ok", "up-to-date"), ("rollback.one", "changed", "updated")]


def test_a_first_install_has_nothing_to_go_back_to() -> None:
    made = Installed("one")
    made.versions["one"] = ""
    made._tell()
    status, exit_status, reason, events = carry_out(made, *_book("one"), step("restart"))
    assert (status, exit_status) == ("failed", 1)
    assert "there was no version before one, so nothing was undone" in reason
    assert not undone(events)


def test_what_never_ran_is_not_taken_back() -> None:
    made = Installed("one")
    made.versions["one"] = NEW
    made._tell()
    status, _, _, events = carry_out(made, *_book("one"), step("restart"))
    assert status == "failed"
    assert all(event.event != "rollback-started" for event in events)


def test_a_list_is_carried_out_after_any_change() -> None:
    made = Installed("one")
    made.versions["one"] = NEW  # The new version is installed already, and does not start.
    made._tell()
    back = step("run", id="rollback.run", run=f"install one {OLD}")
    restart = step("restart", id="rollback.restart")
    status, exit_status, _, events = carry_out(made, step("stop"), step("restart"), rollback=(back, restart))
    assert (status, exit_status) == ("rolled-back", 4)
    assert [name for name, _, _ in undone(events)] == ["rollback.run", "rollback.restart", "rollback.wait-ready"]


def test_no_id_stands_twice() -> None:
    made = Installed("restart")
    status, _, _, events = carry_out(made, *_book("restart"), step("restart", id="again"), step("verify-port-owner"))
    assert status == "rolled-back"
    names = [name for name, _, _ in undone(events)]
    assert len(names) == len(set(names)), names


def test_what_is_still_starting_is_not_rolled_back() -> None:
    made = Installed("one", broken=False)
    check = step("wait-ready", port="81", timeout="1s", **{"healthy-for": 0})
    status, exit_status, _, events = carry_out(
        made, *_book("one"), step("restart"), remediate(check, fix=(step("stop"),))
    )
    assert (status, exit_status) == ("still-starting", 3)
    assert not undone(events)
    assert made.versions == {"one": NEW}
    assert StepStatus.REMEDIATED not in {one[1] for one in finished(events)}


def serves_nothing(machine: FakeMachine, name: str) -> JobResult:
    for pid in list(machine.processes):
        machine.kill(pid)
    start_anew(machine, name)
    return JobResult.DONE


def test_a_check_that_fails_is_not_passed_over_either() -> None:
    made = Installed("one")
    made.machine.on_job = {"restart": serves_nothing}
    checks = step("verify-port-owner", **{"on-failure": "continue"}), step("verify-port-owner", id="again")
    status, exit_status, reason, _ = carry_out(made, *_book("one"), step("restart"), *checks)
    assert (status, exit_status) == ("failed", 1)
    assert "the rollback failed at rollback.verify-port-owner: no process listens on port 80" in reason


def test_where_every_check_is_skipped_the_unit_must_be_ready() -> None:
    made = Installed("one")
    made.fails = lambda command: command.endswith(NEW)
    only_then = step("verify-port-owner", when="steps.one.changed")
    status, _, _, events = carry_out(made, *_book("one"), step("restart"), only_then)
    assert status == "rolled-back"
    assert undone(events)[-3:-1] == [
        ("rollback.verify-port-owner", "skipped", None),
        ("rollback.wait-ready", "ok", "ready"),
    ]


def test_what_tells_the_version_must_tell_the_earlier_one() -> None:
    for serving, ended in ((OLD, "rolled-back"), (NEW, "failed")):
        made = Installed("one")
        made.machine.answers["ask"] = [Answer(True, "", f"app {serving}")]
        told = step("verify-version", run="ask", expect="${{ steps.one.to }}", name=f"{NEW} serves")
        status, _, reason, events = carry_out(made, *_book("one"), step("restart"), told)
        assert status == ended, reason
        assert f"{OLD} serves" in [e.data.get("name") for e in events if e.event == "step-finished"]
    assert f"{NEW} serves, not {OLD}" in reason


def test_the_steps_of_a_list_and_the_checks_have_ids_of_their_own() -> None:
    made = Installed("one")
    back = [step("run", id="rollback.run", run=f"install one {OLD}"), step("restart", id="rollback.restart")]
    back.append(step("wait-ready", id="rollback.wait-ready"))
    status, _, _, events = carry_out(made, *_book("one"), step("restart"), step("wait-ready"), rollback=tuple(back))
    assert status == "rolled-back"
    assert [name for name, _, _ in undone(events)][-2:] == ["rollback.wait-ready", "rollback.wait-ready-2"]


def test_without_a_unit_a_list_that_reads_nothing_proves_nothing() -> None:
    made = Installed("one")
    made.fails = lambda command: command == "install two x"
    bad = step("run", id="bad", run="install two x")
    back = step("run", id="rollback.run", run=f"install one {OLD}")
    looks = step("run", id="rollback.looks", run=f"install one {OLD}", **{"read-only": True})
    book: dict[str, Any] = {"unit": None, "port": ()}
    status, exit_status, reason, _ = carry_out(made, *_book("one"), bad, rollback=(back,), **book)
    assert (status, exit_status) == ("failed", 1)
    assert "the steps of `rollback` were carried out, but no check proved that the previous version serves" in reason
    made.machine.answers[f"install one {OLD}"] = [Answer(True, "exited with status 0")]
    assert carry_out(made, *_book("one"), bad, rollback=(back, looks), **book)[0] == "rolled-back"
    # No process serves, and the update itself proves which version is installed.
    assert carry_out(made, *_book("one"), bad, **book)[0] == "rolled-back"


def test_it_ends_at_an_update_that_cannot_be_undone_and_reports_how_far_it_came() -> None:
    made = Installed("one", "two", "three")
    made.fails = lambda command: command == f"install two {OLD}"
    end, _ = run(made.machine, *_book("one", "two", "three"), step("restart"), rollback="auto")
    assert (str(end.status), end.step, end.after) == (
        "failed",
        "rollback.two",
        {"step": "restart", "verdict": "job-failed"},
    )
    told = f"one was not taken back to {OLD}, two is at {NEW}, not back at {OLD}, three is back at {OLD}"
    assert end.back == told
    assert end.hint == f"install {OLD} by hand, then systemctl reset-failed gw.service and systemctl restart gw.service"


def test_an_earlier_version_that_still_starts_is_left_alone() -> None:
    made = Installed("one")
    check = step("wait-ready", port="81", timeout="1s", **{"healthy-for": 0})
    end, _ = run(made.machine, *_book("one"), step("restart"), check, rollback="auto")
    assert (str(end.status), end.exit, end.step) == ("still-starting", 3, "rollback.wait-ready")
    assert end.back == f"one is back at {OLD}"
    assert made.versions == {"one": OLD}


def somebody_stops(machine: FakeMachine, name: str) -> JobResult:
    machine.kill(100)
    down: dict[str, Any] = {"active_state": ActiveState.INACTIVE, "sub_state": "dead", "main_pid": 0}
    machine.units[name] = unit(**down)
    return JobResult.CANCELED


def test_a_stop_by_another_requester_is_not_overridden() -> None:
    made = Installed("one")
    made.machine.on_job = {"restart": somebody_stops}
    end, events = run(made.machine, *_book("one"), step("restart"), rollback="auto")
    assert (str(end.status), end.exit, end.verdict) == ("failed", 1, "job-canceled")
    assert end.back == "gw.service was stopped by something else, which is not overridden, so nothing was rolled back"
    assert (made.versions, undone(events)) == ({"one": NEW}, [])
    assert made.machine.units["gw.service"].active_state is ActiveState.INACTIVE


def test_whose_stop_is_not_overridden() -> None:
    made = Installed("one")
    stop = JobRequest(7, (Requester(70, ("systemctl", "stop", "gw"), "root"),))

    def stops(machine: FakeMachine, name: str) -> JobResult:
        result = somebody_stops(machine, name)
        machine.units[name] = replace(machine.units[name], job_requests=(stop,))
        return result

    made.machine.on_job = {"restart": stops}
    end, _ = run(made.machine, *_book("one"), step("restart"), rollback="auto")
    assert end.back.startswith(
        "gw.service was stopped by something else (PID 70 `systemctl stop gw` as root), which is not"
    )


@pytest.mark.parametrize(("others", "ended"), [((), "rolled-back"), ((8,), "failed"), ((6,), "failed")])
def test_a_stop_by_a_command_of_the_run_is_its_own(others: tuple[int, ...], ended: str) -> None:
    """It does not prevent the rollback, but a stop by another requester does. The own stop is job 7."""
    made = Installed("one")
    restarts = made.machine.on_job["restart"]
    own = Requester(70, ("systemctl", "stop", "gw"), "root", is_own=True)
    theirs = tuple(JobRequest(job, (own._replace(is_own=False),)) for job in others)
    asked = tuple(sorted((JobRequest(7, (own,)), *theirs), key=lambda one: one.job))

    def stops(machine: FakeMachine, name: str) -> JobResult | None:
        if NEW not in made.versions.values():
            return restarts(machine, name)
        result = somebody_stops(machine, name)
        machine.units[name] = replace(machine.units[name], job_requests=asked)
        return result

    made.machine.on_job = {"restart": stops}
    assert carry_out(made, *_book("one"), step("restart"))[0] == ended


def test_nor_is_one_that_a_fix_came_upon() -> None:
    made = Installed("one")
    made.machine.on_job = {"restart": somebody_stops}
    mends = remediate(step("verify-port-owner", port="81"), fix=(step("restart"),))
    end, events = run(made.machine, *_book("one"), mends, rollback="auto")
    assert (str(end.status), end.verdict) == ("failed", "not-fixed")
    assert end.back == "gw.service was stopped by something else, which is not overridden, so nothing was rolled back"
    assert end.hint.startswith("find out who else acts on gw.service")
    assert not undone(events)


def test_a_restart_by_another_requester_does_not_prevent_the_rollback() -> None:
    made = Installed("one")
    starts = made.machine.on_job["restart"]
    taken: dict[str, Any] = {
        "restart": lambda machine, name: JobResult.CANCELED if NEW in made.versions.values() else starts(machine, name)
    }
    made.machine.on_job = taken
    assert carry_out(made, *_book("one"), step("restart"))[0] == "rolled-back"


def test_a_unit_whose_process_survives_is_not_rolled_back() -> None:
    made = Installed("one")
    made.machine.units["web.service"] = unit("web.service", control_group="/system.slice/web.service", main_pid=300)
    starts = made.machine.on_job["restart"]

    def spares(machine: FakeMachine, name: str) -> JobResult | None:
        if name == "gw.service":
            return starts(machine, name)
        now = int(machine.clock.monotonic() * 1e6)
        web = {"control_group": "/system.slice/web.service", "main_pid": 301}
        machine.units[name] = unit(
            name, **web, invocation_id="b" * 32, inactive_exit_monotonic=now, exec_main_start_monotonic=now
        )
        for pid, started in ((300, 950.0), (301, machine.clock.monotonic())):
            machine.processes[pid] = process(pid, cgroup="/system.slice/web.service", started=started)
        return JobResult.DONE

    made.machine.on_job = {"restart": spares, "reload": lambda machine, name: JobResult.DONE}
    made.machine.units["web.service"] = replace(made.machine.units["web.service"], can_reload=True)
    steps = [step("reload", unit="web.service"), step("restart"), step("verify-port-owner")]
    end, events = run(made.machine, *_book("one"), *steps, rollback="auto")
    assert (str(end.status), end.exit, end.step, end.verdict) == ("failed", 1, "rollback.proof", "old-code-serving")
    assert "web.service: PID 300 (gateway) started before the files were restored" in end.reason
    assert end.hint == "systemctl restart web.service"
    assert ("rollback.restart-2", "changed", "job-done") in undone(events)


def test_a_unit_that_does_not_start_keeps_no_other_from_coming_back() -> None:
    made = Installed("one")
    made.machine.units["web.service"] = unit("web.service", control_group="/system.slice/web.service", main_pid=0)
    starts = made.machine.on_job["restart"]

    def refuses(machine: FakeMachine, name: str) -> JobResult | None:
        return starts(machine, name) if name == "gw.service" else JobResult.FAILED

    made.machine.on_job = {"restart": refuses}
    made.machine.units["db.service"] = unit("db.service", control_group="/system.slice/db.service")
    passed_over = {"on-failure": "continue"}
    steps = [
        step("restart", unit="web.service", **passed_over),
        step("restart", id="restart-2"),
        step("verify-port-owner", unit="db.service", **passed_over),
    ]
    end, events = run(made.machine, *_book("one"), *steps, rollback="auto")
    assert (str(end.status), end.step) == ("failed", "rollback.restart")
    assert ("rollback.restart-2", "changed", "job-done") in undone(events)
    assert not any(name.startswith("rollback.wait-ready") for name, _, _ in undone(events))
    assert ("rollback.restart-3", "failed", "job-failed") in undone(events)
    assert end.back == f"one is back at {OLD}; not proved to run it: db.service"


def test_a_rollback_whose_units_are_not_known_is_not_proved(monkeypatch: pytest.MonkeyPatch) -> None:
    made = Installed("one")

    def lost() -> tuple[str, ...]:
        raise BusLost("the bus is gone")

    monkeypatch.setattr(made.machine, "list_services", lost)
    end, _ = run(made.machine, *_book("one"), step("restart"), step("verify-port-owner"), rollback="auto")
    assert (str(end.status), end.step) == ("failed", "rollback.proof")
    assert "which units the commands of this run restarted is not known: the bus is gone" in end.reason


def test_nothing_is_swapped_beside_a_command_that_could_not_be_stopped() -> None:
    made = Installed("one")
    made.machine.running = ("runbook-run-1-one.service", "runbook-another-one.service")
    end, events = run(made.machine, *_book("one"), step("restart"), rollback="auto")
    assert (str(end.status), end.exit) == ("failed", 1)
    assert end.back == (
        "the command in runbook-run-1-one.service could not be stopped, so nothing was rolled back beside it"
    )
    assert not undone(events)


def test_what_would_start_the_unit_is_up_again() -> None:
    """If systemd does not start a service any more, its socket fails too."""
    made = Installed("one")
    starts = made.machine.on_job["restart"]

    def falls(machine: FakeMachine, name: str) -> JobResult | None:
        result = starts(machine, name)
        if result is JobResult.FAILED:
            for one in ("gw.path", "gw.socket"):
                machine.units[one] = replace(machine.units[one], active_state=ActiveState.FAILED)
        machine.units["gw.service"] = replace(machine.units["gw.service"], triggered_by=("gw.path", "gw.socket"))
        return result

    made.machine.units["gw.service"] = unit(triggered_by=("gw.path", "gw.socket"))
    made.machine.units["gw.socket"] = replace(unit(), name="gw.socket", main_pid=0, sub_state="listening")
    made.machine.units["gw.path"] = replace(made.machine.units["gw.socket"], name="gw.path", sub_state="waiting")
    made.machine.on_job = {"restart": falls}
    status, _, _, _ = carry_out(made, *_book("one"), step("restart"), step("verify-port-owner"))
    assert status == "rolled-back"
    # The socket comes first: a path may start the service at once, and then systemd opens none.
    assert made.machine.written[-5:] == [
        "command install one 1.0.0",
        "reset-failed gw.service",
        "start gw.socket",
        "start gw.path",
        "restart gw.service",
    ]
    assert made.machine.units["gw.socket"].active_state is ActiveState.ACTIVE


def busy(made: Installed, socket: ActiveState) -> None:
    """Let a socket start the unit again after each stop, because connections wait."""
    made.machine.units["gw.service"] = unit(triggered_by=("gw.socket",))
    made.machine.units["gw.socket"] = replace(unit(), name="gw.socket", main_pid=0, sub_state="listening")
    starts = made.machine.on_job["restart"]

    def again(machine: FakeMachine, name: str) -> JobResult | None:
        result = starts(machine, name)
        machine.units[name] = replace(machine.units[name], triggered_by=("gw.socket",))
        if result is JobResult.FAILED:
            # The next connection starts it again.
            machine.units[name] = replace(machine.units[name], active_state=ActiveState.ACTIVATING)
            machine.units["gw.socket"] = replace(machine.units["gw.socket"], active_state=socket)
        return result

    made.machine.on_job = {"restart": again, "start": again, "stop": again}


def test_a_busy_socket_keeps_no_version_from_coming_back() -> None:
    made = Installed("one")
    busy(made, ActiveState.ACTIVE)
    made.machine.on_job["start"] = lambda machine, name: JobResult.DONE
    status, _, reason, events = carry_out(made, *_book("one"), step("restart"), step("verify-port-owner"))
    assert status == "rolled-back", reason
    assert "rollback.stop" not in [name for name, _, _ in undone(events)]


def test_the_rollback_continues_if_something_else_starts_the_unit_again() -> None:
    made = Installed("one")
    busy(made, ActiveState.FAILED)
    starts = made.machine.on_job["start"]

    def opens(machine: FakeMachine, name: str) -> JobResult | None:
        if name != "gw.socket":
            return starts(machine, name)
        up = replace(machine.units[name], active_state=ActiveState.ACTIVE, invocation_id="opened")
        machine.units[name] = up
        return JobResult.DONE

    made.machine.on_job["start"] = opens
    status, _, reason, events = carry_out(made, *_book("one"), step("restart"), step("verify-port-owner"))
    assert status == "rolled-back", reason
    assert ("rollback.stop", "failed", "unit-changed") in undone(events)
    assert ("rollback.start", "changed", "job-done") in undone(events)


def test_a_version_that_exits_on_its_reload_is_rolled_back() -> None:
    """Here `unit-changed` means that systemd started the unit again, and not that another requester stopped it."""
    made = Installed("one", broken=False)

    def dies(machine: FakeMachine, name: str) -> JobResult:
        machine.units[name] = replace(unit(), invocation_id="another", active_state=ActiveState.INACTIVE, main_pid=0)
        return JobResult.DONE

    made.machine.units["gw.service"] = unit(can_reload=True)
    made.machine.on_job["reload"] = dies
    end, _ = run(made.machine, *_book("one"), step("reload"), step("verify-port-owner"), rollback="auto")
    assert (str(end.status), end.verdict) == ("rolled-back", "unit-changed")


@pytest.mark.parametrize(
    ("state", "job_type", "stopped"),
    [
        (ActiveState.INACTIVE, "", True),
        (ActiveState.DEACTIVATING, "stop", True),
        (ActiveState.DEACTIVATING, "restart", False),
        (ActiveState.DEACTIVATING, "", False),
        (ActiveState.FAILED, "", False),
    ],
)
def test_which_states_are_a_stop_by_another_requester(state: ActiveState, job_type: str, stopped: bool) -> None:
    made = Installed("one")
    failed = Outcome("verify-port-owner", "verify-port-owner", StepStatus.FAILED, Verdict.UNIT_CHANGED, "so")
    book = Runbook.model_validate({"unit": "gw", "port": "80", "steps": [step("verify-port-owner")], "path": "x.yaml"})
    made.machine.units["gw.service"] = unit(active_state=state, job_type=job_type)
    assert (_find_stop_by_another(made.machine, book, failed) is not None) == stopped


def verifies(name: str, expect: str) -> Step[Any]:
    return step("verify-version", id=f"v{name}", run=f"ask {name}", expect=expect)


def notices(events: list[Event]) -> list[str]:
    return [event.data["text"] for event in events if event.event == "notice"]


@pytest.mark.parametrize("expect", ["5.0.0", "${{ steps.two.to }}"])
def test_the_version_of_an_update_that_never_ran_is_not_asked_for(expect: str) -> None:
    made = Installed("one", "two")
    made.machine.answers["ask one"] = [Answer(True, "", OLD)]
    made.machine.answers["ask two"] = [Answer(True, "", "4.0.0")]
    one, two = _book("one", "two")
    fails = step("restart")
    later = two.model_copy(update={"to": "5.0.0"})
    steps = [one, fails, later, verifies("one", NEW), verifies("two", expect)]
    status, _, reason, events = carry_out(made, *steps)
    assert status == "rolled-back", reason
    ids = [name for name, _, _ in undone(events)]
    names = ["one", "reset-failed", "restart", "wait-ready", "vone", "proof"]
    assert ids == [f"rollback.{name}" for name in names]
    assert notices(events) == [
        "vtwo is left out of the rollback: which version was there before two is not known",
    ]


def test_a_version_with_two_earlier_ones_is_not_asked_for() -> None:
    made = Installed("one", "two")
    made.versions["two"] = "0.9.0"
    made._tell()
    status, _, reason, events = carry_out(made, *_book("one", "two"), step("restart"), verifies("one", NEW))
    assert status == "rolled-back", reason
    assert notices(events) == [
        "vone is left out of the rollback: which version was there before one and two is not known",
    ]


def test_a_version_that_was_there_already_is_still_asked_for() -> None:
    made = Installed("one", "two")
    made.versions["two"] = "5.0.0"
    made._tell()
    made.machine.answers["ask two"] = [Answer(True, "", "5.0.0")]
    one, two = _book("one", "two")
    steps = [one, two.model_copy(update={"to": "5.0.0"}), step("restart"), verifies("two", "5.0.0")]
    status, _, reason, events = carry_out(made, *steps)
    assert status == "rolled-back", reason
    assert ("rollback.vtwo", "ok", "version-ok") in undone(events)


def test_a_check_that_names_the_new_version_itself_asks_as_it_is_written() -> None:
    made = Installed("one")
    asks = step("run", run=f"check --expect {NEW}", **{"read-only": True})
    made.machine.answers[f"check --expect {NEW}"] = [Answer(False, "exited with status 1")]
    status, _, reason, events = carry_out(made, *_book("one"), remediate(asks, fix=(step("restart"),)))
    assert status == "failed"
    assert f"the rollback failed at rollback.run: `check --expect {NEW}` exited with status 1" in reason
    assert notices(events) == [f"rollback.run names {NEW} in its `run`: this is not replaced by {OLD}"]
