"""Describes holders in a sentence, so that an operator finds them: which processes, in which unit, of which manager."""

from __future__ import annotations

from collections.abc import Callable, Collection, Hashable, Mapping, Sequence

from runbook.host.facts import Unit
from runbook.host.holders import NEEDS_ROOT, NO_UNIT, Holder, Listener, PortUse, Process, Role, SocketState
from runbook.model import Port

LEFT_OVER = ", left over from an earlier invocation"
MAX_SHOWN = 3  # how many processes, names and units a sentence shows; the others are counted


def describe_processes(holders: Sequence[Holder]) -> str:
    """Describe some holders in few words: "PID 70, 71, 72 and 2 more (gunicorn), PID 90 (python3)"."""
    groups, more = _group(holders, lambda holder: holder.process.name)
    parts = []
    for group in groups:
        pids = ", ".join(str(holder.process.pid) for holder in group[:MAX_SHOWN])
        others = f" and {len(group) - MAX_SHOWN} more" if len(group) > MAX_SHOWN else ""
        parts.append(f"PID {pids}{others} ({group[0].process.name})")
    return ", ".join(parts) + more


def describe_holders(holders: Collection[Holder], manager_uid: int | None) -> str:
    """Describe holders with their units: "PID 74 (openclaw), in session-9.scope of user agentops".

    `manager_uid` is the user whose manager runs the judged unit. The manager of a holder's unit is named if it is
    another one: it may have a unit of the same name.
    """
    # A master process is older than its workers, and its user describes the group: they may run as another user.
    ordered = sorted(holders, key=lambda one: (one.process.id.start, one.process.pid))
    groups, more = _group(ordered, lambda holder: (holder.unit, holder.process.name, _is_left_over(holder)))
    parts = [f"{describe_processes(group)}, {_describe_place(group[0], manager_uid)}" for group in groups]
    return "; ".join(parts) + more


def _group(holders: Sequence[Holder], key: Callable[[Holder], Hashable]) -> tuple[list[list[Holder]], str]:
    """Return the first groups of holders that are alike by `key`, and how many holders are in no group shown."""
    groups: dict[Hashable, list[Holder]] = {}
    for holder in holders:
        groups.setdefault(key(holder), []).append(holder)
    shown = list(groups.values())[:MAX_SHOWN]
    rest = len(holders) - sum(map(len, shown))
    return shown, f" and {rest} more" if rest else ""


def describe_hand_kill(process: Process) -> str:
    """Return the advice to kill one process alone."""
    return f"kill it by hand if it is not needed: kill {process.pid}"


def describe_unread(process: Process) -> str:
    """Describe a process whose memory was not read in time. A process that is judged may be that or descend from it."""
    return f"the kernel does not return the command line and environment of {process}, so it cannot be judged"


def describe_untracked(unit: Unit) -> str:
    """Describe a unit that runs while systemd shows it as down, and what must not be done now.

    This happens in a daemon-reload that gives the unit an alias which systemd already knew as a name without a file,
    for example from another unit's After= (seen on 252 and 257). If the main process exits then, systemd crashes.
    Another daemon-reload makes systemd forget that process, which from then on is a leftover like any other.
    """
    reload = f"systemctl{' --user' if unit.of_user else ''} daemon-reload"
    return (
        f"systemd has lost track of {unit.name} in a daemon-reload: it reads {unit.active_state}, but its main "
        f"process, PID {unit.main_pid}, is running; if that exits now, systemd crashes: first run {reload} again"
    )


def describe_apart(apart: Mapping[Listener, str], bystanders: Collection[Holder], manager_uid: int | None) -> str:
    """Describe the sockets of the port number that are not in the unit's way: clauses to be added to a reason.

    `apart` has the reason for each socket, as the end of a sentence.
    """
    text = ""
    for why in dict.fromkeys(apart.values()):
        sockets = {one: why for one in apart if apart[one] == why}
        holders = [one for one in bystanders if any(socket in sockets for socket in one.sockets)]
        who = f"{describe_holders(holders, manager_uid)}," if holders else "another process"
        where = ", ".join(map(str, [*sockets][:MAX_SHOWN]))
        more = f" and {len(sockets) - MAX_SHOWN} more" if len(sockets) > MAX_SHOWN else ""
        text += f"; {who} listen{'s' if len(holders) < 2 else ''} on {where}{more}, {why}"  # noqa: PLR2004
    return text


def describe_kernel_sockets(port: Port, listeners: Collection[Listener]) -> str:
    """Describe a port that the kernel itself serves."""
    where = ", ".join(map(str, listeners))
    return f"port {port} is held by the kernel itself ({where}), and by no process, as for NFS, WireGuard or VXLAN"


def describe_uses(
    unit: Unit, port: Port, uses: Collection[PortUse], holders: Collection[Holder], manager_uid: int | None
) -> str:
    """Describe the sockets that have a port on which none listens: a clause to be added to a reason; empty for none."""
    clauses = []
    for use in [use for use in uses if use.state is not SocketState.CLOSING][:MAX_SHOWN]:
        who = describe_holders([one for one in holders if use.socket in one.sockets], manager_uid)
        who = f"{who}," if who else f"a process of uid {use.socket.uid}"
        what = f"is bound to {use.socket}" if use.state is SocketState.BOUND else f"is connected from {use.socket}"
        clauses.append(f"{who} {what}{f' to {use.peer}' if use.peer else ''}")
    if more := len([use for use in uses if use.state is not SocketState.CLOSING]) - len(clauses):
        clauses.append(f"{more} more {'has' if more == 1 else 'have'} it")
    closing = sum(use.state is SocketState.CLOSING for use in uses)
    some = "a connection that is" if closing == 1 else f"{closing} connections that are"
    if not clauses:
        held = f"{some} being closed (TIME_WAIT) may keep port {port} for another minute"
        return f"; {unit.name} logged that its address is in use: {held}" if closing else ""
    if closing:
        clauses.append(f"{some} being closed (TIME_WAIT) may keep it for another minute")
    reserve = "; add it to net.ipv4.ip_local_reserved_ports, so that the kernel gives it to no connection"
    connected = port.protocol == "tcp" and any(use.state is SocketState.CONNECTED for use in uses)
    taken = f"; but the port is taken, which may keep {unit.name} from listening: {', '.join(clauses)}"
    return taken + (reserve if connected else "")


def describe_unseen(port: Port, listeners: Collection[Listener], manager_uid: int | None, hidden: int) -> str:
    """Describe sockets for which no holder was found, the reason, and the command that shows more.

    `hidden` processes could not be read. If it is 0, no process has the socket in its descriptor table.
    """
    uids = sorted({listener.uid for listener in listeners})
    of = f" (made by uid {', '.join(map(str, uids))})" if uids else ""
    kind = "u" if port.protocol == "udp" else "t"
    if not hidden:
        return (
            f"port {port}{of} is open, and no process has it: perhaps one process is passing the socket to another; "
            f"ss -ln{kind}e sport = :{port.number} shows it"
        )
    unknown = f"the process that holds port {port}{of} cannot be found; "
    if manager_uid is None:
        return f"{unknown}{NEEDS_ROOT}"
    # Root does not act in a user's manager, so `run it as root` would not help.
    return f"{unknown}root can see it: ss -ln{kind}p sport = :{port.number}"


def _is_left_over(holder: Holder) -> bool:
    # One of a unit that systemd has lost track of may be of the current invocation: its reason protects it.
    return holder.role is Role.LEFTOVER and holder.protection != holder.why


def _describe_place(holder: Holder, manager_uid: int | None) -> str:
    return _describe_unit(holder, manager_uid) + (LEFT_OVER if _is_left_over(holder) else "")


def _describe_unit(holder: Holder, manager_uid: int | None) -> str:
    if holder.unit == NO_UNIT:
        return f"of user {holder.process.user}, in no unit"
    if not holder.unit.endswith((".service", ".socket")):
        return f"in {holder.unit} of user {holder.process.user}"
    how = "for" if holder.unit.endswith(".socket") else "in" if holder.in_its_service else "of"
    what = f"{how} {holder.unit}"
    ours = manager_uid is not None
    if (theirs := holder.is_user_unit(ours)) == ours and (not theirs or holder.process.uid == manager_uid):
        return what
    return f"{what} of {f'the user manager of {holder.process.user}' if theirs else 'the system'}"
