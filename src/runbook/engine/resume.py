"""Resumes a run that was interrupted, or that ended while a unit was still starting; or abandons it for good."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from contextlib import ExitStack
from typing import Any

from runbook.engine.execution.outcome import Outcome
from runbook.engine.execution.replay import BY_OPERATOR, ResumeState
from runbook.engine.execution.stream import Sink
from runbook.engine.launch import Launch, RunRequest, open_event_stream, refuse_running_commands
from runbook.engine.rollback_plan import RollbackPlan
from runbook.errors import HostError, NotBegun, UsageError
from runbook.events import Event, Payload, RunAbandoned, RunFinished, RunSuperseded, StepFinished, StepRerun
from runbook.host.facts import DOWN
from runbook.host.interface import Host, HostView, Waiter
from runbook.model import StepStatus, SystemClock, frozen
from runbook.records import history, store
from runbook.records.history import RunRecord
from runbook.spec.runbook import Runbook
from runbook.spec.state import RunState
from runbook.spec.step import Step
from runbook.util.secrets import MASK
from runbook.util.wording import join_words, suggest

BEGIN_ANEW = "runbook apply begins anew"  # the hint if a run cannot be resumed at all


@frozen
class ResumeOptions:
    """What the operator decides about steps whose outcome is unknown."""

    rerun: tuple[str, ...] = ()  # ids of steps to carry out again
    skip: tuple[str, ...] = ()  # ids of steps to take as done


def resume_run(
    run: RunRecord,
    book: Runbook,
    request: RunRequest,
    options: ResumeOptions,
    host: Host,
    waiter: Waiter,
    sinks: Iterable[Sink],
) -> RunFinished:
    """Continue a run. Raises as `start_run` does, NotBegun if it cannot be resumed, and UsageError."""
    require_resumable(run)
    with ExitStack() as held:
        launch = Launch(book, request, host, waiter, tuple(sinks), held)
        locks = launch.take_locks()
        length = run.folder.measure()
        run = history.find_run(run.id)  # The process that had the lock may have superseded it.
        require_resumable(run)
        refuse_running_commands(launch.units, host, run.id)
        locks.write_holder(run.id, request.user)
        launch.open_events(run.folder)
        if run.folder.measure() != length:
            raise _cannot_resume(run, "another process has resumed it at this moment", hint="")
        resume_state = _load_resume_state(run)
        decisions = _make_operator_events(run, book, resume_state, options)
        for payload in decisions:
            resume_state.add(Event.of(SystemClock().now(), run.id, payload))
        state = launch.make_state(run.folder)
        _require_known_outcomes(run, book, resume_state, host, state)
        for payload in decisions:
            launch.events.emit(payload)
        # Its program may have been killed before all runs that it superseded were closed.
        return launch.run(state, resume_state, supersedes_until=run.header.began)


def abandon(run: RunRecord) -> None:
    """Close a run so that it can never be resumed. Raises NotBegun if it is in progress, or has ended."""
    require_resumable(run)
    with ExitStack() as held:
        open_event_stream(run.folder, held).emit(RunAbandoned())


def require_resumable(run: RunRecord) -> None:
    """Raise NotBegun with the reason if a run cannot be resumed."""
    if why := _find_obstacle(run):
        raise _cannot_resume(run, why, f"runbook show --follow {run.id} watches it" if run.is_running else BEGIN_ANEW)


def _cannot_resume(run: RunRecord, why: str, hint: str = BEGIN_ANEW) -> NotBegun:
    return NotBegun(f"cannot resume {run.id}: {why}", hint=hint)


def _find_obstacle(run: RunRecord) -> str:
    closing = run.digest.closing.payload if run.digest.closing is not None else None
    if run.is_running:
        return "it is in progress"
    if isinstance(closing, RunSuperseded):
        return f"a later run, {closing.by}, has acted on {closing.unit} since"
    if closing is not None:
        return "it was abandoned"
    if run.incomplete_reason:
        lost = "" if run.digest.finished is not None else ": its last actions are not known"
        return f"its record is incomplete ({run.incomplete_reason}){lost}"
    return "" if run.is_resumable else f"it has ended: {run.status}"


def restore_environment(run: RunRecord, env: Mapping[str, str]) -> dict[str, str]:
    """Return the environment for a resumed run: what it began with, with the secrets from `env`.

    Raises NotBegun if a secret is missing.
    """
    for name in run.header.withheld:
        if name in run.header.sets:
            raise _cannot_resume(run, f"--set {name} contained a secret, which is not recorded")
        if name not in env:
            hint = "it contains a secret, which is not recorded: set it as it was for the run"
            raise _cannot_resume(run, f"{name} is not set", hint)
    return {**env, **run.header.env}


def _make_operator_events(
    run: RunRecord, book: Runbook, resume_state: ResumeState, options: ResumeOptions
) -> list[Payload]:
    """Return the events for the options of the operator. Raises UsageError if there is no such step."""
    steps = _map_steps(book, resume_state)
    for name in (*options.rerun, *options.skip):
        if name not in steps:
            raise UsageError(f"no step has the id `{name}`", hint=_suggest_step(name, steps, run.id))
    events: list[Payload] = [StepRerun(id=name) for name in options.rerun]
    for name in options.skip:
        reason, evidence = "skipped by the operator", {BY_OPERATOR: True}
        skipped = Outcome(name, steps[name].type_name, StepStatus.SKIPPED, None, reason, evidence=evidence)
        events.append(StepFinished(**skipped.facts()))
    return events


def _suggest_step(name: str, steps: Iterable[str], run: str) -> str:
    """Return the ids that were probably meant: those of nested steps begin with the ids of the outer ones."""
    ends = [one for one in steps if one.endswith(f".{name}")]
    near = join_words(ends) if ends else suggest(name, steps).partition("did you mean ")[2].removesuffix("?")
    return f"{f'did you mean {near}? ' if near else ''}runbook show {run} lists the ids"


def _map_steps(book: Runbook, resume_state: ResumeState) -> dict[str, Step[Any]]:
    """Return the steps of the runbook and of its rollback, by their ids."""
    rollback = RollbackPlan.build(book, resume_state.plan_events).steps
    return {step.step_id: step for step in (*book.walk(), *rollback)}


def _load_resume_state(run: RunRecord) -> ResumeState:
    """Replay what earlier parts did. Raises NotBegun if another version wrote the record in another form."""
    try:
        return ResumeState.from_events(run.read(), run.header.boot)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise _cannot_resume(run, f"its record cannot be read; runbook {run.header.version} wrote it") from error


def _require_known_outcomes(
    run: RunRecord, book: Runbook, resume_state: ResumeState, host: Host, state: RunState
) -> None:
    """Note what the boot undid. Raises NotBegun if the operator must decide about a step first."""
    steps = _map_steps(book, resume_state)
    try:
        unknown = _find_unknown_step(steps, resume_state, host, state) or _find_withheld_result(book, resume_state)
        resume_state.undone_by_boot = find_undone_by_boot(host, steps, resume_state, store.boot_id())
    except HostError as error:
        raise _cannot_resume(run, error.message, error.hint) from error
    except ValueError as error:
        why = f"its record is of another version of this program, {run.header.version}"
        raise _cannot_resume(run, why) from error
    if unknown:
        name, why = unknown
        hint = f"look what it left, then: runbook resume {run.id} --rerun {name}, or --skip {name}"
        raise _cannot_resume(run, why, hint)


def _find_unknown_step(
    steps: Mapping[str, Step[Any]], resume_state: ResumeState, host: Host, state: RunState
) -> tuple[str, str] | None:
    """Return the first step whose outcome is unknown, and why; None if there is none."""
    for name, step in steps.items():
        partial = resume_state.find_partial(name) if step.remedy() is None else None
        if partial and (why := step.resume(host, step.new_state(state, partial.state), stopped=partial.stopped)):
            return name, why
    return None


def _find_withheld_result(book: Runbook, resume_state: ResumeState) -> tuple[str, str] | None:
    """Return the first step with a result that a later step uses and that is not recorded, because it has a secret."""
    for name, outcome in resume_state.finished.items():
        for fact, text in outcome.template_facts().items():
            if MASK in text and f"steps.{name}.{fact}" in book.text:
                why = f"the result of {name} contains a secret, which is not recorded"
                return name, f"{why}, and a later step uses steps.{name}.{fact}"
    return None


def find_undone_by_boot(view: HostView, steps: Mapping[str, Step[Any]], done: ResumeState, boot: str) -> dict[str, str]:
    """Return the steps that ended on an earlier boot and whose result this boot undid, each with a sentence.

    A file that was changed survives a boot; a unit that was started or stopped may not. All steps that began count: if
    one step started a unit and a later one stopped it, the unit must be down. Steps that failed, or that the operator
    skipped, are not repeated, but what they were to leave counts as well. Raises HostError.
    """
    held = {name for name, outcome in done.finished.items() if outcome.status in (StepStatus.OK, StepStatus.CHANGED)}
    tried = {name for name, outcome in done.finished.items() if outcome.failed} | done.skipped_by_operator
    begun = [name for name in done.finished if name in held | tried] + [*done.in_progress]
    names = [name for name in begun if name in steps]
    found: dict[str, str] = {}
    for at, name in enumerate(names):
        if name in held and done.boot_of_step.get(name, boot) != boot and done.find_kept_outcome(steps[name]):
            since = [steps[one] for one in names[at:]]
            reasons = [why for unit in since[0].units() if (why := _describe_undone_by_boot(view, unit, since))]
            found |= {name: "; ".join(reasons)} if reasons else {}
    return found


def _describe_undone_by_boot(view: HostView, name: str, steps: list[Step[Any]]) -> str:
    """Return a sentence if a unit is not in the state that the first step left, and the later ones did not change."""
    unit = view.unit(name)
    first = expected = steps[0].predict(unit)
    for step in steps[1:]:
        if unit.name in {view.unit(one).name for one in step.units()}:
            expected = step.predict(expected)
    is_down, was_down, should = (one.active_state in DOWN for one in (unit, first, expected))
    # A unit that ran on this boot, and failed or was stopped, is judged by the checks.
    if is_down == was_down or was_down != should or (is_down and unit.inactive_enter_monotonic):
        return ""
    return f"{unit.name} is {unit.describe()} since the boot"
