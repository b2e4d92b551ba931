"""The first incident, fixed by the installed command, and checked without it."""

from __future__ import annotations

import contextlib
import json
import re
from collections.abc import Iterator
from typing import Any

from tests.machine.incident import NEW, OLD, PORT, UNIT, Incident, answer, holders, loop, without_limit
from tests.machine.machine import Machine, until
from tests.machine.runs import parsed, runbook, write_runbook

BOOK = f"""
    name: upgrade the gateway
    unit: {UNIT}
    port: {PORT}
    vars: {{version: "{NEW}"}}
    steps:
      - update:
          run: gatewayctl install ${{{{ to }}}}
          version: gatewayctl --version
          to: ${{{{ vars.version }}}}
      - restart
      - remediate:
          check:
            - wait-ready: {{healthy-for: 2s, timeout: 30s}}
            - verify-port-owner
          fix: [stop, kill-orphan, reset-failed, start]
"""

SYSTEMD = "org.freedesktop.systemd1"
READS = {
    "Hello", "AddMatch", "RemoveMatch", "GetNameOwner", "StartServiceByName", "Ping", "GetMachineId",
    "Subscribe", "Unsubscribe", "GetUnit", "LoadUnit", "GetJob", "Get", "GetAll", "GetUnitByPID", "ListUnitsByNames",
    "ListUnitsByPatterns",
}  # fmt: skip
"""The bus calls that change nothing (org.freedesktop.systemd1(5)). Subscribe requests signals for this client only."""


@contextlib.contextmanager
def monitored(machine: Machine) -> Iterator[list[dict[str, Any]]]:
    """Yield a list, which has all method calls on the system bus when the context is left."""
    log = "/run/bus.log"

    def mark(member: str) -> bool:
        machine.run(["busctl", "call", SYSTEMD, "/org/freedesktop/systemd1", "org.freedesktop.DBus.Peer", member])
        return f'"member":"{member}"' in machine.read(log)

    calls: list[dict[str, Any]] = []
    with machine.popen(["sh", "-c", f"exec stdbuf -oL busctl monitor --json=short > {log}"]) as monitor:
        until(lambda: mark("Ping"), "the monitor to listen")
        yield calls
        until(lambda: mark("GetMachineId"), "the monitor to have received all calls")
        machine.run(["pkill", "-f", "busctl monitor"])
        monitor.communicate(timeout=10)
    lines = machine.read(log).splitlines()
    calls += [m for m in map(json.loads, filter(None, lines)) if m["type"] == "method_call"]


def test_the_incident_is_fixed(machine: Machine, incident: Incident) -> None:
    without_limit(machine)
    loop(machine)
    run = runbook(machine, "apply", BOOK)
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert run.verdicts == [
        ("update", "changed", "updated"),
        ("restart", "changed", "job-done"),
        ("remediate.check.wait-ready", "failed", "orphan-holds-port"),
        ("remediate.fix.stop", "changed", "job-done"),
        ("remediate.fix.kill-orphan", "changed", "killed"),
        ("remediate.fix.reset-failed", "changed", "reset"),
        ("remediate.fix.start", "changed", "job-done"),
        ("remediate.check.wait-ready", "ok", "ready"),
        ("remediate.check.verify-port-owner", "ok", "owned"),
        ("remediate", "remediated", "fixed"),
    ]
    killed = run.step("remediate.fix.kill-orphan")["evidence"]["killed"]
    assert [(k["pid"], k["role"], k["user"]) for k in killed] == [(incident.orphan, "orphan", "agentops")]
    assert re.fullmatch(r"session-\w+\.scope", killed[0]["unit"])
    # Checked with systemd, the kernel and the service, not with this program.
    main = int(machine.show(UNIT, "MainPID")["MainPID"])
    assert {(h.address, h.pid) for h in holders(machine)} == {(f"127.0.0.1:{PORT}", main), (f"[::1]:{PORT}", main)}
    assert answer(machine) == {"version": NEW, "pid": main}
    # A second run finds the unit healthy, and only restarts it.
    again = runbook(machine, "apply", BOOK)
    assert (again.exit, again.last["status"]) == (0, "changed")
    assert again.step("update")["verdict"] == "up-to-date"
    assert again.step("remediate")["verdict"] == "holds"


def traces(machine: Machine) -> str:
    """Return what runs leave: their records, and their units. Earlier tests may have left some."""
    look = "find /var/lib/runbook /run/runbook -printf '%p %s %T@\\n'; systemctl list-units --all --plain 'runbook-*'"
    return machine.run(["sh", "-c", look], check=False).stdout


def test_a_dry_run_names_the_orphan_and_changes_nothing(machine: Machine, incident: Incident) -> None:
    without_limit(machine)
    loop(machine)
    path = write_runbook(machine, BOOK)
    records = traces(machine)
    with monitored(machine) as calls:
        done = machine.run(["runbook", "apply", "--dry-run", path, "--output", "json"], check=False)
    # systemd and the units act meanwhile, so only the calls of this program are checked.
    own = {m["sender"] for m in calls if m["member"] == "LoadUnit"}
    assert own, "no call of the dry run was recorded"
    assert {m["member"] for m in calls if m["sender"] in own} <= READS

    plan = parsed(done.stdout, done.returncode, done.stderr)
    assert (plan.exit, plan.last["event"], plan.last["would-change"]) == (0, "plan-finished", True)
    planned = {e["id"]: e for e in plan.of("step-planned")}
    assert planned["update"]["impact"] == "mutating"
    assert planned["remediate"]["impact"] == "undetermined"
    assert planned["remediate"]["undetermined-by"] == ["update", "restart"]
    kill = planned["remediate.fix.kill-orphan"]
    assert f"PID {incident.orphan}" in kill["reason"]
    assert [h["pid"] for h in kill["evidence"]["ports"][0]["holders"]] == [incident.orphan]
    # The machine is unchanged: the old version, the orphan, no record of a run.
    assert answer(machine)["version"] == OLD
    assert machine.run(["gatewayctl", "--version"]).stdout.strip().endswith(OLD)
    assert {holder.pid for holder in holders(machine)} == {incident.orphan}
    assert traces(machine) == records


def test_check_fails_for_the_incident(machine: Machine, incident: Incident) -> None:
    loop(machine)
    run = runbook(machine, "check", BOOK)
    assert run.exit == 1
    assert run.verdicts == [
        ("remediate.check.wait-ready", "failed", "orphan-holds-port"),
        ("remediate.check.verify-port-owner", "failed", "orphan-holds-port"),
    ]
    assert {holder.pid for holder in holders(machine)} == {incident.orphan}


def test_a_run_that_needed_a_fix_can_be_a_failure_for_ci(machine: Machine, incident: Incident) -> None:
    without_limit(machine)
    loop(machine)
    run = runbook(machine, "apply", BOOK, "--fail-on-remediation")
    assert (run.exit, run.last["status"], run.last["exit"]) == (6, "remediated", 6), run.verdicts
