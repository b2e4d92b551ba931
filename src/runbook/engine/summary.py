"""The last words of a run: what runs now, and what a person may do next."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from runbook.engine.execution.outcome import Outcome
from runbook.engine.rollback_plan import PREFIX
from runbook.errors import HostError
from runbook.host.facts import LoadState, Unit
from runbook.host.interface import SAME_MOMENT, HostView, Waiter
from runbook.host.queries import LastWords, Question
from runbook.model import Deadline, Port, Verdict, Wake
from runbook.spec.state import RunState
from runbook.spec.step import Runbook, Step
from runbook.util.stdio import lines

_WHY_IT_ENDED = "{journalctl} -u {unit} -n 30 tells why"
_THEN = "then {systemctl} reset-failed {unit} and {systemctl} restart {unit}"
_END_IT = f"end it by hand if it may go, {_THEN}"
_BRING_IN = f"bring {{to}} in by hand, {_THEN}"
_WHO_ACTS = "ask who else acts on {unit}: {systemctl} list-jobs shows what is asked now, {journalctl} -u {unit} when"
_ASK_THEM = "ask whoever is named there what they want of {unit}, then run this again"

NEXT: Mapping[Verdict, str] = {
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


def running_now(view: HostView, book: Runbook, outcomes: Iterable[Outcome]) -> str:
    """Say what runs at the end of a run that went well."""
    if book.unit is None:
        return "all steps hold"
    try:
        unit = view.unit(book.unit)
    except HostError as error:
        return f"what runs now cannot be told: {error.message}"
    told = [*outcomes]
    at, version = _installed(told)
    began = any(
        o.verdict is Verdict.JOB_DONE and o.evidence.get("InvocationID") == unit.invocation_id for o in told[at:]
    )
    serves = unit.main_pid and (began or any(o.verdict is Verdict.VERSION_OK for o in told[at:]))
    # What was started before the update may be the old version still.
    runs = f"runs {version}" if version and serves else f"is {unit.state}"
    pid = f", PID {unit.main_pid}" if unit.main_pid else ""
    installed = f"; {version} is installed" if version and not serves else ""
    try:
        seen = ((port, view.ownership(unit, port, recent=SAME_MOMENT)) for port in book.port)
        ports = ", ".join(str(port) for port, ownership in seen if ownership.owned)
    except HostError:
        ports = ""
    return f"{unit.name} {runs}{pid}" + (f", port {ports}" if ports else "") + installed


def _installed(outcomes: list[Outcome]) -> tuple[int, str]:
    """Say which version the last update left, and how many steps had ended by then."""
    known = (Verdict.UPDATED, Verdict.UP_TO_DATE)
    updates = [(at, str(o.evidence["to"])) for at, o in enumerate(outcomes, 1) if o.verdict in known]
    return updates[-1] if updates else (0, "")


def left_behind(view: HostView, book: Runbook, *steps: Step[Any]) -> str:
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
        return "; ".join(_state(view, view.unit(name), ports[name]) for name in ports)
    except HostError as error:
        return f"what runs now cannot be told: {error.message}"


def _state(view: HostView, unit: Unit, ports: Iterable[Port]) -> str:
    restarts = f", {unit.n_restarts} restart{'' if unit.n_restarts == 1 else 's'}" if unit.n_restarts else ""
    said = [f"{unit.name} is {unit.describe()}{restarts}"]
    if unit.runs or unit.describe() != "not found":
        said += [view.ownership(unit, port).reason for port in ports]
    return "; ".join(said)


def advice(view: HostView, outcome: Outcome, step: Step[Any] | None, book: Runbook, run: str = "") -> str:
    """Say what to do next about a step that failed; empty where its own reason says it.

    `run` is the id of a run that can be gone on with.
    """
    # What was found before a fix is of no account where what the fix started was left alone.
    verdict = outcome.verdict if outcome.left_alone else outcome.evidence.get("found", outcome.verdict)
    text = next((text for known, text in NEXT.items() if known == verdict), "")
    units = [name for one in step.walk() for name in one.units()] if step is not None else []
    unit = next(iter(units), book.unit)
    to = step.foretold().get("to", "") if step is not None else ""
    if to and outcome.id.startswith(PREFIX):
        text = _BRING_IN
    elif text == _WHO_ACTS and any(not one.get("own") for one in outcome.evidence.get("asked-by", ())):
        text = _ASK_THEM
    if not text or ("{unit}" in text and unit is None):
        return ""
    if verdict in (Verdict.ORPHAN_HOLDS_PORT, Verdict.LEFTOVER_HOLDS_PORT) and outcome.id.startswith(PREFIX):
        text = _END_IT  # A roll back carries out no fix.
    elif verdict in (Verdict.ORPHAN_HOLDS_PORT, Verdict.LEFTOVER_HOLDS_PORT) and step and step.remedy() is not None:
        return "end it by hand if it may go, then run this again"  # The fix has tried that, or was refused.
    if verdict in (Verdict.ORPHAN_HOLDS_PORT, Verdict.LEFTOVER_HOLDS_PORT) and ".check." in outcome.id:
        return "runbook apply, called like this, carries out the fix"
    known = _looked_up(view, unit)
    if verdict == Verdict.OTHER_UNIT_HOLDS_PORT and known is not None and known.is_roof:
        return "name that service as `unit` in the runbook, if it is the one that is meant"
    user = " --user" if known is not None and known.of_user else ""
    again = f"runbook resume {run} waits on" if run else "runbook check, called like this run, looks again"
    return text.format(unit=unit, to=to, systemctl=f"systemctl{user}", journalctl=f"journalctl{user}", again=again)


def again(run: str) -> str:
    """Name the command that goes on with a run."""
    return f"runbook resume {run}"


def bring_up(view: HostView, book: Runbook) -> str:
    """Say how the runbook's unit comes up again, where a run that found it up leaves it down."""
    unit = _looked_up(view, book.unit)
    if unit is None or unit.runs or unit.load_state is not LoadState.LOADED:
        return ""
    return f"{unit.command('start')} brings it up"


def _looked_up(view: HostView, name: str | None) -> Unit | None:
    try:
        return view.unit(name) if name is not None else None
    except HostError:
        return None


EXPLAINED = frozenset(
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


PATIENCE = 2.0
"""Seconds for the journal to be read."""


def last_words(
    view: HostView, waiter: Waiter, run: RunState, step: Step[Any], verdict: Verdict | None, since: float
) -> Mapping[str, list[str]]:
    """Give what the step's unit has written into the journal since a moment (in seconds since the epoch), as evidence.

    Nothing where it has written nothing, or that cannot be read: a failure is told all the same. Raises Interrupted.
    """
    if verdict not in EXPLAINED or step.secret or not step.units():
        return {}
    (name, *_) = step.units()
    deadline = Deadline.after(view.clock, PATIENCE)
    try:
        question = Question(LastWords(name, since, view.unit(name).of_user), run.new_question(), PATIENCE)
        while (answer := view.ask(question)) is None and not deadline.passed:
            waiter.wait(Wake(pending=True), deadline)
    except HostError:
        return {}
    return {"journal": lines(answer.output)} if answer is not None and answer.good and answer.output else {}
