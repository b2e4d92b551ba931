"""The commands that bring a unit back now, in their order, for the user who runs them and for the unit's manager."""

from __future__ import annotations

from collections.abc import Iterator
from shlex import quote

from runbook.actions.kill_advice import find_holder_stop
from runbook.actions.respawn import find_supervisors
from runbook.checks.exit_reason import is_start_limit_hit
from runbook.checks.requirements import find_failed_requirements
from runbook.checks.standstill import STOPPED_STATES
from runbook.doctor.disruption import needs_reboot
from runbook.doctor.facts import UnitFacts
from runbook.doctor.findings import DropIn
from runbook.host.facts import DOWN, ActiveState, LoadState, Unit
from runbook.model import Verdict

WAIT = "timeout 10 tail -s.1"  # tail(1) ends with the process; otherwise the unit would find its port in use again
MAX_AWAITED = 5  # processes for whose exit the commands wait

_DECIDED_BY_OPERATOR = (
    Verdict.OTHER_UNIT_HOLDS_PORT,
    Verdict.OWNER_UNKNOWN,
    Verdict.STILL_STARTING,
    Verdict.UNIT_CHANGED,
    Verdict.CONDITION_NOT_MET,
    Verdict.NOT_LISTENING,
)
"""Verdicts on a unit that no start of it would help."""


def find_commands(facts: UnitFacts) -> tuple[str, ...]:
    """Return the commands; none if an operator has to decide first."""
    return () if is_decided_by_operator(facts) else (*_reload(facts), *find_actions(facts))


def is_decided_by_operator(facts: UnitFacts) -> bool:
    """True if a start is not plainly the fix: it would undo a decision, or may reboot the machine."""
    unit = facts.unit
    is_masked = unit.load_state is LoadState.MASKED and not unit.is_running
    return is_masked or (facts.is_down_in_order and bool(facts.strays)) or (bool(facts.actions) and _starts(facts))


def _starts(facts: UnitFacts) -> bool:
    """True if the commands start or restart the unit."""
    starts = {systemctl(facts, verb) for verb in ("start", "restart")}
    return any(command in starts for command in find_actions(facts))


# A start of these, as of many targets (reboot.target), ends what the machine does.
CHANGES_THE_MACHINE = ("rescue.service", "emergency.service")


def find_actions(facts: UnitFacts) -> tuple[str, ...]:
    """Return the commands that bring the unit back, after a daemon-reload if one is due."""
    unit, verdict = facts.unit, facts.health.verdict
    if unit.name.endswith(".target") or unit.name in CHANGES_THE_MACHINE or facts.conflicting:
        return ()
    if unit.load_state is LoadState.MASKED and not unit.is_running:
        return (*_unmask(facts), systemctl(facts, "start"))
    if facts.strays:
        return _replace_strays(facts)
    if (facts.runs_old_code or unit.need_daemon_reload) and verdict is Verdict.READY:
        return (f"{_sudo(facts)}systemctl reboot",) if _needs_reboot(unit) else (systemctl(facts, "restart"),)
    if unit.load_state is not LoadState.LOADED or verdict is Verdict.READY or facts.never_notifies:
        return ()
    if verdict in _DECIDED_BY_OPERATOR and not (verdict is Verdict.OTHER_UNIT_HOLDS_PORT and find_stops(facts)):
        return ()
    if verdict is Verdict.UNIT_FROZEN:
        return tuple(_let_run(facts))
    if facts.is_down_in_order or facts.is_starting:
        return ()
    return (*_start_requirements(facts), *_start(facts))


def _needs_reboot(unit: Unit) -> bool:
    """True if a restart of the unit would break what depends on it, or is refused."""
    return not unit.of_user and needs_reboot(unit.name, unit)


def find_proved_restart(facts: UnitFacts) -> str:
    """Return the command of this program that does the same, and proves the result; empty if none does."""
    unit = facts.unit
    if not unit.is_service or unit.load_state is not LoadState.LOADED or _needs_reboot(unit) or facts.conflicting:
        return ""
    if is_decided_by_operator(facts):
        return ""
    user = " --user" if unit.of_user else ""
    if facts.strays:
        held = (owner.port for owner in facts.ports if any(one in facts.strays for one in owner.foreign_holders))
        ports = "".join(f" --port {port}" for port in held)
        return f"{_sudo(facts)}runbook restart{user} {quote(unit.name)}{ports} --fix"
    if facts.runs_old_code and facts.health.verdict is Verdict.READY:
        return f"{_sudo(facts)}runbook restart{user} {quote(unit.name)}"
    return ""


def find_stops(facts: UnitFacts) -> tuple[str, ...]:
    """Return the commands that stop what has the unit's ports and is not to be killed."""
    stops = (find_holder_stop(facts.unit, one) for one in facts.rivals if not one.may_be_killed)
    return tuple(dict.fromkeys(filter(None, stops)))


def find_drop_in_commands(facts: UnitFacts, drop_in: DropIn) -> Iterator[str]:
    """Yield the commands that write a drop-in file, and make it count."""
    home = "~/" if drop_in.path.startswith("~/") else ""  # no quotes: the shell expands it
    folder, path = (home + quote(text.removeprefix(home)) for text in (drop_in.path.rpartition("/")[0], drop_in.path))
    sudo = _sudo(facts)
    text = drop_in.text.replace("\\", "\\\\").replace("%", "%%").replace("\n", "\\n")
    yield f"{sudo}mkdir -p {folder}"
    yield f"printf {quote(text)} {f'| sudo tee {path} >/dev/null' if sudo else f'> {path}'}"
    yield _daemon_reload(facts)
    # A start in progress goes on, and a unit that is down on purpose stays down.
    is_left = facts.conflicting or facts.is_starting or facts.is_down_in_order or facts.actions
    if drop_in.at_start and not is_left:
        yield from (*_reset(facts), systemctl(facts, "restart"))


def _reload(facts: UnitFacts) -> tuple[str, ...]:
    return (_daemon_reload(facts),) if facts.unit.need_daemon_reload else ()


def _daemon_reload(facts: UnitFacts) -> str:
    return f"{_sudo(facts)}systemctl{' --user' if facts.unit.of_user else ''} daemon-reload"


def _unmask(facts: UnitFacts) -> Iterator[str]:
    """Yield a command for each place in which a unit is masked: there may be two."""
    for path in facts.masks or ("/etc",):
        runtime = "--runtime" if path.startswith("/run/") else ""
        yield systemctl(facts, f"unmask {runtime}".rstrip())


def _replace_strays(facts: UnitFacts) -> tuple[str, ...]:
    """Return the commands that kill other processes on the unit's ports, and start the unit in their place."""
    unit = facts.unit
    if unit.active_state is ActiveState.ACTIVE and facts.health.verdict is Verdict.PORT_SHARED and not unit.n_restarts:
        return tuple(_kills(facts))  # The unit listens beside them, and goes on.
    triggers = [name for name in unit.triggered_by if name.endswith((".socket", ".path"))]
    active = [name for name in triggers if facts.view.unit(name).active_state not in DOWN]
    if unit.active_state in DOWN and not active:
        return (*_reset(facts), *_kills(facts), systemctl(facts, "start"))
    # Not after the stop: systemd unloads a unit that is down and that no other unit refers to, and has no counter then.
    stop, start = (systemctl(facts, verb, *active) for verb in ("stop", "start"))
    return (*_reset(facts), stop, *_kills(facts), start)


def _kills(facts: UnitFacts) -> Iterator[str]:
    """Yield the commands that kill processes, those first that would start them again, and that wait for their exit.

    A leftover that holds no port may be there on purpose, as a job of cron is: that is for the operator to decide.
    """
    masters = find_supervisors(facts.view, facts.unit, facts.strays, None, lambda _: "")
    killed = {one.process.id: one.process for one in (*masters, *facts.strays)}.values()
    sudo = "sudo " if any(facts.uid not in (0, process.uid) for process in killed) else ""
    pids = [str(process.pid) for process in killed]
    yield f"{sudo}kill {' '.join(pids)}"
    yield from (f"{WAIT} --pid={pid} -f /dev/null || {sudo}kill -KILL {pid}" for pid in pids[:MAX_AWAITED])


def _let_run(facts: UnitFacts) -> Iterator[str]:
    """Yield the command that continues a unit that is frozen, or whose main process is stopped."""
    unit = facts.unit
    if unit.freezer_state not in ("", "running"):
        yield systemctl(facts, "thaw")
    elif unit.main_pid and facts.view.find_process_state(unit.main_pid) in STOPPED_STATES[:1]:
        yield f"{_sudo(facts)}kill -CONT {unit.main_pid}"


def _start_requirements(facts: UnitFacts) -> Iterator[str]:
    """Yield the commands that start the units that failed, which this one requires."""
    if facts.health.verdict is Verdict.JOB_DEPENDENCY:
        for needed in find_failed_requirements(facts.view, facts.unit):
            if needed.unit.active_state is ActiveState.FAILED:
                yield systemctl(facts, "reset-failed", unit=needed.unit)
            yield systemctl(facts, "start", unit=needed.unit)


def _start(facts: UnitFacts) -> tuple[str, ...]:
    return (*_reset(facts), systemctl(facts, "restart" if facts.unit.is_running else "start"))


def _reset(facts: UnitFacts) -> tuple[str, ...]:
    """Return the command that clears the start limit, if it may be reached."""
    unit, budget = facts.unit, facts.journal.budget
    used_up = bool(unit.n_restarts) or (budget is not None and budget.remaining == 0)
    may_refuse = unit.active_state is ActiveState.FAILED or is_start_limit_hit(unit) or used_up
    return (systemctl(facts, "reset-failed"),) if may_refuse else ()


def systemctl(facts: UnitFacts, verb: str, *others: str, unit: Unit | None = None) -> str:
    """Return a command about the unit, or about another one: "sudo systemctl start gw.service"."""
    command = (unit or facts.unit).systemctl_command(verb)
    return " ".join((f"{_sudo(facts)}{command}", *map(quote, others)))


def _sudo(facts: UnitFacts) -> str:
    """Return "sudo " before a command about a unit of the system, for a user without rights."""
    return "sudo " if facts.uid and not facts.unit.of_user else ""
