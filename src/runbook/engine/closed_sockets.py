"""Socket units that stay closed while their service runs: it listens by itself then, and no step reports that.

An orphan on the port keeps the socket unit from opening. Once the port is free, a `start` of the service does not open
it, and systemd opens no socket while its service runs.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator

from runbook.engine.preflight import find_units_to_change
from runbook.errors import HostError
from runbook.host.facts import DOWN, ActiveState, JobVerb, LoadState, Unit
from runbook.host.interface import SHARED_READ_AGE, HostView
from runbook.spec.runbook import Runbook

ENABLED = ("enabled", "enabled-runtime")
DISABLED = ("disabled", "masked", "masked-runtime")


def list_open_sockets(view: HostView, book: Runbook) -> frozenset[str]:
    """Return the names of the socket units that are up and belong to services that the runbook changes."""
    try:
        sockets = [socket for _, socket in _list_sockets(view, book, SHARED_READ_AGE)]
        return frozenset(socket.name for socket in sockets if socket.active_state not in DOWN)
    except HostError:
        return frozenset()  # The steps will report that the units cannot be read.


def find_closed_sockets(view: HostView, book: Runbook, were_open: Collection[str]) -> dict[str, str]:
    """Return by name, each with a sentence, the socket units that are closed while their service runs.

    Not one that was disabled, or that the runbook stops: that is meant. `were_open` are the names of those that were up
    before the run.
    """
    try:
        return {
            socket.name: _describe(view, book, unit, socket, was_open=socket.name in were_open)
            for unit, socket in _list_sockets(view, book)
            if unit.is_running and socket.active_state in DOWN and _is_wanted(book, socket, were_open)
        }
    except HostError:
        return {}


def _list_sockets(view: HostView, book: Runbook, max_age: float = 0.0) -> Iterator[tuple[Unit, Unit]]:
    for changed in sorted(find_units_to_change(book)):
        if (unit := view.unit(changed, max_age=max_age)).is_service:
            # systemd links a socket unit to its service only while it is loaded.
            names = dict.fromkeys((*unit.triggered_by, f"{unit.name.removesuffix('.service')}.socket"))
            sockets = (view.unit(name) for name in names if name.endswith(".socket"))
            yield from ((unit, socket) for socket in sockets if unit.name in socket.triggers)


def _is_wanted(book: Runbook, socket: Unit, were_open: Collection[str]) -> bool:
    is_stopped = any(step.job_verb() is JobVerb.STOP and socket.name in step.units() for step in book.walk())
    if is_stopped or socket.load_state is LoadState.MASKED:
        return False
    is_meant = socket.unit_file_state in ENABLED
    was_open = socket.name in were_open and socket.unit_file_state not in DISABLED
    return socket.active_state is ActiveState.FAILED or is_meant or was_open


def _describe(view: HostView, book: Runbook, unit: Unit, socket: Unit, *, was_open: bool) -> str:
    before = "was up before, and " if was_open else ""
    result = f", Result {socket.result}" if socket.active_state is ActiveState.FAILED else ""
    owned = (view.judge_port(unit, port, max_age=SHARED_READ_AGE) for port in book.port)
    own = dict.fromkeys(str(listener) for ownership in owned if ownership.is_owned for listener in ownership.listeners)
    would = ", ".join(address for _, address in socket.listen)
    where = f" and listens on {', '.join(own)} by itself; {socket.name} would listen on {would}" if own else ""
    start = f"{unit.systemctl_command(f'start {socket.name}')}"
    is_started = any(step.job_verb() is JobVerb.START and unit.name in step.units() for step in book.walk())
    step = f"; in the runbook, a `start` of {socket.name} before that of {unit.name} does this" if is_started else ""
    return (
        f"{socket.name} {before}is {socket.state}{result}, while {unit.name} runs{where}; systemd opens it only while "
        f"the service is down: {unit.systemctl_command(JobVerb.STOP)}, then {start}{step}"
    )
