"""The end of a run for people: what runs now, and what to do next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from shlex import quote
from typing import Any

from runbook.checks.log_files import describe_discarded, describe_log_command
from runbook.checks.pid_file import is_pid_file_lost
from runbook.checks.requirements import FailedRequirement, find_failed_requirements
from runbook.engine.execution.outcome import Outcome
from runbook.engine.execution.replay import ROLLBACK_PREFIX
from runbook.engine.other_manager import describe_other_manager
from runbook.errors import HostError, Interrupted
from runbook.events import Event, EventName, StepActing
from runbook.host.exit_status import EXIT_EXEC, describe_exec_failure
from runbook.host.facts import UNLOADABLE, JobVerb, LoadState, Unit
from runbook.host.holders import Role
from runbook.host.interface import SHARED_READ_AGE, HostView, Waiter
from runbook.host.queries import JournalLine, JournalTailQuery, Query
from runbook.model import Deadline, Port, Verdict, Wake
from runbook.spec.runbook import Runbook
from runbook.spec.state import RunState
from runbook.spec.step import ReplacesVersion, Step

_WHY_IT_ENDED = "{log} shows why"
_WRONG_FILE = "systemd-analyze{user} verify {unit} shows what is wrong with its file"
_THEN = "then {systemctl} reset-failed {unit} and {systemctl} restart {unit}"
_END_IT = f"kill it by hand if it is not needed, {_THEN}"
_WHO_ACTS = "find out who else acts on {unit}: {systemctl} list-jobs shows jobs, {journalctl} -u {unit} earlier ones"
_CORRECT = "correct what its output shows, then run this again"
_ASK_THEM = "agree with the requester named there on what {unit} is to do, then run this again"

ADVICE: Mapping[Verdict, str] = {
    Verdict.NOT_LISTENING: "ss -tlnp shows where {unit} listens instead, {log} its log",
    Verdict.ORPHAN_HOLDS_PORT: "a `remediate` step with kill-orphan as a fix solves this",
    Verdict.LEFTOVER_HOLDS_PORT: "a `remediate` step with kill-orphan as a fix solves this",
    Verdict.OTHER_UNIT_HOLDS_PORT: "stop that service, or give one of the two another port",
    Verdict.STILL_STARTING: "{again}; {follow} shows what it is doing",
    Verdict.CRASH_LOOP: _WHY_IT_ENDED,
    Verdict.START_LIMIT_HIT: f"{_WHY_IT_ENDED} it ended; {{systemctl}} reset-failed {{unit}} then lets it start again",
    Verdict.UNIT_FAILED: _WHY_IT_ENDED,
    Verdict.UNIT_EXITED: _WHY_IT_ENDED,
    Verdict.CONDITION_NOT_MET: "{systemctl} status {unit} names the condition",
    Verdict.UNIT_MASKED: "if it may run again, {systemctl} unmask {unit}",
    Verdict.UNIT_NOT_FOUND: "{systemctl} list-unit-files shows what there is",
    Verdict.UNIT_CHANGED: _WHO_ACTS,
    Verdict.UNIT_FROZEN: "find out why it does not run before you let it: {systemctl} status {unit}",
    Verdict.JOB_FAILED: _WHY_IT_ENDED,
    Verdict.JOB_TIMEOUT: "{systemctl} list-jobs shows what it waits for",
    Verdict.JOB_CANCELED: _WHO_ACTS,
    Verdict.JOB_DEPENDENCY: "{systemctl} --failed shows which of the units that it needs failed",
    Verdict.PROBE_FAILED: "{log} shows what it logged meanwhile",
    Verdict.NOT_NOTIFYING: "if the program does not report that it is ready (sd_notify), add Type=exec with "
    "{systemctl} edit {unit}",
    Verdict.PORT_SHARED: "stop one of the two, or name the other one in `shared-with` if they may share the port",
    Verdict.UPDATE_FAILED: _CORRECT,
    Verdict.COMMAND_FAILED: _CORRECT,
    Verdict.VERSION_MISMATCH: "install that version, and restart {unit}; then run this again",
    Verdict.TIMED_OUT: "if it was only slow, give the step a longer `timeout`; then run this again",
    Verdict.OLD_CODE_SERVING: "{systemctl} restart {unit}, or a `restart` step before this one",
}
"""What to do next, by verdict. It is shown after the reason of the step."""

COMMAND_VERDICTS = (Verdict.UPDATE_FAILED, Verdict.VERSION_MISMATCH, Verdict.COMMAND_FAILED, Verdict.TIMED_OUT)
"""Verdicts of a command. If the unit is down as well, how to start it is advised, too."""


def describe_running(view: HostView, book: Runbook, outcomes: Iterable[Outcome]) -> str:
    """Return what runs at the end of a successful run."""
    if book.unit is None:
        return "all steps hold"
    try:
        unit = view.unit(book.unit)
    except HostError as error:
        return f"what runs now is not known: {error.message}"
    known = [*outcomes]
    at, version = _find_installed(known)
    later = known[at:]
    began = any(o.verdict is Verdict.JOB_DONE and o.evidence.get("InvocationID") == unit.invocation_id for o in later)
    serves = unit.main_pid and (began or any(o.verdict is Verdict.VERSION_OK for o in later))
    # A process that was started before the update may still be the old version.
    runs = f"runs {version}" if version and serves else f"is {unit.state}"
    pid = f", PID {unit.main_pid}" if unit.main_pid else ""
    installed = f"; {version} is installed" if version and not serves else ""
    try:
        seen = ((port, view.judge_port(unit, port, max_age=SHARED_READ_AGE)) for port in book.port)
        owned = [str(port) for port, ownership in seen if ownership.is_owned]
        ports = f", port{'s' if len(owned) > 1 else ''} {', '.join(owned)}" if owned else ""
    except HostError:
        ports = ""
    return f"{unit.name} {runs}{pid}{ports}{installed}"


def _find_installed(outcomes: list[Outcome]) -> tuple[int, str]:
    """Return how many steps had ended when the last update had, and the version that it left."""
    known = (Verdict.UPDATED, Verdict.UP_TO_DATE)
    updates = [(at, str(o.evidence["to"])) for at, o in enumerate(outcomes, 1) if o.verdict in known]
    return updates[-1] if updates else (0, "")


def describe_state_left(view: HostView, book: Runbook, *steps: Step[Any]) -> str:
    """Return the state in which a run leaves units and ports: those of `steps`, or else those of the runbook.

    The state is that of systemd and of the kernel. Empty if there is no unit.
    """
    ports: dict[str, tuple[Port, ...]] = {}
    for one in (one for step in steps for one in step.walk()):
        for name in one.units():
            ports[name] = ports.get(name, ()) or getattr(one, "port", ())
    if not ports and book.unit is not None:
        ports[book.unit] = book.port
    try:
        return "; ".join(_describe_state(view, view.unit(name), ports[name]) for name in ports)
    except HostError as error:
        return f"what runs now is not known: {error.message}"


def _describe_state(view: HostView, unit: Unit, ports: Iterable[Port]) -> str:
    restarts = f", {unit.n_restarts} restart{'' if unit.n_restarts == 1 else 's'}" if unit.n_restarts else ""
    is_there = unit.is_running or unit.describe() != "not found"
    owners = [_describe_owner(view, unit, port) for port in ports] if is_there else []
    return "; ".join((f"{unit.name} is {unit.describe()}{restarts}", *owners))


def _describe_owner(view: HostView, unit: Unit, port: Port) -> str:
    owner = view.judge_port(unit, port)
    return owner.reason + (view.describe_port_uses(unit, port) if owner.verdict is Verdict.NOT_LISTENING else "")


def find_advice(
    view: HostView, waiter: Waiter, outcome: Outcome, step: Step[Any] | None, book: Runbook, run: str = ""
) -> str:
    """Return what to do next about a step that failed; empty if its reason contains that already.

    `run` is the id of a run that can be resumed.
    """
    # If the fix started a unit that is still starting, what was found before the fix no longer matters.
    verdict: Any = outcome.verdict if outcome.still_starting else outcome.evidence.get("found", outcome.verdict)
    text = ADVICE.get(verdict, "")
    units = [name for one in step.walk() for name in one.units()] if step is not None else []
    unit = next(iter(units), book.unit)
    is_stray = verdict in (Verdict.ORPHAN_HOLDS_PORT, Verdict.LEFTOVER_HOLDS_PORT)
    in_rollback = outcome.id.startswith(ROLLBACK_PREFIX)
    if isinstance(step, ReplacesVersion):
        text = _advise_on_update(step, verdict, in_rollback) or text
    elif text == _WHO_ACTS and any(not one.get("own") for one in outcome.evidence.get("asked-by", ())):
        text = _ASK_THEM
    elif verdict == Verdict.START_LIMIT_HIT:
        text = _advise_on_holder(outcome.evidence.get("ports", ()), in_rollback) or text
    not_executed = text == _CORRECT and not outcome.attempts  # The reason contains what to correct in the command.
    if not text or not_executed or (_is_about_unit(text) and unit is None):
        return ""
    if is_stray and in_rollback:
        text = _END_IT  # A rollback carries out no fix.
    elif is_stray and step and step.remedy() is not None:
        return "kill it by hand if it is not needed, then run this again"  # The fix tried that, or was refused.
    known = _find_unit(view, unit)
    if verdict == Verdict.OTHER_UNIT_HOLDS_PORT and known is not None and known.is_umbrella:
        return "name that service as `unit` in the runbook, if that is the one you mean"
    if verdict == Verdict.JOB_DEPENDENCY and known is not None and (needed := _find_needed(view, known)):
        known, unit = needed.unit, needed.unit.name
        text = _advise_on_requirement(needed)
    if verdict == Verdict.STILL_STARTING and known is not None and is_pid_file_lost(view, known):
        text = "{systemctl} restart {unit}: to wait is in vain"
    if verdict == Verdict.UNIT_NOT_FOUND and known is not None:
        text = describe_other_manager(view, known, book) or text
    user = " --user" if known is not None and known.of_user else ""
    if known is not None and _is_about_unit(text):
        text = _find_better(view, waiter, known, text)
    again = f"runbook resume {run} continues to wait" if run else "runbook check checks again"
    programs = {program: f"{program}{user}" for program in ("systemctl", "journalctl")}
    name = quote(unit or "")
    logs = {"log": f"{programs['journalctl']} -u {name} -n 30", "follow": f"{programs['journalctl']} -u {name} -f"}
    if known is not None and _is_about_unit(text):
        logs = _describe_logs(view, known)
        text += describe_discarded(known) if "{log}" in text else ""
    return text.format(unit=name, user=user, again=again, **programs, **logs)


def find_cut_action(emitted: Sequence[Event]) -> StepActing | None:
    """Return the action of the current step, if that began to act and has not ended."""
    progress = (EventName.STEP_STARTED, EventName.STEP_ACTING, EventName.STEP_FINISHED)
    last = next((event.payload for event in reversed(emitted) if event.event in progress), None)
    return last if isinstance(last, StepActing) else None


def describe_interruption(book: Runbook, current: str, emitted: Sequence[Event], error: Interrupted) -> str:
    """Return where a run was interrupted, what that left half done, and what was not run for it."""
    stopped = ", which was stopped half way" if find_cut_action(emitted) else ""
    if error.still_running:
        stopped = f", which may go on: {error.still_running}"
    always = "; the `always` steps were not run" if book.always else ""
    return f"{error.message}{f' at {current}' if current else ''}{stopped}{always}"


def describe_version_left(book: Runbook, current: str, emitted: Sequence[Event], outcomes: Iterable[Outcome]) -> str:
    """Return which version an interruption leaves; empty if no update ended or was cut short."""
    step = next((step for step in book.walk() if step.id == current), None)
    if isinstance(step, ReplacesVersion) and (action := find_cut_action(emitted)) is not None:
        acting = action.evidence
        versions = f"{acting.get('from') or 'none'} was installed before, {acting.get('to')} was wanted"
        return f"{step.describe_query()} shows which version is installed ({versions})"
    _, version = _find_installed([*outcomes])
    return f"{version} is installed" if version else ""


def _advise_on_update(step: ReplacesVersion[Any], verdict: Verdict, in_rollback: bool) -> str:
    """Return what to do about an update that failed, if that differs from the advice for its verdict."""
    to, asks = map(_escape, (step.known_to, step.describe_query()))
    if in_rollback and to:
        return f"install {to} by hand, {_THEN}"
    if verdict != Verdict.VERSION_MISMATCH:
        return ""
    return f"{asks} must print {to or 'the version'}: perhaps it reads another installation than the command changes"


def _find_better(view: HostView, waiter: Waiter, unit: Unit, text: str) -> str:
    """Return a better advice than to read the log, if there is one: what to correct, or that the doctor finds it."""
    from runbook.engine.diagnosis import HAS_DROP_IN, advise_doctor  # noqa: PLC0415 - Only such a failure needs it.

    if unit.load_state in UNLOADABLE:
        return _WRONG_FILE
    if text == ADVICE[Verdict.NOT_NOTIFYING]:
        return HAS_DROP_IN if advise_doctor(view, waiter, unit) == HAS_DROP_IN else text
    if _WHY_IT_ENDED not in text:
        return text
    if unit.exec_main_code == 1 and describe_exec_failure(unit.exec_main_status) and unit.fragment_path:
        return _advise_on_exec(view, unit)
    return advise_doctor(view, waiter, unit) or text


def _advise_on_exec(view: HostView, unit: Unit) -> str:
    """Return what to correct if systemd could not execute the program."""
    program = next(iter(unit.start_arguments), "")
    if unit.exec_main_status == EXIT_EXEC and program.startswith("/") and not view.read_files(program):
        return f"install {_escape(program)}, or correct ExecStart= with {{systemctl}} edit --full {{unit}}"
    return "correct that setting with {systemctl} edit --full {unit}, then run this again"


def _escape(text: str) -> str:
    return text.replace("{", "{{").replace("}", "}}")


def _is_about_unit(text: str) -> bool:
    return any(name in text for name in ("{unit}", "{log}", "{follow}"))


def _describe_logs(view: HostView, unit: Unit) -> dict[str, str]:
    """Return the commands that show the unit's log: its end, and what is added."""
    return {"log": describe_log_command(view, unit), "follow": describe_log_command(view, unit, follow=True)}


def _find_needed(view: HostView, unit: Unit) -> FailedRequirement | None:
    try:
        return next(iter(find_failed_requirements(view, unit)), None)
    except HostError:
        return None


def _advise_on_requirement(needed: FailedRequirement) -> str:
    """Return what to do about a unit that the runbook need not name: `{unit}` stands for it."""
    held = next((one for one in needed.ports if one.verdict in ADVICE and one.foreign_holders), None)
    if held is None:
        return _WHY_IT_ENDED
    if held.verdict in (Verdict.ORPHAN_HOLDS_PORT, Verdict.LEFTOVER_HOLDS_PORT):
        return (
            f'a `remediate` step with `kill-orphan: {{{{unit: {{unit}}, port: "{held.port}"}}}}` as a fix solves this'
        )
    return ADVICE[held.verdict]


def _advise_on_holder(ports: Iterable[Mapping[str, Any]], in_rollback: bool) -> str:
    """Return what to do about another process on a port of a unit that used up its starts; empty if there is none."""
    held = ((port["port"], holder) for port in ports for holder in port["holders"])
    for port, holder in held:
        if holder["role"] in (Role.CURRENT, Role.SOCKET_UNIT):
            continue
        may_be_killed = holder["role"] in (Role.ORPHAN, Role.LEFTOVER) and "spared" not in holder
        how = " (a `kill-orphan` step kills it)" if may_be_killed and not in_rollback else ""
        then = "{systemctl} reset-failed {unit} then lets it start again"
        return f"free port {port} first, which PID {holder['pid']} holds{how}; {then}"
    return ""


def describe_start(view: HostView, book: Runbook) -> str:
    """Return how to start the runbook's unit, if it is down and can be started."""
    unit = _find_unit(view, book.unit)
    if unit is None or unit.is_running or unit.load_state is not LoadState.LOADED:
        return ""
    return f"{unit.systemctl_command(JobVerb.START)} starts it"


def _find_unit(view: HostView, name: str | None) -> Unit | None:
    try:
        return view.unit(name) if name is not None else None
    except HostError:
        return None


JOURNAL_VERDICTS = frozenset(
    {
        Verdict.NOT_LISTENING,
        Verdict.STILL_STARTING,
        Verdict.CRASH_LOOP,
        Verdict.START_LIMIT_HIT,
        Verdict.UNIT_FAILED,
        Verdict.UNIT_EXITED,
        Verdict.NOT_NOTIFYING,
        Verdict.PROBE_FAILED,
        Verdict.JOB_FAILED,
        Verdict.JOB_TIMEOUT,
    }
)
"""Verdicts for which the journal of the unit may show the reason."""

MANAGER_VERDICTS = JOURNAL_VERDICTS | {Verdict.UNIT_FROZEN, Verdict.CONDITION_NOT_MET, Verdict.JOB_DEPENDENCY}
"""Verdicts for which systemd itself may have logged the reason."""

TAIL_QUERY_TIMEOUT = 2.0  # seconds for reading the journal
MANAGER_LINES = 4  # lines of systemd that are kept
NO_INVOCATION = "0" * 32  # matches no entry


def read_journal_tail(
    view: HostView, waiter: Waiter, run: RunState, step: Step[Any], verdict: Verdict | None, since: float | None
) -> Mapping[str, list[str]]:
    """Return as evidence what systemd logged of the step's unit, and what the unit itself wrote to the journal.

    Both since a moment, in seconds since the epoch; without one, only what systemd logged of the last invocation.
    Empty if there is nothing, or the journal cannot be read: the failure is reported anyway. Raises Interrupted.
    """
    if verdict not in MANAGER_VERDICTS or step.secret or not step.units():
        return {}
    (name, *_) = step.units()
    try:
        unit = view.unit(name)
        # systemd logs what is wrong with a unit's file when it loads the unit, which may be long ago.
        manager = JournalTailQuery(name, since or 0.0, lines=MANAGER_LINES, of_user=unit.of_user, of_manager=True)
        if unit.load_state in UNLOADABLE:
            manager = replace(manager, since=0.0, latest=True)
        elif since is None:
            manager = replace(manager, invocation=unit.invocation_id or NO_INVOCATION)
        tails = [manager]
        if since is not None and verdict in JOURNAL_VERDICTS:
            tails.append(JournalTailQuery(name, since, of_user=unit.of_user))
        queries = [Query(tail, run.next_query_id(), TAIL_QUERY_TIMEOUT) for tail in tails]
        by_manager, *own = _read_lines(view, waiter, *queries)
    except HostError:
        return {}
    # journald may attribute what the process of systemd that executes the program logs to the unit.
    lines = [line for line in (own[0] if own else ()) if line not in by_manager]
    return {key: found for key, found in (("systemd", by_manager), ("journal", lines)) if found}


def _read_lines(view: HostView, waiter: Waiter, *queries: Query[tuple[JournalLine, ...]]) -> list[list[str]]:
    """Return the lines that answer each of the queries, as far as they are read in time. Raises HostError."""
    deadline = Deadline.after(view.clock, TAIL_QUERY_TIMEOUT)
    while None in (answers := [view.query(query) for query in queries]) and not deadline.expired:
        waiter.wait(Wake(pending=True), deadline)
    return [[line.text for line in (answer.value or () if answer else ())] for answer in answers]
