"""Each run is in the journal too: beside the unit's own lines, with fields to search for, without secrets."""

from __future__ import annotations

import json
from typing import Any

from runbook.report.journal import KILL_MESSAGE_ID, MESSAGE_IDS
from tests.machine.conftest import StartService
from tests.machine.incident import PORT, UNIT, Incident, loop
from tests.machine.machine import Machine, until
from tests.machine.runs import runbook, unit_file
from tests.machine.tree import USER


def entries(machine: Machine, *match: str, user: str | None = None) -> list[dict[str, Any]]:
    """Return the entries that journalctl finds, the oldest first."""
    machine.run(["journalctl", "--sync"])
    found = machine.run(["journalctl", "--no-pager", "--output=json", *match], user=user).stdout
    return [json.loads(line) for line in found.splitlines()]


def of_run(machine: Machine, run: str) -> list[dict[str, Any]]:
    return entries(machine, f"RUNBOOK_RUN={run}")


def test_the_entries_of_a_run_are_found_with_its_unit(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    book = "name: a new web\nunit: web\nsteps: [run: {run: 'true'}, restart]\n"
    run = runbook(machine, "apply", book)
    name = run.last["run"]
    found = entries(machine, "--unit", "web.service", "SYSLOG_IDENTIFIER=runbook", f"RUNBOOK_RUN={name}")
    assert [entry["MESSAGE"] for entry in found] == [
        f"run {name} begins: a new web",
        "run: about to run `true`",
        "run: changed, command-done: `true` exited with status 0",
        *(f"restart: {text}" for text in (f"about to {acting(run)}", f"changed, job-done: {reason(run, 'restart')}")),
        f"run {name} ended, changed: {run.last['reason']}",
    ]
    assert {entry["OBJECT_SYSTEMD_UNIT"] for entry in found} == {"web.service"}
    assert {entry["RUNBOOK_UNIT"] for entry in found} == {"web.service"}
    assert {entry["RUNBOOK_NAME"] for entry in found} == {"a new web"}
    assert {(entry["RUNBOOK_USER"], entry["RUNBOOK_USER_SOURCE"]) for entry in found} == {("root", "uid")}
    last = found[-2]
    assert (last["RUNBOOK_STEP"], last["RUNBOOK_TYPE"]) == ("restart", "restart")
    assert (last["RUNBOOK_STATUS"], last["RUNBOOK_VERDICT"]) == ("changed", "job-done")
    [began] = entries(machine, f"MESSAGE_ID={MESSAGE_IDS['run-started']}", f"RUNBOOK_RUN={name}")
    assert (began["PRIORITY"], began["SYSLOG_IDENTIFIER"]) == ("6", "runbook")
    assert of_run(machine, name) == found
    looked = [runbook(machine, "apply", book, "--dry-run"), runbook(machine, "check", book)]
    assert [of_run(machine, one.last["run"]) for one in looked] == [[], []]


def acting(run: Any) -> str:
    [text] = [event["reason"] for event in run.of("step-acting") if event["id"] == "restart"]
    return str(text)


def reason(run: Any, step: str) -> str:
    return str(run.step(step)["reason"])


def test_a_failure_has_the_priority_err_and_no_secret(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    book = "unit: web\nsecrets: [TOKEN]\nsteps: [run: {run: 'echo no use for open-sesame >&2; exit 7'}]\n"
    machine.write("/root/secret.yaml", book)
    done = machine.run(["env", "TOKEN=open-sesame", "runbook", "apply", "/root/secret.yaml"], check=False)
    assert done.returncode == 1
    errors = entries(machine, "--unit", "web.service", "--priority", "err", "SYSLOG_IDENTIFIER=runbook")
    assert "command-failed: `echo no use for *** >&2; exit 7` exited with status 7" in errors[-2]["MESSAGE"]
    assert errors[-1]["RUNBOOK_STATUS"] == "failed"
    machine.run(["journalctl", "--sync"])
    assert "open-sesame" not in machine.run(["journalctl", "--no-pager", "--output=export", "-a"]).stdout


def test_a_message_too_long_for_a_datagram_arrives_whole(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    name = "x" * 400_000
    run = runbook(machine, "apply", f"name: {name}\nunit: web\nsteps: [reset-failed]\n")
    assert run.exit == 0
    [began] = entries(machine, "--all", f"MESSAGE_ID={MESSAGE_IDS['run-started']}", f"RUNBOOK_RUN={run.last['run']}")
    assert began["MESSAGE"] == f"run {run.last['run']} begins: {name}"


def test_a_run_works_without_the_journal(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    machine.run(["mv", "/run/systemd/journal/socket", "/run/systemd/journal/away"])
    try:
        run = runbook(machine, "apply", "unit: web\nsteps: [restart]\n")
    finally:
        machine.run(["mv", "/run/systemd/journal/away", "/run/systemd/journal/socket"])
    assert (run.exit, run.last["status"]) == (0, "changed")


def test_an_entry_names_a_process_before_it_is_killed(machine: Machine, incident: Incident) -> None:
    """journald itself adds the facts of the process, which is still running then."""
    loop(machine)
    book = f"""
        unit: {UNIT}
        port: {PORT}
        steps:
          - remediate:
              check: [wait-ready: {{healthy-for: 500ms, timeout: 30s}}]
              fix: [stop, kill-orphan, reset-failed, start]
    """
    run = runbook(machine, "apply", book)
    assert run.last["status"] == "remediated", run.last
    found = of_run(machine, run.last["run"])
    assert {entry["MESSAGE_ID"] for entry in found} >= {MESSAGE_IDS["fix-started"], MESSAGE_IDS["step-acting"]}
    [ending] = [entry for entry in found if entry["MESSAGE_ID"] == KILL_MESSAGE_ID]
    assert ending["MESSAGE"].startswith(f"about to kill PID {incident.orphan} (")
    assert ending["OBJECT_PID"] == str(incident.orphan)
    assert ending["OBJECT_UID"] == "1000"
    assert UNIT in ending["OBJECT_SYSTEMD_UNIT"]


def test_a_run_of_a_user_is_in_the_journal(machine: Machine) -> None:
    machine.run(["loginctl", "enable-linger", USER])
    machine.write(f"/home/{USER}/.config/systemd/user/mine.service", unit_file("/usr/bin/sleep infinity"))
    machine.run(["chown", "-R", USER, f"/home/{USER}"])
    systemctl = ["systemctl", "--user"]
    until(lambda: machine.run([*systemctl, "daemon-reload"], check=False, user=USER).returncode == 0, "a manager")
    try:
        run = runbook(machine, "apply", "scope: user\nunit: mine\nsteps: [restart]\n", user=USER)
        assert run.exit == 0, run.last
        found = entries(machine, "_UID=1000", f"RUNBOOK_RUN={run.last['run']}")
        assert {entry["OBJECT_SYSTEMD_USER_UNIT"] for entry in found} == {"mine.service"}
        assert len(found) == 4
        assert {entry["RUNBOOK_USER"] for entry in found} == {USER}
        # The user manager, and what it starts, may be of a login.
        assert {entry["RUNBOOK_USER_SOURCE"] for entry in found} <= {"uid", "loginuid"}
    finally:
        machine.run([*systemctl, "stop", "mine"], user=USER, check=False)
        machine.run(["loginctl", "disable-linger", USER])
