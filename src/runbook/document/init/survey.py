"""All that is found of a unit for its first runbook, in the order in which one leads to the next."""

from __future__ import annotations

import os
from collections.abc import Callable, Collection, Iterable, Iterator
from dataclasses import replace
from pathlib import PurePosixPath
from typing import NamedTuple

from runbook.checks.requirements import parse_listen
from runbook.document.init.apt import find_apt_package
from runbook.document.init.lookup import Lookup, find_danger
from runbook.document.init.npm import find_npm_package
from runbook.document.init.own_version import find_own_version
from runbook.document.init.packages import Package
from runbook.document.init.pip import find_environment, find_pip_package
from runbook.document.init.probe import FoundProbe, ProbeSearch
from runbook.document.init.program import Program, find_program
from runbook.document.quoting import is_writable
from runbook.document.restart_ports import DemandedPorts, find_demanded_ports
from runbook.errors import NotBegun
from runbook.host.facts import UNLOADABLE, UP, LoadState, Unit
from runbook.host.holders import Process, Role, parse_address
from runbook.host.interface import HostView
from runbook.model import Port, frozen

MAX_PROBED = 4  # ports of one unit that get a probe


class Named(NamedTuple):
    """What the command line names."""

    unit: str  # by its full name
    ports: tuple[Port, ...] = ()
    user: bool = False  # True for a unit of the caller's own manager


@frozen
class Survey:
    """What was found of a unit."""

    unit: Unit
    ports: tuple[Port, ...]
    program: Program
    package: Package | None  # the package that it was installed from, if an update of it can be written
    no_package: str  # why there is none, for a comment
    own_version: str  # what the program prints itself, if it belongs to no package
    probes: tuple[FoundProbe, ...]
    notices: tuple[str, ...]  # sentences for the operator
    sources: tuple[str, ...]  # what was read, asked and sent
    is_root: bool


def make_survey(lookup: Lookup, named: Named, recorded: Callable[[str], Collection[Port]]) -> Survey:
    """Return what is found of a unit. `recorded` returns the ports of earlier runs.

    Raises NotBegun if there is no such unit, HostError if the machine cannot be read, and Interrupted.
    """
    unit, socket = _find_unit(lookup.view, named.unit)
    activated = _list_activated(socket) if socket else ()
    demanded = find_demanded_ports(lookup.view, unit, named.ports or activated, lambda: recorded(unit.name), draft=True)
    if not demanded.ports and os.geteuid():
        demanded.ports += [Port(one.number, one.protocol, one.address) for one in lookup.view.list_unit_listeners(unit)]
    ports = tuple(_simplify(demanded.ports))
    program = find_program(unit, find_main_process(lookup.view, unit, ports))
    package, why, version = _find_package(lookup, program, unit, named.user)
    search = ProbeSearch(lookup, unit, program)
    numbers = {(port.number, port.protocol): port for port in reversed(ports)}  # One address of each is asked.
    probes = tuple(search.find(port) for port in list(reversed(numbers.values()))[:MAX_PROBED])
    sources = ["systemd", "the kernel's sockets", *(package.sources if package else ())]
    sources += [f"{program.named} --version"] if version else []
    sources += [f"{search.requests} GET requests to its ports"] if search.requests else []
    return Survey(
        unit,
        ports,
        program,
        package,
        why,
        version,
        probes,
        (
            *([f"{socket.name} starts {unit.name}, which is what an upgrade restarts"] if socket else ()),
            *_describe_ports(demanded),
            *_describe_state(unit),
        ),
        tuple(sources),
        os.geteuid() == 0,
    )


def _find_unit(view: HostView, name: str) -> tuple[Unit, Unit | None]:
    """Return the unit to restart. If a socket unit was named, that is the service that it starts; and the socket."""
    unit = view.unit(name)
    if unit.load_state is LoadState.NOT_FOUND and not unit.is_running:
        near = view.find_similar_unit(name)
        hint = f"did you mean {near}?" if near else "systemctl list-units --type=service lists the names of units"
        raise NotBegun(f"cannot begin: {unit.describe_not_found()}", hint=hint)
    if unit.load_state is LoadState.MASKED:
        raise NotBegun(f"cannot begin: {unit.name} is masked", hint=f"to unmask it: {unit.systemctl_command('unmask')}")
    if unit.load_state in UNLOADABLE:
        raise NotBegun(f"cannot begin: {unit.describe_unloadable()}", hint=unit.systemctl_command("status"))
    services = [one for one in unit.triggers if one.endswith(".service") and "@." not in one]
    if unit.name.endswith(".socket") and services:
        return view.unit(services[0]), unit
    return unit, None


def _list_activated(socket: Unit) -> tuple[Port, ...]:
    return tuple(port for kind, address in socket.listen if (port := parse_listen(kind, address)) is not None)


def find_main_process(view: HostView, unit: Unit, ports: Iterable[Port]) -> Process | None:
    """Return the main process; of a unit without one, the process on its ports that is no child of another."""
    if unit.main_pid:
        return view.find_process(unit.main_pid)
    for port in ports:
        own = [one.process for one in view.judge_port(unit, port).holders if one.role is Role.CURRENT]
        if own:
            return next((one for one in own if one.ppid not in {other.pid for other in own}), own[0])
    return None


def _simplify(ports: Iterable[Port]) -> Iterator[Port]:
    """Yield the ports as a file names them: of one on every address, the number alone."""
    wild = {(port.number, port.protocol) for port in ports if _is_wild(port)}
    yield from dict.fromkeys(
        Port(port.number, port.protocol) if (port.number, port.protocol) in wild else port for port in ports
    )


def _is_wild(port: Port) -> bool:
    return port.address is None or parse_address(port.address).is_unspecified


def _find_package(lookup: Lookup, program: Program, unit: Unit, user: bool) -> tuple[Package | None, str, str]:
    """Return the package of a program; else why there is none, and the version that the program prints itself."""
    if not all(map(is_writable, program)):
        return None, "the path of its program cannot be written into a runbook", ""
    if program.serves_an_app:
        return None, f"{program.name} only serves an application, which is what you upgrade", ""
    if unit.type == "oneshot":
        package = find_apt_package(lookup, (unit.fragment_path,), unit)  # /bin/true shows nothing.
        return (package, "", "") if not (user or os.geteuid()) else (None, "", "")
    environment = find_environment(lookup, program)
    package = find_npm_package(lookup, program.target) or (find_pip_package(lookup, program) if environment else None)
    if package is not None:
        return _check_owner(package)
    if environment:
        return None, f"what is installed in {environment} comes from no index", ""
    # The program that runs comes first: the unit's command may only start it.
    paths = list(dict.fromkeys(filter(None, (program.exe, program.named, program.target, program.real))))
    package = find_apt_package(lookup, paths, unit)
    if package is not None and (user or os.geteuid() != 0):
        return None, f"{package.what} is installed by root, with apt", ""
    if package is not None:
        return replace(package, newer_than=tuple(map(program.keep_links, package.newer_than))), "", ""
    if not program.named and not program.exe:
        return None, _describe_no_program(program), ""
    version, not_asked = find_own_version(lookup, program)
    what = program.named or program.exe
    return None, not_asked or f"{what} belongs to no package of dpkg, npm or pip", version


def _describe_no_program(program: Program) -> str:
    name = PurePosixPath(program.interpreter).name
    return f"ExecStart= runs {name}, which has no version of this service" if name else "ExecStart= names no program"


def _check_owner(package: Package) -> tuple[Package | None, str, str]:
    """Return the package if the caller may run its commands, as the user who owns its files."""
    if package.user and os.geteuid() != 0:
        return None, f"{package.what} belongs to {package.user}", ""
    if not package.user and os.geteuid() == 0:
        for why in filter(None, map(find_danger, (package.sources[0], *package.executes))):
            return None, f"{package.what} must not be run as root: {why}", ""
    return package, "", ""


def _describe_ports(demanded: DemandedPorts) -> Iterator[str]:
    """Yield what is to be reported of the ports; that there is none is in the runbook itself."""
    yield from (one for one in demanded.notices if demanded.ports or one.startswith("port "))


def _describe_state(unit: Unit) -> Iterator[str]:
    if unit.active_state not in UP and not unit.has_done_its_work:
        yield f"{unit.name} is {unit.describe()}: what only shows while it runs is missing in the runbook"
    if unit.is_umbrella and (parts := [one for one in unit.consists_of if one.endswith(".service")]):
        yield f"{unit.name} runs no server (Type=oneshot); the server may be {parts[0]}: runbook init {parts[0]}"
    if os.geteuid() and not unit.of_user:
        yield "you are not root: which processes hold its ports, and their programs, could not be seen"
