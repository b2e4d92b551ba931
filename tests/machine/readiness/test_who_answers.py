"""An answer counts only if it comes from a listener of the unit, on a real systemd."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator

import pytest

from tests.machine.conftest import StartService
from tests.machine.ending.staging import cleared, listening, scope
from tests.machine.machine import Machine, until
from tests.machine.readiness.shapes import book, script
from tests.machine.runs import Run, runbook, unit_file
from tests.machine.tree import PROJECT

SERVER = f"python3 {PROJECT}/tests/machine/readiness/answers.py"
BEGUN, ASKED, LEFT, OLD = (f"/run/answers/{mark}" for mark in ("begun", "asked", "left", "old"))
ELSEWHERE = "192.0.2.7"


@pytest.fixture(autouse=True)
def _marks(machine: Machine) -> Iterator[None]:
    machine.run(["mkdir", "/run/answers"])
    yield
    machine.run(["rm", "-rf", "/run/answers", "/run/went"])


def exists(machine: Machine, path: str) -> bool:
    return not machine.run(["test", "-e", path], check=False).returncode


def served(*words: str) -> str:
    """Return the unit file of a service that answers."""
    return unit_file(f"/usr/bin/{SERVER} {' '.join(words)}")


def probes(where: str) -> list[str]:
    """Return probes of a page, a websocket and, for an address, a TCP connection."""
    port = where if where[0].isdigit() and where.count(":") == 1 else ""
    asked = [f'http: {{url: "http://{where}/"}}', f'websocket: {{url: "ws://{where}/"}}']
    return [*asked, *([f'tcp: {{port: "{port}"}}'] if port else [])]


def wait(*asked: str, seconds: int = 3) -> str:
    fields = f"healthy-for: 0, timeout: {seconds}s, on-timeout: fail, on-failure: continue"
    return f"wait-ready: {{{fields}, probes: [{', '.join(f'{{{probe}}}' for probe in asked)}]}}"


def version(where: str, expect: str) -> str:
    return f"verify-version: {{http: {{url: 'http://{where}/'}}, expect: {expect}, on-failure: continue}}"


def verdicts(run: Run) -> list[str]:
    """Return the verdict of each step."""
    return [step["verdict"] for step in run.of("step-finished")]


def not_counted(run: Run) -> list[str]:
    """Return the result of each probe of the first wait."""
    return list(run.of("step-finished")[0]["evidence"]["probes"])


@contextlib.contextmanager
def orphan(machine: Machine, where: str, *words: str) -> Iterator[None]:
    """Run a server of the old version in a scope."""
    with cleared(machine, "old.scope"):
        # The server makes a file once it listens. The port proves nothing, as the unit may listen on it, too.
        scope(machine, "old.scope", [*SERVER.split(), "0.0.1", where, f"ready={OLD}", *words], "--slice=user.slice")
        until(lambda: exists(machine, OLD), "the old version to listen", 20)
        yield


@pytest.fixture
def elsewhere(machine: Machine) -> Iterator[str]:
    """Add an address with a host name to the machine, and return the address."""
    machine.run(["ip", "address", "add", f"{ELSEWHERE}/32", "dev", "lo"])
    hosts = machine.read("/etc/hosts")
    machine.write("/etc/hosts", f"{hosts}{ELSEWHERE} gateway.test\n")
    yield ELSEWHERE
    machine.write("/etc/hosts", hosts)
    machine.run(["ip", "address", "del", f"{ELSEWHERE}/32", "dev", "lo"])


def test_answers_from_a_shared_port_do_not_count(machine: Machine, service: StartService) -> None:
    """With SO_REUSEPORT about half of the answers come from the old version, and all are successful."""
    service("web.service", served("1.2.3", "127.0.0.1:9501", "shared"))
    listening(machine, {9501})
    with orphan(machine, "127.0.0.1:9501", "shared"):
        asked = wait(*probes("127.0.0.1:9501"))
        named = runbook(machine, "apply", book("web", asked, version("127.0.0.1:9501", "1.2.3"), port=9501))
        unnamed = runbook(machine, "apply", book("web", asked, version("127.0.0.1:9501", "1.2.3")))
    assert verdicts(named) == ["port-shared", "port-shared"], named.last
    assert verdicts(unnamed) == ["probe-failed", "port-shared"], unnamed.last
    held = "an answer from port 127.0.0.1:9501 does not count: port 127.0.0.1:9501 is held by web.service and by PID"
    assert [result.startswith(held) for result in not_counted(unnamed)] == [True] * 3


def test_an_answer_from_an_orphan_on_another_address_does_not_count(
    machine: Machine, service: StartService, elsewhere: str
) -> None:
    """The address is one of this machine, whether the URL has it or a host name."""
    service("web.service", served("1.2.3", "127.0.0.1:9502"))
    listening(machine, {9502})
    asked = [*probes(f"{elsewhere}:9502"), *probes("gateway.test:9502")]
    steps = wait(*asked), version(f"{elsewhere}:9502", "0.0.1"), version("gateway.test:9502", "0.0.1")
    with orphan(machine, f"{elsewhere}:9502"):
        run = runbook(machine, "apply", book("web", *steps, port='"127.0.0.1:9502"'))
    assert verdicts(run) == ["probe-failed", "orphan-holds-port", "orphan-holds-port"], run.last
    held = f"an answer from port {elsewhere}:9502 does not count: port {elsewhere}:9502 is held by PID"
    assert [result.startswith(held) for result in not_counted(run)] == [True] * 5


def test_an_answer_from_the_unit_on_another_address_counts(
    machine: Machine, service: StartService, elsewhere: str
) -> None:
    service("web.service", served("1.2.3", f"{elsewhere}:9502"))
    listening(machine, {9502})
    steps = wait(*probes("gateway.test:9502"), seconds=60), version("gateway.test:9502", "1.2.3")
    run = runbook(machine, "apply", book("web", *steps))
    assert verdicts(run) == ["ready", "version-ok"], run.last
    url = "gateway.test:9502/"
    assert run.step("wait-ready")["evidence"]["probes"] == [f"http://{url}: answered 200", f"ws://{url}: opened"]


def test_an_answer_from_an_orphan_on_the_other_loopback_does_not_count(machine: Machine, service: StartService) -> None:
    """`localhost` has both addresses, and either may answer."""
    service("web.service", served("1.2.3", "127.0.0.1:9503"))
    listening(machine, {9503})
    with orphan(machine, "[::1]:9503"):
        run = runbook(machine, "apply", book("web", wait(*probes("localhost:9503")), port='"127.0.0.1:9503"'))
    assert verdicts(run) == ["probe-failed"], run.last
    held = "an answer from port [::1]:9503 does not count: port [::1]:9503 is held by PID"
    assert [result.startswith(held) for result in not_counted(run)] == [True] * 2


def test_an_answer_from_the_previous_invocation_does_not_count(machine: Machine, service: StartService) -> None:
    """The old invocation gets the request, and answers after the new one has begun, which itself refuses."""
    new = f"{SERVER} 1.2.3 127.0.0.1:9504 refuses ready={BEGUN}"
    old = f"{SERVER} 0.0.1 127.0.0.1:9504 waits={BEGUN} asked={ASKED}"
    start = script(f"test -e /run/went && exec {new}; touch /run/went; exec {old}")
    service("web.service", unit_file(start, KillMode="process"))
    listening(machine, {9504})
    second = f"until test -e {ASKED}; do sleep 0.02; done; systemctl restart web.service"
    with machine.popen(["sh", "-c", second]) as restarting:
        run = runbook(machine, "apply", book("web", wait(*probes("127.0.0.1:9504")[:2], seconds=8), port=9504))
        assert restarting.wait(30) == 0
    assert exists(machine, BEGUN)
    assert verdicts(run) == ["probe-failed"], run.last
    assert "503" in run.step("wait-ready")["reason"]


def test_a_late_answer_from_an_orphan_does_not_count(machine: Machine, service: StartService) -> None:
    """The orphan gets the request, closes the port, and answers after the unit has the port. The unit refuses."""
    late = f"until test -e {LEFT}; do sleep 0.02; done; exec {SERVER} 1.2.3 127.0.0.1:9505 refuses ready={BEGUN}"
    service("web.service", unit_file(script(late)))
    with orphan(machine, "127.0.0.1:9505", f"waits={BEGUN}", f"leaves={LEFT}"):
        run = runbook(machine, "apply", book("web", wait(probes("127.0.0.1:9505")[0], seconds=8)))
    assert exists(machine, BEGUN)
    assert verdicts(run) == ["probe-failed"], run.last
    assert "503" in run.step("wait-ready")["reason"]
