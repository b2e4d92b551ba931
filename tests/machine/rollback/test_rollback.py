"""Runs that fail after their updates and are rolled back, with services that do not come up."""

from __future__ import annotations

from typing import Any

import pytest

from tests.machine.machine import until
from tests.machine.rollback.staging import (
    ANSWERS,
    APP,
    INSTALLS,
    LIB,
    LOOPS,
    NEW,
    OLD,
    PORT,
    READY,
    REPORTS,
    SERVES_OLD,
    STOPPED_FIRST,
    Stage,
    book,
)
from tests.machine.runs import RUNBOOK, Run, parsed, write_runbook
from tests.machine.tree import PROJECT, VENV

REMEDY = """- remediate:
      check: [wait-ready: {healthy-for: 100ms, timeout: 20s}, verify-port-owner]
      fix: [stop, kill-orphan, reset-failed, start]"""


def rolled_back(stage: Stage, run: Run) -> list[str]:
    """Assert that version 1.0.0 answers, and return the steps of the rollback."""
    assert (run.exit, run.last["status"]) == (4, "rolled-back"), run.last
    assert stage.serves == SERVES_OLD
    assert stage.systemd()["ActiveState"] == "active"
    assert run.of("rollback-started")
    return [name.removeprefix("rollback.") for name, _, _ in run.verdicts if name.startswith("rollback.")]


def not_rolled_back(stage: Stage, run: Run) -> str:
    """Assert that the run is not reported as rolled back, and return the output of `runbook show`."""
    assert (run.exit, run.last["status"]) == (1, "failed"), run.last
    shown = stage.show(run)
    assert "rolled-back" not in shown
    return shown


# -- successful rollbacks


def test_the_last_update_is_rolled_back_first(stage: Stage) -> None:
    """Checks for the new version, in a page's body or in `expect`, are made for the earlier one."""
    run = stage.apply(LIB, APP, "- restart", ANSWERS, "- verify-port-owner", REPORTS)
    assert run.step("wait-ready")["verdict"] == "crash-loop"
    steps = rolled_back(stage, run)
    assert steps == [
        "app",
        "lib",
        "reset-failed",
        "restart",
        "wait-ready",
        "verify-port-owner",
        "verify-version",
        "proof",
    ]
    assert stage.log == [f"install lib {NEW}", f"install app {NEW}", f"install app {OLD}", f"install lib {OLD}"]
    assert stage.installed == [OLD, OLD]
    assert run.step("rollback.verify-version")["reason"] == f"{OLD} serves"
    shown = stage.show(run)
    assert f"back rollback app to {OLD}, lib to {OLD}" in shown
    assert "rolled-back: it had failed at wait-ready: crash-loop" in shown
    assert f"back lib is back at {OLD}, app is back at {OLD} now app.service is active (running), PID" in shown


def test_a_list_of_steps_may_have_its_own_update(stage: Stage) -> None:
    back = f"- update: {{id: older, {INSTALLS.format(part='app', to=OLD)}}}"
    steps = (back, "- run: {run: touch /run/stage/cleaned}", "- reset-failed", "- restart", READY)
    run = stage.apply(LIB, APP, "- restart", ANSWERS, rollback=steps)
    # The list does not have `lib`.
    assert (run.exit, run.last["status"], stage.installed) == (4, "rolled-back", [OLD, NEW]), run.last
    assert stage.sh("ls /run/stage/cleaned")
    ids = [name for name, _, _ in run.verdicts if name.startswith("rollback.")]
    assert ids[-2:] == ["rollback.wait-ready", "rollback.wait-ready-2"]
    assert f'"app": "{OLD}"' in stage.serves
    assert "back the steps of `rollback` were carried out" in stage.show(run)


def test_a_list_that_does_not_install_the_earlier_version_fails(stage: Stage) -> None:
    """All of its steps succeed, but the checks for the earlier version still have to pass."""
    run = stage.apply(APP, "- restart", READY, rollback=("- reset-failed", "- restart"))
    shown = not_rolled_back(stage, run)
    assert "the rollback failed at wait-ready: crash-loop" in shown
    assert "back the steps of `rollback` were carried out, as far as rollback.wait-ready" in shown


def test_a_start_limit_is_cleared_by_the_rollback(stage: Stage) -> None:
    run = stage.apply(APP, "- restart", LOOPS)
    found = run.step("wait-ready")
    assert found["verdict"] == "start-limit-hit"
    # Result= has another reason (systemd #32203).
    assert found["evidence"]["Result"] == "exit-code"
    assert rolled_back(stage, run) == ["app", "reset-failed", "restart", "wait-ready", "proof"]
    assert stage.systemd()["NRestarts"] == "0"


@pytest.fixture
def triggered(stage: Stage) -> Stage:
    """Start app.socket, which passes its socket on, and app.timer and app.path, which would start the unit, too."""
    stage.machine.write("/etc/systemd/system/app.socket", f"[Socket]\nListenStream=127.0.0.1:{PORT}\n")
    stage.machine.write("/etc/systemd/system/app.timer", "[Timer]\nOnActiveSec=1h\n")
    stage.machine.write("/etc/systemd/system/app.path", "[Path]\nPathExists=/run/stage/wake\n")
    stage.sh("systemctl stop app.service; systemctl daemon-reload; systemctl start app.socket app.timer app.path")
    until(lambda: stage.serves, "it to serve")
    return stage


def trigger_states(stage: Stage) -> list[str]:
    return stage.sh("systemctl is-active app.socket app.timer app.path", check=False).split()


def test_a_failed_trigger_is_started_again_by_the_rollback(triggered: Stage) -> None:
    """If a service has used up its starts, systemd sets its socket to failed, and does not open it again by itself."""
    run = triggered.apply(STOPPED_FIRST, "- start", LOOPS)
    assert run.step("wait-ready")["verdict"] == "start-limit-hit"
    assert "app.socket" not in run.step("rollback.app")["reason"]
    rolled_back(triggered, run)
    assert trigger_states(triggered) == ["active"] * 3
    assert "app.socket is active (running)" in triggered.show(run)


def test_a_failed_update_with_stop_first_releases_all_units(triggered: Stage) -> None:
    triggered.set_flags(f"refuses-{NEW}")
    run = triggered.apply(STOPPED_FIRST, "- start", READY)
    assert run.step("app")["verdict"] == "update-failed"
    assert "app.socket was started again" in run.step("app")["reason"]
    rolled_back(triggered, run)
    assert (trigger_states(triggered), triggered.log) == (["active"] * 3, [f"install app {NEW}"])


def test_an_update_that_times_out_is_rolled_back(triggered: Stage) -> None:
    """It ignores TERM. The rollback begins only after it was killed."""
    triggered.set_flags(f"waits-{NEW}")
    run = triggered.apply(STOPPED_FIRST.replace("timeout: 20s", "timeout: 6s"), "- start", READY)
    assert run.step("app")["verdict"] == "timed-out"
    rolled_back(triggered, run)
    # The log does not have its last line, so it was killed before it continued.
    assert (trigger_states(triggered), triggered.log) == (["active"] * 3, [f"install app {NEW}", f"install app {OLD}"])


# -- failed rollbacks


def test_a_rollback_fails_if_the_earlier_version_cannot_be_installed(stage: Stage) -> None:
    stage.set_flags(f"refuses-{OLD}")
    run = stage.apply(LIB, APP, "- restart", READY)
    shown = not_rolled_back(stage, run)
    assert "failed at wait-ready: crash-loop; the rollback failed at app: update-failed" in shown
    assert f"back lib was not taken back to {OLD}, app is at {NEW}, not back at {OLD}" in shown
    assert f"next install {OLD} by hand, then systemctl reset-failed app.service and systemctl restart" in shown
    assert "no package app-1.0.0 in the index" in shown
    assert stage.installed == [NEW, NEW]
    assert "app.service is" in run.last["now"]
    assert "no process listens on port 8070" in run.last["now"]


def test_a_rollback_fails_if_the_earlier_version_does_not_start(stage: Stage) -> None:
    """The new version has migrated the data of both."""
    stage.set_flags("migrates")
    run = stage.apply(APP, "- restart", READY)
    shown = not_rolled_back(stage, run)
    assert "the rollback failed at wait-ready: crash-loop" in shown
    assert f"back app is back at {OLD} now app.service is" in shown
    assert "cannot read the configuration: it is of a later version" in shown
    assert "next journalctl -u app.service -n 30 shows why" in shown


def test_a_rollback_fails_if_the_earlier_version_is_not_found(stage: Stage) -> None:
    """The service is up and owns its port, but does not report its version."""
    stage.set_flags("mute")
    run = stage.apply(APP, "- restart", ANSWERS.replace("timeout: 20s", "timeout: 3s"))
    shown = not_rolled_back(stage, run)
    assert "the rollback failed at wait-ready: probe-failed" in shown
    assert f"back app is back at {OLD} now app.service is active (running), PID" in shown


def test_a_slow_earlier_version_is_waited_for_after_a_resume(stage: Stage) -> None:
    stage.set_flags("slow")
    run = stage.apply(APP, "- restart", READY.replace("timeout: 20s", "timeout: 2s"))
    assert (run.exit, run.last["status"]) == (3, "still-starting"), run.last
    shown = stage.show(run)
    assert "still-starting: it had failed at wait-ready: crash-loop; the earlier version was left alone" in shown
    assert f"back app is back at {OLD}" in shown
    assert f"next runbook resume {run.last['run']} continues to wait" in shown
    stage.clear_flags("slow")
    until(lambda: stage.serves, "it to serve")
    done = stage.machine.run(["runbook", "resume"], check=False)
    assert done.returncode == 4, done.stdout
    assert "back  rollback             continues" in done.stdout
    assert "rolled-back: it had failed at wait-ready: crash-loop" in done.stdout
    assert stage.log == [f"install app {NEW}", f"install app {OLD}"]


def test_a_rollback_fails_if_an_orphan_holds_the_port(stage: Stage) -> None:
    """The orphan is of the new version, and answers. No step of the runbook kills it."""
    stage.set_flags("leaves")
    run = stage.apply(APP, "- restart", READY)
    shown = not_rolled_back(stage, run)
    assert "the rollback failed at wait-ready: orphan-holds-port" in shown
    assert f'"app": "{NEW}"' in stage.serves
    assert f"back app is back at {OLD} now app.service is" in shown
    assert "port 8070 is held by PID" in run.last["now"]
    advice = "next kill it by hand if it is not needed, then systemctl reset-failed app.service and systemctl restart"
    assert advice in shown
    # That advice does fix it.
    stage.sh("systemctl stop stray.scope; systemctl reset-failed app.service; systemctl restart app.service")
    until(lambda: stage.serves == SERVES_OLD, "the earlier version to serve")


def test_an_orphan_that_the_runbook_kills_does_not_prevent_a_rollback(stage: Stage) -> None:
    stage.set_flags("leaves")
    run = stage.apply(APP, "- restart", REMEDY)
    assert run.step("remediate.fix.kill-orphan")["verdict"] == "killed"
    assert run.step("remediate")["verdict"] == "not-fixed"
    assert rolled_back(stage, run) == ["app", "reset-failed", "restart", "wait-ready", "verify-port-owner", "proof"]


BREAKS_THE_PROGRAM = """\
- run:
      id: upgrade-all
      run: |
        find /opt/copy -name __pycache__ -prune -exec rm -r {} +
        find /opt/copy -name '*.py' -exec sh -c 'for file; do echo "import of_another_version" >"$file"; done' - {} +"""


def test_an_upgrade_of_this_program_does_not_disturb_the_run(stage: Stage) -> None:
    """Whatever is not loaded when the command has replaced the files of `runbook` cannot be loaded any more."""
    stage.sh(f"mkdir -p /opt/copy; cp -r {PROJECT}/src /opt/copy")
    try:
        write_runbook(stage.machine, book(APP, BREAKS_THE_PROGRAM, "- restart", ANSWERS))
        copy: Any = {"env": {"PYTHONPATH": "/opt/copy/src"}, "check": False}
        program = [f"{VENV}/bin/python", "-c", "from runbook.cli import main; main()"]
        done = stage.machine.run([*program, "apply", RUNBOOK, "--output", "json"], timeout=100, **copy)
        broken = stage.machine.run([*program, "--version"], **copy)
    finally:
        stage.sh("rm -r /opt/copy")
    assert "No module named 'of_another_version'" in broken.stderr, done.stdout
    rolled_back(stage, parsed(done.stdout, done.returncode, done.stderr))


def test_nothing_is_rolled_back_without_an_earlier_version(stage: Stage) -> None:
    stage.sh("rm /opt/app/version")
    run = stage.apply(APP, "- restart", READY)
    shown = not_rolled_back(stage, run)
    assert "back there was no version before app, so nothing was undone" in shown
    assert not run.of("rollback-started")
