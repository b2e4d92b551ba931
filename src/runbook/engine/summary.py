"""The last words of a run: what runs now, and what a person may do next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from runbook.engine.execution.outcome import Outcome
from runbook.engine.rollback_plan import ROLLBACK_PREFIX
from runbook.errors import HostError
from runbook.host.facts import JobVerb, LoadState, Unit
from runbook.host.interface import SHARED_READ_AGE, HostView, Waiter
from runbook.host.queries import JournalTailQuery, Query
from runbook.model import Deadline, Port, Verdict, Wake
from runbook.spec.state import RunState
from runbook.spec.step import ReplacesVersion, Runbook, Step

_WHY_IT_ENDED = "{journalctl} -u {unit} -n 30 tells why"
_THEN = "then {systemctl} reset-failed {unit} and {systemctl} restart {unit}"
_END_IT = f"end it by hand if it may go, {_THEN}"
_BRING_IN = f"bring {{to}} in by hand, {_THEN}"
_WHO_ACTS = "ask who else acts on {unit}: {systemctl} list-jobs shows what is asked now, {journalctl} -u {unit} when"
_ASK_THEM = "ask whoever is named there what they want of {unit}, then run this again"

ADVICE: Mapping[Verdict, str] = {
    Verdict.NOT_LISTENING: "ss -tlnp shows what {unit} listens on instead, {journalctl} -u {unit} -n 30 what it says",
    Verdict.ORPHAN_HOLDS_PORT: "a `remediate` with kill-orphan among its fixes mends this",
    Verdict.LEFTOVER_HOLDS_PORT: "a `remediate` with kill-orphan among its fixes mends this",
    Verdict.OTHER_UNIT_HOLDS_PORT: "stop that service, or give one of the two another port",
    Verdict.STILL_STARTING: "{again}; {journalctl} -u {unit} -f shows what it is doing",
    Verdict.CRASH_LOOP: _WHY_IT_ENDED,
    Verdict.START_LIMIT_HIT: f"{_WHY_IT_ENDED} it ended; {{systemctl}} reset-failed {{unit}} then lets it start again",
    Verdict.UNIT_FAILED: _WHY_IT_ENDED,
    Verdict.UNIT_EXITED: _WHY_IT_ENDED,
    Verdict.CONDITION_NOT_MET: "{systemctl} status {unit} names the condition",
    Verdict.UNIT_MASKED: "somebody wants it down; {systemctl} unmask {unit} if that is over",
    Verdict.UNIT_NOT_FOUND: "{systemctl} list-unit-files shows what there is",
    Verdict.UNIT_CHANGED: _WHO_ACTS,
    Verdict.JOB_FAILED: _WHY_IT_ENDED,
    Verdict.JOB_TIMEOUT: "{systemctl} list-jobs shows what it waits for",
    Verdict.JOB_CANCELED: _WHO_ACTS,
    Verdict.JOB_DEPENDENCY: "{systemctl} --failed shows which of those it needs is down",
    Verdict.PROBE_FAILED: "{journalctl} -u {unit} -n 30 shows what it said meanwhile",
    Verdict.NOT_NOTIFYING: "its Type= promises that it says when it is ready (sd_notify): see {systemctl} cat {unit}; "
    "what NotifyAccess= refuses stands in {journalctl} -u {unit} -n 30",
    Verdict.OLD_CODE_SERVING: "{systemctl} restart {unit}, or a `restart` step before this one",
}
"""What to do about what was found, where a sentence can tell. The reason of the step stands before it."""


def describe_running(view: HostView, book: Runbook, outcomes: Iterable[Outcome]) -> str:
    """Say what runs at the end of a run that went well."""
    if book.unit is None:
        return "all steps hold"
    try:
        unit = view.unit(book.unit)
    except HostError as error:
        return f"what runs now cannot be told: {error.message}"
    told = [*outcomes]
    at, version = _find_installed(told)
    began = any(
        o.verdict is Verdict.JOB_DONE and o.evidence.get("InvocationID") == unit.invocation_id for o in told[at:]
    )
    serves = unit.main_pid and (began or any(o.verdict is Verdict.VERSION_OK for o in told[at:]))
    # What was started before the update may be the old version still.
    runs = f"runs {version}" if version and serves else f"is {unit.state}"
    pid = f", PID {unit.main_pid}" if unit.main_pid else ""
    installed = f"; {version} is installed" if version and not serves else ""
    try:
        seen = ((port, view.judge_port(unit, port, max_age=SHARED_READ_AGE)) for port in book.port)
        ports = ", ".join(str(port) for port, ownership in seen if ownership.is_owned)
    except HostError:
        ports = ""
    return f"{unit.name} {runs}{pid}" + (f", port {ports}" if ports else "") + installed


def _find_installed(outcomes: list[Outcome]) -> tuple[int, str]:
    """Say which version the last update left, and how many steps had ended by then."""
    known = (Verdict.UPDATED, Verdict.UP_TO_DATE)
    updates = [(at, str(o.evidence["to"])) for at, o in enumerate(outcomes, 1) if o.verdict in known]
    return updates[-1] if updates else (0, "")


def describe_state_left(view: HostView, book: Runbook, *steps: Step[Any]) -> str:
    """Say in what state a run leaves its units and their ports, by both witnesses: of `steps`, or of the runbook.

    Empty where neither names a unit.
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
        return f"what runs now cannot be told: {error.message}"


def _describe_state(view: HostView, unit: Unit, ports: Iterable[Port]) -> str:
    restarts = f", {unit.n_restarts} restart{'' if unit.n_restarts == 1 else 's'}" if unit.n_restarts else ""
    said = [f"{unit.name} is {unit.describe()}{restarts}"]
    if unit.is_running or unit.describe() != "not found":
        said += [view.judge_port(unit, port).reason for port in ports]
    return "; ".join(said)


def find_advice(view: HostView, outcome: Outcome, step: Step[Any] | None, book: Runbook, run: str = "") -> str:
    """Say what to do next about a step that failed; empty where its own reason says it.

    `run` is the id of a run that can be gone on with.
    """
    # What was found before a fix is of no account where what the fix started was left alone.
    verdict = outcome.verdict if outcome.still_starting else outcome.evidence.get("found", outcome.verdict)
    text = next((text for known, text in ADVICE.items() if known == verdict), "")
    units = [name for one in step.walk() for name in one.units()] if step is not None else []
    unit = next(iter(units), book.unit)
    to = step.known_to if isinstance(step, ReplacesVersion) else ""
    if to and outcome.id.startswith(ROLLBACK_PREFIX):
        text = _BRING_IN
    elif text == _WHO_ACTS and any(not one.get("own") for one in outcome.evidence.get("asked-by", ())):
        text = _ASK_THEM
    if not text or ("{unit}" in text and unit is None):
        return ""
    if verdict in (Verdict.ORPHAN_HOLDS_PORT, Verdict.LEFTOVER_HOLDS_PORT) and outcome.id.startswith(ROLLBACK_PREFIX):
        text = _END_IT  # A roll back carries out no fix.
    elif verdict in (Verdict.ORPHAN_HOLDS_PORT, Verdict.LEFTOVER_HOLDS_PORT) and step and step.remedy() is not None:
        return "end it by hand if it may go, then run this again"  # The fix has tried that, or was refused.
    if verdict in (Verdict.ORPHAN_HOLDS_PORT, Verdict.LEFTOVER_HOLDS_PORT) and ".check." in outcome.id:
        return "runbook apply, called like this, carries out the fix"
    known = _find_unit(view, unit)
    if verdict == Verdict.OTHER_UNIT_HOLDS_PORT and known is not None and known.is_umbrella:
        return "name that service as `unit` in the runbook, if it is the one that is meant"
    user = " --user" if known is not None and known.of_user else ""
    again = f"runbook resume {run} waits on" if run else "runbook check, called like this run, looks again"
    return text.format(unit=unit, to=to, systemctl=f"systemctl{user}", journalctl=f"journalctl{user}", again=again)


def resume_command(run: str) -> str:
    """Name the command that goes on with a run."""
    return f"runbook resume {run}"


def describe_start(view: HostView, book: Runbook) -> str:
    """Say how the runbook's unit comes up again, where a run that found it up leaves it down."""
    unit = _find_unit(view, book.unit)
    if unit is None or unit.is_running or unit.load_state is not LoadState.LOADED:
        return ""
    return f"{unit.systemctl_command(JobVerb.START)} brings it up"


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
"""What the unit itself may have said a word about."""


TAIL_QUERY_TIMEOUT = 2.0
"""Seconds for the journal to be read."""


def read_journal_tail(
    view: HostView, waiter: Waiter, run: RunState, step: Step[Any], verdict: Verdict | None, since: float
) -> Mapping[str, list[str]]:
    """Give what the step's unit has written into the journal since a moment (in seconds since the epoch), as evidence.

    Nothing where it has written nothing, or that cannot be read: a failure is told all the same. Raises Interrupted.
    """
    if verdict not in JOURNAL_VERDICTS or step.secret or not step.units():
        return {}
    (name, *_) = step.units()
    deadline = Deadline.after(view.clock, TAIL_QUERY_TIMEOUT)
    try:
        question = Query(
            JournalTailQuery(name, since, view.unit(name).of_user), run.next_query_id(), TAIL_QUERY_TIMEOUT
        )
        while (answer := view.query(question)) is None and not deadline.expired:
            waiter.wait(Wake(pending=True), deadline)
    except HostError:
        return {}
    return {"journal": [line.text for line in answer.value]} if answer is not None and answer.value else {}
