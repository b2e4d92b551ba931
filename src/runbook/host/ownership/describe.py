"""Names the holders of a port in a sentence, so that a person finds them: who, how many, in what, of whose manager."""

from __future__ import annotations

from collections.abc import Collection, Sequence

from runbook.host.facts import Unit
from runbook.host.holders import Holder, Listener
from runbook.model import Port

MAX_SHOWN = 3
"""So many places are named; the rest is counted."""


def describe_processes(holders: Sequence[Holder]) -> str:
    """Name some holders in few words: "PID 70, 71, 72 and 2 more (gunicorn), PID 90 (python3)"."""
    groups: dict[str, list[Holder]] = {}
    for holder in holders:
        groups.setdefault(holder.process.name, []).append(holder)
    told = []
    for name, group in list(groups.items())[:MAX_SHOWN]:
        pids = ", ".join(str(holder.process.pid) for holder in group[:MAX_SHOWN])
        more = f" and {len(group) - MAX_SHOWN} more" if len(group) > MAX_SHOWN else ""
        told.append(f"PID {pids}{more} ({name})")
    rest = sum(len(group) for group in list(groups.values())[MAX_SHOWN:])
    return ", ".join(told) + (f" and {rest} more" if rest else "")


def describe_holders(holders: Collection[Holder], manager_uid: int | None) -> str:
    """Name them: "PID 74 (openclaw), in session-9.scope of user agentops". Those of one kind stand together.

    `manager_uid` is whose manager the unit belongs to: a service of another one's is told apart, for it may have
    the very same name.
    """
    kinds: dict[tuple[str, str], list[Holder]] = {}
    # A master comes before its workers, and speaks for all: they may run as somebody else.
    for holder in sorted(holders, key=lambda one: (one.process.id.start, one.process.pid)):
        kinds.setdefault((holder.unit, holder.process.name), []).append(holder)
    told = [
        f"{describe_processes(alike)}, {_describe_place(alike[0], manager_uid)}"
        for alike in list(kinds.values())[:MAX_SHOWN]
    ]
    more = sum(len(alike) for alike in list(kinds.values())[MAX_SHOWN:])
    return "; ".join(told) + (f" and {more} more" if more else "")


def describe_untracked(unit: Unit) -> str:
    """Say that systemd has lost sight of a unit that runs, and what must not be done now.

    It happens over a daemon-reload that gives the unit an alias which systemd knew as a name without a file, as from
    another unit's After= (seen on 252 and 257). The end of the main process is then more than systemd can take: it
    crashes. Another daemon-reload makes systemd forget that process, which is a leftover like any other from then on.
    """
    reload = f"systemctl{' --user' if unit.of_user else ''} daemon-reload"
    return (
        f"systemd has lost sight of {unit.name} over a daemon-reload: it reads {unit.active_state}, and its main "
        f"process, PID {unit.main_pid}, lives; were that to end now, systemd would crash: first run {reload} again"
    )


def describe_unseen(port: Port, listeners: Collection[Listener], manager_uid: int | None, hidden: int) -> str:
    """Say that the holders of these sockets are not seen, why, and what would show them.

    `hidden` processes may not be looked at. Where that is none, no process has the socket in its table.
    """
    uids = sorted({listener.uid for listener in listeners})
    of = f" (made by uid {', '.join(map(str, uids))})" if uids else ""
    kind = "u" if port.protocol == "udp" else "t"
    if not hidden:
        return (
            f"port {port}{of} is open, and no process has it: the kernel itself listens (as for NFS or WireGuard), "
            f"or the socket is on its way from one process to another; ss -ln{kind}e sport = :{port.number} shows it"
        )
    told = f"who holds port {port}{of} cannot be seen; "
    if manager_uid is None:
        return f"{told}run it as root to see every process"
    # A runbook of a user's is not for root to run.
    return f"{told}root sees it: ss -ln{kind}p sport = :{port.number}"


def _describe_place(holder: Holder, manager_uid: int | None) -> str:
    what = f"{'for' if holder.unit.endswith('.socket') else 'in'} {holder.unit}"
    if not holder.unit.endswith((".service", ".socket")):
        return f"{what} of user {holder.process.user}"
    ours = manager_uid is not None
    if (theirs := holder.is_user_unit(ours)) == ours and (not theirs or holder.process.uid == manager_uid):
        return what
    return f"{what} of {f'the user manager of {holder.process.user}' if theirs else 'the system'}"
