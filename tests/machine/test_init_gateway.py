"""`runbook init` of a service of one's own: below a link that each upgrade flips, and while an orphan has its port."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.machine import incident as staged
from tests.machine.incident import GATEWAY, NEW, UNIT, Incident, install_gateway, remove_unit
from tests.machine.machine import Machine, until
from tests.machine.runs import Run, parsed

FILE = "/root/first.yaml"
PROGRAM = "/opt/gateway/current/gateway"


@pytest.fixture
def gateway(machine: Machine) -> Iterator[Machine]:
    """Start the gateway, which runs below the link `current`."""
    install_gateway(machine, start_seconds=0)
    machine.run(["systemctl", "start", UNIT])
    until(lambda: len(staged.holders(machine)) == 2, "the gateway to listen")
    yield machine
    remove_unit(machine, UNIT)
    machine.run(["rm", "-rf", "/opt/gateway", "/usr/local/bin/gatewayctl", FILE])


def init(machine: Machine) -> tuple[dict[str, Any], str]:
    """Return the first runbook, as data and as text."""
    machine.run(["rm", "-f", FILE])
    machine.run(["runbook", "init", "gateway", "--write", FILE])
    text = machine.read(FILE)
    found: dict[str, Any] = yaml.safe_load(text)
    return found, text


def check(machine: Machine) -> Run:
    done = machine.run(["runbook", "check", "--output", "json", FILE], check=False)
    return parsed(done.stdout, done.returncode, done.stderr)


def test_a_link_that_an_upgrade_flips_stays_a_link(gateway: Machine) -> None:
    found, text = init(gateway)
    assert staged.OLD not in text.replace(f"printed {staged.OLD}", "").replace(f'"{staged.OLD}"', "")
    assert found["steps"][-1]["remediate"]["check"][-1] == {"verify-version": {"newer-than": [PROGRAM]}}
    assert f"version: {PROGRAM} --version    # printed {staged.OLD} just now" in text
    assert check(gateway).exit == 0
    gateway.write(f"/opt/gateway/{NEW}/gateway", GATEWAY.read_text(), 0o755)
    gateway.run(["ln", "-sfn", NEW, "/opt/gateway/current"])
    before = check(gateway)
    assert (before.exit, before.step("remediate.check.verify-version")["verdict"]) == (1, "old-code-serving")
    assert staged.answer(gateway)["version"] == staged.OLD
    gateway.run(["systemctl", "restart", UNIT])
    until(lambda: len(staged.holders(gateway)) == 2, "the gateway to listen again")
    after = check(gateway)
    assert (after.exit, staged.answer(gateway)["version"]) == (0, NEW), after.last


def test_a_unit_that_has_just_begun_beside_an_orphan(machine: Machine) -> None:
    """Its log has nothing yet: only ExecStart= and the orphan show the port, as `runbook doctor` finds it."""
    orphan = staged.stage(machine, start_seconds=30)
    try:
        machine.run(["systemctl", "start", UNIT])
        assert_port_and_kill(machine)
    finally:
        orphan.clear()


def test_a_unit_that_loops_beside_an_orphan(machine: Machine, incident: Incident) -> None:
    staged.without_limit(machine)
    staged.loop(machine)
    assert_port_and_kill(machine)


def test_a_runbook_that_is_not_complete_is_reported_and_valid(gateway: Machine) -> None:
    """A comment is no mistake, but must not be forgotten."""
    _, text = init(gateway)
    [at] = [number for number, line in enumerate(text.splitlines(), 1) if "# FILL IN:" in line]
    report = f"line {at} is still marked FILL IN"
    validated = gateway.run(["runbook", "validate", FILE])
    assert (validated.stdout, report in " ".join(validated.stderr.split())) == ("1 file, no errors\n", True)
    for command in (["apply", "--dry-run"], ["apply"]):
        done = gateway.run(["runbook", *command, "--output", "json", FILE], timeout=60)
        assert report in [one["text"] for one in parsed(done.stdout, done.returncode).of("notice")]


def assert_port_and_kill(machine: Machine) -> None:
    found, text = init(machine)
    remediate = found["steps"][-1]["remediate"]
    assert (found["port"], "kill-orphan" in remediate["fix"]) == (staged.PORT, True), text
    assert "verify-port-owner" in remediate["check"]
    machine.run(["rm", FILE])
