"""Fixtures for tests on a booted systemd.

Each test with the fixture `machine` runs on both suites. A machine is booted once for a module and a suite, so a test
must leave it as it was: no failed unit, no listening socket. A test that changes more uses `fresh_machine`.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator

import pytest
from xdist.remote import Producer
from xdist.scheduler import LoadScopeScheduling

from tests.machine.incident import Incident, remove_unit, stage
from tests.machine.machine import Machine, until
from tests.machine.tree import SUITES

StartService = Callable[[str, str], str]
InstallUnit = Callable[[str, str], str]


class ByMachine(LoadScopeScheduling):  # type: ignore[misc]  # xdist has no types
    """Send the tests of one module and suite to one worker, as they share a machine.

    `--dist loadgroup` would do the same, but under pytest 9.2 pytest-xdist 3.8 does not group, without a warning
    (pytest-xdist #1386).
    """

    def _split_scope(self, nodeid: str) -> str:
        module, _, test = nodeid.partition("::")
        parameters = re.split(r"[\[\]-]", test)
        return "-".join([module, *(suite for suite in SUITES if suite in parameters)])


@pytest.hookimpl(optionalhook=True)
def pytest_xdist_make_scheduler(config: pytest.Config, log: Producer) -> ByMachine | None:
    """Return the scheduler for `--dist loadscope`. For other values pytest-xdist chooses its own."""
    return ByMachine(config, log) if config.getvalue("dist") == "loadscope" else None


@pytest.fixture(scope="module", params=SUITES)
def suite(request: pytest.FixtureRequest) -> str:
    """Return the name of a Debian suite: bookworm has systemd 252, trixie 257."""
    name: str = request.param
    return name


@pytest.fixture(scope="module")
def machine(suite: str) -> Iterator[Machine]:
    """Boot a machine for the tests of a module."""
    with Machine(suite) as booted:
        yield booted


@pytest.fixture
def fresh_machine(suite: str) -> Iterator[Machine]:
    """Boot a machine for one test alone."""
    with Machine(suite) as booted:
        yield booted


@pytest.fixture(autouse=True)
def _settled(request: pytest.FixtureRequest) -> Iterator[None]:
    """Fail a test that leaves a failed unit or a listening socket in the shared machine."""
    if "machine" not in request.fixturenames:
        yield
        return
    shared: Machine = request.getfixturevalue("machine")
    before = _traces(shared)
    yield
    try:
        until(lambda: _traces(shared) == before, "the machine to be as it was")
    except TimeoutError as error:
        raise AssertionError(f"a test leaves {_traces(shared)}; before it there was {before}") from error


def _traces(machine: Machine) -> tuple[str, str]:
    failed = machine.run(["systemctl", "list-units", "--failed", "--plain", "--no-legend"]).stdout
    listening = machine.run(["ss", "-Hltun"]).stdout.splitlines()
    return failed, "\n".join(sorted(listening))


@pytest.fixture
def service(machine: Machine) -> Iterator[StartService]:
    """Return a function that writes and starts a unit: `service("web.service", "[Service]\\nExecStart=…")`.

    The function returns the unit's name. The unit is removed at the end of the test.
    """
    made: list[str] = []

    def start(unit: str, text: str) -> str:
        made.append(unit)
        machine.write(f"/etc/systemd/system/{unit}", text)
        machine.run(["systemctl", "daemon-reload"])
        machine.run(["systemctl", "start", unit])
        return unit

    yield start
    for unit in reversed(made):
        remove_unit(machine, unit)


@pytest.fixture
def unit(machine: Machine) -> Iterator[InstallUnit]:
    """Return a function that installs a unit without starting it."""
    made: list[str] = []

    def install(name: str, text: str) -> str:
        machine.write(f"/etc/systemd/system/{name}", text)
        machine.run(["systemctl", "daemon-reload"])
        made.append(name)
        return name

    yield install
    for name in made:
        remove_unit(machine, name)


@pytest.fixture
def incident(machine: Machine) -> Iterator[Incident]:
    """Stage the first incident. The unit is installed and not started."""
    staged = stage(machine)
    yield staged
    staged.clear()
