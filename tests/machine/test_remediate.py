"""`runbook remediate` carries out the fix if a check fails, and nothing else; `check` names it if its fix helps."""

from __future__ import annotations

import json
from typing import Any

from tests.machine.incident import NEW, OLD, PORT, UNIT, Incident, holders
from tests.machine.machine import Machine, until
from tests.machine.runs import RUNBOOK, Run, parsed, unit_file, write_runbook

BOOK = f"""
name: upgrade the gateway
unit: {UNIT}
port: {PORT}
vars: {{version: {NEW}}}
steps:
  - update:
      run: gatewayctl install ${{{{ to }}}}
      version: gatewayctl --version
      to: ${{{{ vars.version }}}}
  - restart
  - run: {{run: touch /run/touched}}
  - remediate:
      check:
        - wait-ready: {{healthy-for: 2s, timeout: 1min}}
        - verify-port-owner
      fix: [stop, kill-orphan, reset-failed, start]
rollback: auto
always:
  - run: {{run: touch /run/touched}}
"""


def run(machine: Machine, command: str, text: str = BOOK, *options: str) -> Run:
    write_runbook(machine, text)
    done = machine.run(["runbook", command, RUNBOOK, "--output", "json", *options], check=False, timeout=100)
    return parsed(done.stdout, done.returncode, done.stderr)


def untouched(machine: Machine) -> bool:
    return machine.run(["test", "-e", "/run/touched"], check=False).returncode == 1


def test_the_incident_is_fixed_and_nothing_else_is_done(machine: Machine, incident: Incident) -> None:
    machine.run(["systemctl", "start", UNIT])
    until(lambda: machine.show(UNIT, "NRestarts")["NRestarts"] != "0", "a restart")
    checked = run(machine, "check")
    assert checked.exit == 1, checked.last
    assert checked.last["hint"] == (
        f"runbook apply {RUNBOOK} carries out the upgrade; runbook remediate {RUNBOOK} checks again, and fixes only"
        " what runs now:"
        " stop, kill-orphan, reset-failed, start"
    )
    planned = run(machine, "remediate", BOOK, "--dry-run")
    assert [one["id"].partition(".")[0] for one in planned.of("step-planned")] == ["remediate"] * 7
    # What depends on a step that is not carried out does not wait for it.
    fixed = run(machine, "remediate", BOOK.replace("- remediate:", "- remediate:\n      when: steps.update.changed"))
    assert (fixed.exit, fixed.last["status"]) == (0, "remediated"), fixed.last
    assert {name.partition(".")[0] for name, _, _ in fixed.verdicts} == {"remediate"}
    assert any("no update, no restart" in notice["text"] for notice in fixed.of("notice"))
    assert incident.orphan not in {one.pid for one in holders(machine)}
    assert OLD in machine.run(["gatewayctl", "--version"]).stdout
    assert untouched(machine)
    assert run(machine, "check").exit == 0
    again = run(machine, "remediate")
    assert (again.exit, again.last["status"]) == (0, "ok")
    assert run(machine, "remediate", BOOK, "--fail-on-remediation").exit == 0
    shown: dict[str, Any] = json.loads(machine.read(f"/var/lib/runbook/runs/{fixed.last['run']}/run.json"))
    assert shown["command"] == "remediate"
    machine.run(["systemctl", "stop", UNIT])


def test_a_fix_that_would_be_refused_is_not_advised(machine: Machine) -> None:
    server = "/usr/bin/python3 -m http.server 8091 --bind 127.0.0.1"
    machine.write("/etc/systemd/system/first.service", unit_file(server))
    machine.write("/etc/systemd/system/second.service", unit_file("/bin/sleep infinity"))
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "start", "first", "second"])
    until(lambda: machine.run(["ss", "-Hltn", "sport = :8091"]).stdout, "it to listen")
    book = """
    unit: second
    port: 8091
    steps:
      - remediate: {check: [verify-port-owner], fix: [stop, kill-orphan, start]}
    """
    checked = run(machine, "check", book)
    assert checked.last["verdict"] == "other-unit-holds-port"
    assert "runbook remediate would not fix this: " in checked.last["hint"]
    assert "first.service" in checked.last["hint"]
    machine.run(["systemctl", "stop", "first", "second"])
    machine.run(["rm", "/etc/systemd/system/first.service", "/etc/systemd/system/second.service"])
    machine.run(["systemctl", "daemon-reload"])


def test_a_file_without_a_remediation_is_refused(machine: Machine) -> None:
    refused = run(machine, "remediate", "unit: x\nsteps: [restart]\n")
    assert (refused.exit, refused.last["status"]) == (2, "invalid")
    assert "has no `remediate` step" in refused.last["reason"]
