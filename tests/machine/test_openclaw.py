"""The acceptance test: the incident with the real OpenClaw, fixed by the runbook that the project ships.

The result is checked with systemd, the kernel's tables and OpenClaw itself, not with this program. So is the result of
the runbooks that `runbook init` writes.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
import yaml

from tests.machine.incident import NEW, OLD, PORT, Incident, control_group, holders, loop
from tests.machine.machine import Machine, until
from tests.machine.openclaw import UNIT, install_openclaw, machine_with_openclaw, stage
from tests.machine.tree import CHECKOUT, UID

pytestmark = [pytest.mark.acceptance, pytest.mark.timeout(600)]

RUNBOOK = "/root/openclaw-gateway.yaml"


@pytest.fixture
def staged(request: pytest.FixtureRequest) -> Iterator[Incident]:
    """Boot a machine in which the unit loops beside the orphan, or has hit its start limit."""
    suite, unit_is = request.param
    with machine_with_openclaw(suite) as booted:
        incident = stage(booted)
        try:
            if unit_is == "failed":
                give_up(booted)
            else:
                loop(booted, UNIT)
            booted.write(RUNBOOK, (CHECKOUT / "runbooks/openclaw-gateway.yaml").read_text())
            yield incident
        finally:
            incident.login.kill()
            incident.login.wait()


def give_up(machine: Machine) -> None:
    """Start the unit, and wait until it hits its start limit.

    If a start takes longer than 10 seconds, five of them take longer than the unit's interval of 60, and it would loop
    for ever. So the interval is longer meanwhile.
    """
    limit = f"/etc/systemd/system/{UNIT}.d/limit.conf"
    machine.write(limit, "[Unit]\nStartLimitIntervalSec=10min\n")
    machine.run(["systemctl", "daemon-reload"])
    loop(machine, UNIT)
    until(lambda: machine.show(UNIT, "ActiveState")["ActiveState"] == "failed", "the start limit", 200)
    machine.run(["rm", limit])
    machine.run(["systemctl", "daemon-reload"])


@pytest.mark.parametrize("staged", [("bookworm", "looping"), ("trixie", "failed")], indirect=True, ids="-".join)
def test_the_incident_is_fixed(staged: Incident) -> None:
    machine = staged.machine
    assert {holder.pid for holder in holders(machine)} == {staged.orphan}
    assert control_group(machine, staged.orphan).startswith(f"/user.slice/user-{UID}.slice/session-")
    assert version_on_disk(machine) == OLD
    before = machine.show(UNIT, "InvocationID")["InvocationID"]

    done = machine.run(["runbook", "apply", "--output", "json", RUNBOOK], check=False, timeout=400)

    events = [json.loads(line) for line in done.stdout.splitlines()]
    output = f"{done.stdout}\n{done.stderr}\n{journal(machine)}"
    assert done.returncode == 0, output
    assert events[-1]["event"] == "run-finished", output
    assert (events[-1]["status"], events[-1]["exit"]) == ("remediated", 0), output
    steps = finished(events)
    assert steps["update"]["verdict"] == "updated"
    assert steps["remediate"]["status"] == "remediated"
    assert steps["remediate"]["verdict"] == "fixed"

    # systemd: a new invocation is running.
    seen = machine.show(UNIT, "ActiveState", "SubState", "InvocationID", "MainPID", "Result")
    assert (seen["ActiveState"], seen["SubState"], seen["Result"]) == ("active", "running", "success")
    assert seen["InvocationID"] != before

    # The kernel: only the main process holds the port, on both addresses. The orphan has exited.
    main_pid = int(seen["MainPID"])
    assert {(holder.address, holder.pid) for holder in holders(machine)} == {
        (f"127.0.0.1:{PORT}", main_pid),
        (f"[::1]:{PORT}", main_pid),
    }
    assert control_group(machine, main_pid) == f"/system.slice/{UNIT}"
    assert machine.run(["kill", "-0", str(staged.orphan)], check=False).returncode != 0

    # OpenClaw: the new version is on the disk, and is running and ready.
    assert version_on_disk(machine) == NEW
    assert "[gateway] ready" in journal(machine, f"_PID={main_pid}")
    assert json.loads(machine.run(["curl", "-fsS", f"http://127.0.0.1:{PORT}/health"]).stdout)["ok"] is True

    # A second run has nothing to fix.
    again = machine.run(["runbook", "apply", "--output", "json", RUNBOOK], check=False, timeout=400)
    events = [json.loads(line) for line in again.stdout.splitlines()]
    assert (again.returncode, events[-1]["status"]) == (0, "changed"), f"{again.stdout}\n{again.stderr}"
    steps = finished(events)
    assert steps["update"]["verdict"] == "up-to-date"
    assert steps["remediate"]["verdict"] == "holds"


UPDATE = """\
rm -rf /usr/local/lib/node_modules/.openclaw-*
npm install --global openclaw@${{ to }}
"""
PROBE = {"http": {"url": f"http://127.0.0.1:{PORT}/healthz"}}


@pytest.mark.parametrize("suite", ["bookworm", "trixie"])
def test_init_writes_a_runbook_that_upgrades_it(suite: str) -> None:
    """No line of it has to be completed by hand."""
    with machine_with_openclaw(suite) as machine:
        install_openclaw(machine)
        machine.run(["systemctl", "start", UNIT])
        until(lambda: len(holders(machine)) == 2, "the gateway to listen", 90)
        written = machine.run(["runbook", "init", UNIT])
        book = yaml.safe_load(written.stdout)
        assert (written.stdout.count("FILL IN"), "to be completed" in written.stderr) == (0, False), written.stdout
        assert (book["unit"], book["port"]) == (UNIT, [f"127.0.0.1:{PORT}", f"[::1]:{PORT}"])
        assert (book["vars"], book["rollback"]) == ({"version": OLD}, "auto")
        update, restart, remediate = book["steps"]
        assert (update["update"]["run"], restart) == (UPDATE, "restart")
        assert remediate["remediate"]["check"][0]["wait-ready"]["probes"] == [PROBE]
        before = machine.show(UNIT, "InvocationID")["InvocationID"]
        assert upgrade_with(machine, written.stdout) == "changed"
        assert machine.show(UNIT, "InvocationID")["InvocationID"] != before


@pytest.mark.parametrize("staged", [("bookworm", "looping"), ("trixie", "failed")], indirect=True, ids="-".join)
def test_init_in_the_incident_writes_a_runbook_that_fixes_it(staged: Incident) -> None:
    """Only a probe has to be written by hand, as the unit does not answer; the runbook works without it."""
    machine = staged.machine
    written = machine.run(["runbook", "init", UNIT])
    book = yaml.safe_load(written.stdout)
    assert (book["unit"], book["port"]) == (UNIT, PORT), written.stdout
    [missing] = [line.strip() for line in written.stdout.splitlines() if "FILL IN" in line]
    assert missing.startswith(f"# FILL IN: a probe for port {PORT}")
    assert upgrade_with(machine, written.stdout) == "remediated"
    assert machine.run(["kill", "-0", str(staged.orphan)], check=False).returncode != 0


def upgrade_with(machine: Machine, text: str) -> str:
    """Upgrade with a runbook of `init`, as it is, and return the status of the run. The new version runs afterwards."""
    machine.write("/root/written.yaml", text)
    machine.run(["runbook", "validate", "/root/written.yaml"])
    argv = ["runbook", "apply", "--output", "json", "--set", f"version={NEW}", "/root/written.yaml"]
    done = machine.run(argv, check=False, timeout=400)
    assert done.returncode == 0, f"{done.stdout}\n{done.stderr}\n{journal(machine)}"
    main_pid = int(machine.show(UNIT, "MainPID")["MainPID"])
    assert {holder.pid for holder in holders(machine)} == {main_pid}
    assert version_on_disk(machine) == NEW
    assert "[gateway] ready" in journal(machine, f"_PID={main_pid}")
    return str(json.loads(done.stdout.splitlines()[-1])["status"])


def finished(events: list[dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Return the last `step-finished` of each step, by its id."""
    return {event["id"]: event for event in events if event["event"] == "step-finished"}


def version_on_disk(machine: Machine) -> str:
    """Return the version from `openclaw --version`, which prints it between its name and its commit."""
    return machine.run(["openclaw", "--version"]).stdout.split()[1]


def journal(machine: Machine, *match: str) -> str:
    return machine.run(["journalctl", "--no-pager", "--output=cat", f"--unit={UNIT}", *match]).stdout
