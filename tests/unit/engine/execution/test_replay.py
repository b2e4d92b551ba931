"""Runs on a machine made of data that are cut short after each of their events, and resumed."""

from __future__ import annotations

import signal
from pathlib import Path

import pytest

from runbook.engine.execution.outcome import Outcome
from runbook.engine.execution.replay import BY_OPERATOR, ResumeState
from runbook.engine.execution.stream import EventStream
from runbook.engine.runner import Runner
from runbook.errors import BusTimeout, Interrupted, NotBegun
from runbook.events import Event, RunFinished, RunResumed, RunStarted, StepActing, StepFinished
from runbook.host.facts import ActiveState, JobRef, JobResult, Unit
from runbook.host.queries import Answer, CommandResult
from runbook.model import FindingState, StepStatus
from runbook.spec.runbook import Runbook
from runbook.spec.state import RunState
from tests.unit.fake_machine import FakeMachine, unit
from tests.unit.runs import FIX, finished, incident, remediate, step


class Cut(BaseException):
    """The program is killed here, as by SIGKILL, without any cleanup."""


def book() -> Runbook:
    """Make the runbook of the incident, with a command among its fixes."""
    steps = (
        step("update", run="install app", version="app --version", to="1.1.0"),
        step("restart", **{"on-failure": "continue"}),
        remediate(step("wait-ready"), step("verify-port-owner"), fix=(*map(step, FIX), step("run", run="warm up"))),
        step("run", id="tell", run="tell people"),
    )
    return Runbook.model_validate({"unit": "gw.service", "port": "80", "steps": steps, "path": "x.yaml"})


def machine() -> FakeMachine:
    """Make the machine of the incident. The command of the update installs the version."""
    made = incident()
    made.answers["app --version"] = [Answer(True, "", "1.0.0")]

    def command(made: FakeMachine, command: object) -> CommandResult:
        if "install" in str(command):
            made.answers["app --version"] = [Answer(True, "", "1.1.0")]
        return CommandResult("success", 0)

    made.on_command = command
    return made


def part(
    made: FakeMachine, before: list[Event], die_after: int | None = None
) -> tuple[RunFinished | None, list[Event]]:
    """Begin or resume the run, until it ends or is killed after `die_after` events of this part."""
    told: list[Event] = []

    def sink(event: Event) -> None:
        told.append(event)
        if len(told) == die_after:
            raise Cut

    events = EventStream("run-1", made.clock, (sink,))
    state = RunState("run-1", Path("/srv"), outputs=Path("/out"))
    runner = Runner(book(), made, made, events, state, resume_state=ResumeState.from_events(before))
    try:
        return runner.run(), told
    except Cut:
        return None, told


def events_in_all() -> int:
    return len(part(machine(), [])[1])


@pytest.mark.parametrize("n", range(1, events_in_all()))
def test_cut_after_any_event_it_ends_the_same(n: int) -> None:
    """Wherever the run is cut short, the command of the update runs once, and the end is the same."""
    whole, _ = part(machine(), [])
    assert whole is not None
    made = machine()
    begun = made.start_command

    def begin_command(name: str, command: object) -> JobRef:
        ref = begun(name, command)  # type: ignore[arg-type]
        made.found_commands[name] = ref
        return ref

    made.start_command = begin_command  # type: ignore[method-assign]
    end, before = part(made, [], die_after=n)
    assert end is None
    unknown = _unknown(made, before)
    if unknown:
        # Killed after it recorded its intent and before the answer: this machine has then begun nothing.
        assert unknown not in made.found_commands
        before.append(Event(0.0, "run-1", "step-rerun", {"id": unknown}))
    end, after = part(made, before)
    assert end is not None
    assert (end.status, end.exit) == (whole.status, whole.exit)
    for command in ("install app", "warm up", "tell people"):
        assert made.written.count(f"command {command}") == 1, made.written
    proved = [name for name, _, _ in finished(after)]
    assert "remediate.check.verify-port-owner" in proved


def _unknown(made: FakeMachine, before: list[Event]) -> str:
    """Return the step whose command was about to begin according to the record, and left no trace."""
    done = ResumeState.from_events(before)
    for one in book().walk():
        if (cut := done.find_partial(one.step_id)) is not None and one.remedy() is None:
            state = one.new_state(RunState("run-1", Path("/srv"), outputs=Path("/out")), cut.state)
            if one.resume(made, state, stopped=cut.stopped):
                return one.step_id
    return ""


def test_a_step_that_an_operator_skips_is_skipped_also_if_it_only_reads() -> None:
    def skipped(**evidence: bool) -> Event:
        outcome = Outcome("wait-ready", "wait-ready", StepStatus.SKIPPED, None, "", evidence=evidence)
        return Event.of(0.0, "run-1", StepFinished(**outcome.facts()))

    assert ResumeState.from_events([skipped(**{BY_OPERATOR: True})]).find_kept_outcome(step("wait-ready")) is not None
    assert ResumeState.from_events([skipped()]).find_kept_outcome(step("wait-ready")) is None


def test_an_update_that_was_stopped_after_it_had_done_its_work_has_changed_something() -> None:
    """A step that runs only if the update changed something must run after the resume, too."""
    made = machine()

    def stopped(made: FakeMachine, command: object) -> CommandResult:
        made.answers["app --version"] = [Answer(True, "", "1.1.0")]
        raise Interrupted(signal.SIGTERM)

    finishes, made.on_command = made.on_command, stopped
    end, before = part(made, [])
    assert end is not None
    assert (end.status, end.exit) == ("interrupted", 143)
    assert end.reason == "interrupted by SIGTERM at update, which was stopped half way"
    assert end.hint == "runbook resume run-1 goes on from there"
    made.on_command = finishes
    made.asked.clear()
    _, after = part(made, before)
    assert ("update", "changed", "updated") in finished(after)
    [told] = [e.data for e in after if e.event == "step-finished" and e.data["id"] == "update"]
    assert (told["reason"], told["evidence"]["from"]) == ("1.0.0 -> 1.1.0", "1.0.0")


def test_a_job_that_was_lost_is_asked_for_anew_and_one_that_was_done_is_not() -> None:
    made = machine()
    restart = step("restart")
    state = restart.new_state(RunState("run-1", Path("/srv")))
    restart.apply(made, state)
    asked = state.job
    made.jobs[asked.path] = JobResult.GONE
    restart.resume(made, state, stopped=False)
    assert state.job == asked
    state.invocation = made.units["gw.service"].invocation_id  # As if no other invocation had begun since.
    restart.resume(made, state, stopped=False)
    assert state.job is None


@pytest.mark.parametrize("answered", [True, False])
def test_a_unit_that_the_boot_left_down_was_not_restarted(answered: bool) -> None:
    """After a boot the unit has no invocation at all, which is another one than before, but no new one."""
    made = machine()
    restart = step("restart")
    state = restart.new_state(RunState("run-1", Path("/srv")))
    restart.apply(made, state)
    made.jobs[state.job.path] = JobResult.GONE
    if not answered:
        state.job, state.request_unanswered = None, True
    made.units["gw.service"] = unit(active_state=ActiveState.INACTIVE, sub_state="dead", main_pid=0, invocation_id="")
    restart.resume(made, state, stopped=False)
    assert restart.check(made, state).state is FindingState.TO_DO


def test_a_run_that_cannot_be_resumed_now_can_be_resumed_later() -> None:
    made = machine()
    _, before = part(made, [], die_after=12)

    def no_answer(name: str, *, max_age: float = 0.0) -> Unit:
        raise BusTimeout("cannot read gw.service: it did not answer in time")

    made.unit = no_answer  # type: ignore[method-assign]
    with pytest.raises(NotBegun, match="did not answer"):
        part(made, before)


def test_what_the_run_remembers_of_its_starts_lasts() -> None:
    """The automatic restarts are counted from the start that the first part of the run requested."""
    made = machine()
    whole, told = part(made, [])
    assert whole is not None
    kept = ResumeState.from_events(told).run_state
    state = RunState("run-1", Path("/srv"))
    state.load(kept)
    assert state.baseline_restarts == {"gw.service": 0}
    assert state.invocations == {"gw.service": made.units["gw.service"].invocation_id}
    assert state.cleared.keys() == {"gw.service"}


def test_a_rollback_is_planned_from_the_first_event_of_each_step_and_status() -> None:
    def acting(version: str) -> Event:
        payload = StepActing(id="update", type="update", reason="", evidence={"from": version, "to": "2"})
        return Event.of(0.0, "run-1", payload)

    def ended(status: str) -> Event:
        outcome = Outcome("update", "update", StepStatus(status), None, "")
        return Event.of(0.0, "run-1", StepFinished(**outcome.facts()))

    first, again, failed, changed = acting("1"), acting("1.5"), ended("failed"), ended("changed")
    waiting = Event(0.0, "run-1", "notice", {"text": "x"})
    state = ResumeState.from_events([first, waiting, failed, again, ended("failed"), changed])
    assert state.plan_events == (first, failed, changed)


def test_the_part_with_which_the_present_boot_began() -> None:
    parts = [(1.0, RunStarted()), (2.0, RunResumed(boot="a")), (3.0, RunResumed(boot="b")), (4.0, RunResumed(boot="b"))]
    events = [Event.of(at, "run-1", payload) for at, payload in parts]
    for count, since in enumerate((0.0, 0.0, 3.0, 3.0), 1):
        assert ResumeState.from_events(events[:count], "a").boot_since == since
