"""The plan of a healthy upgrade: first what will be done, last what would be done only if a check fails."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.machine import Machine, until
from tests.machine.runs import RUNBOOK, runbook, unit_file, write_runbook

BOOK = """
unit: served
port: 8095
steps:
  - run: {id: engine, run: cat /etc/engine, read-only: true}
  - run: {id: migrate, when: "'sqlite' in steps.engine.output", run: touch /run/migrated}
  - run: {id: dump, when: "'postgres' in steps.engine.output", run: touch /run/dumped}
  - update: {run: "echo ${{ to }} >/srv/served/version", version: cat /srv/served/version, to: 2.0.0}
  - restart: {when: steps.update.changed}
  - remediate:
      check:
        - wait-ready: {healthy-for: 100ms}
        - verify-version: {http: {url: "http://127.0.0.1:8095/version"}, expect: "${{ steps.update.to }}"}
      fix: [stop, kill-orphan, reset-failed, start]
"""


@pytest.fixture
def served(machine: Machine) -> Iterator[Machine]:
    machine.write("/srv/served/version", "1.0.0\n")
    machine.write("/etc/engine", "sqlite\n")
    server = "/usr/bin/python3 -m http.server --directory /srv/served --bind 127.0.0.1 8095"
    machine.write("/etc/systemd/system/served.service", unit_file(server))
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "start", "served"])
    until(lambda: machine.run(["ss", "-Hltn", "sport = :8095"]).stdout, "it to listen")
    yield machine
    machine.run(["systemctl", "stop", "served"])
    machine.run(["rm", "-f", "/etc/systemd/system/served.service", "/run/migrated", "/run/dumped"])
    machine.run(["systemctl", "daemon-reload"])


def test_what_is_done_comes_first(served: Machine) -> None:
    write_runbook(served, BOOK)
    shown = served.run(["runbook", "apply", "--dry-run", RUNBOOK]).stdout
    text = " ".join(shown.split())
    assert "4 update would run `echo 2.0.0 >/srv/served/version`: 1.0.0 -> 2.0.0" in text
    assert "would check after steps 2, 4 and 5, and fix only if a check fails" in text
    assert "verify-version now version-mismatch: 1.0.0 serves, not 2.0.0" in text
    assert "would fix" not in text
    assert "would stop" not in text
    last = "only if a check of step 6 fails: stop, kill-orphan, reset-failed, start"
    assert shown.rstrip().endswith(f"{last}\n\nnothing was changed")


def test_a_when_on_the_output_of_a_step_that_has_just_run_is_evaluated(served: Machine) -> None:
    planned = {one["id"]: one for one in runbook(served, "apply", BOOK, "--dry-run").of("step-planned")}
    assert planned["migrate"]["impact"] == "mutating"
    assert planned["dump"]["reason"].startswith("would be skipped: `when` is false")
    # Whether the update changes anything is not known before.
    assert planned["restart"]["impact"] == "undetermined"
    served.write("/srv/served/version", "2.0.0\n")
    later = BOOK.replace("'sqlite' in", "'oracle' in")
    planned = {one["id"]: one for one in runbook(served, "apply", later, "--dry-run").of("step-planned")}
    assert planned["restart"]["reason"] == "would be skipped: `when` is false (steps.update.changed)"
    assert planned["restart"]["impact"] == "none"
    run = runbook(served, "apply", BOOK)
    assert run.exit == 0, run.last
    assert served.run(["ls", "/run/migrated"]).stdout
    assert served.run(["test", "-e", "/run/dumped"], check=False).returncode == 1
