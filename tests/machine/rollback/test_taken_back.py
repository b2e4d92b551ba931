"""Runs that fail after their updates, and are rolled back: with services that really do not come up."""

from __future__ import annotations

import pytest

from tests.machine.machine import until
from tests.machine.rollback.staging import (
    ANSWERS,
    APP,
    HELD,
    INSTALLS,
    LIB,
    LOOPS,
    NEW,
    OLD,
    PORT,
    READY,
    SERVES_OLD,
    TELLS,
    Stage,
)
from tests.machine.runs import Run

REMEDY = """- remediate:
      check: [wait-ready: {healthy-for: 100ms, timeout: 20s}, verify-port-owner]
      fix: [stop, kill-orphan, reset-failed, start]"""


def rolled_back(stage: Stage, run: Run) -> list[str]:
    """See that 1.0.0 serves by its own word, and give the steps of the rollback."""
    assert (run.exit, run.last["status"]) == (4, "rolled-back"), run.last
    assert stage.serves == SERVES_OLD
    assert stage.systemd()["ActiveState"] == "active"
    assert run.of("rollback-started")
    return [name.removeprefix("rollback.") for name, _, _ in run.verdicts if name.startswith("rollback.")]


def not_rolled_back(stage: Stage, run: Run) -> str:
    """See that nothing is called rolled back, and give what a person reads."""
    assert (run.exit, run.last["status"]) == (1, "failed"), run.last
    told = stage.told(run)
    assert "rolled-back" not in told
    return told


# -- it comes back


def test_several_the_last_first(stage: Stage) -> None:
    """What names the new version, a page's body or `expect`, is held against the earlier one."""
    run = stage.apply(LIB, APP, "- restart", ANSWERS, "- verify-port-owner", TELLS)
    assert run.step("wait-ready")["verdict"] == "crash-loop"
    steps = rolled_back(stage, run)
    assert steps == ["app", "lib", "reset-failed", "restart", "wait-ready", "verify-port-owner", "verify-version"]
    assert stage.log == [f"install lib {NEW}", f"install app {NEW}", f"install app {OLD}", f"install lib {OLD}"]
    assert stage.installed == [OLD, OLD]
    assert run.step("rollback.verify-version")["reason"] == f"{OLD} serves"
    told = stage.told(run)
    assert f"back rollback app to {OLD}, lib to {OLD}" in told
    assert "rolled-back: it had failed at wait-ready: crash-loop" in told
    assert f"back lib is back at {OLD}, app is back at {OLD} now app.service is active (running), PID" in told


def test_a_list_with_an_update_of_its_own(stage: Stage) -> None:
    back = f"- update: {{id: older, {INSTALLS.format(part='app', to=OLD)}}}"
    steps = (back, "- run: {run: touch /run/stage/cleaned}", "- reset-failed", "- restart", READY)
    run = stage.apply(LIB, APP, "- restart", ANSWERS, rollback=steps)
    # Of `lib` the list says nothing.
    assert (run.exit, run.last["status"], stage.installed) == (4, "rolled-back", [OLD, NEW]), run.last
    assert stage.sh("ls /run/stage/cleaned")
    ids = [name for name, _, _ in run.verdicts if name.startswith("rollback.")]
    assert ids[-2:] == ["rollback.wait-ready", "rollback.wait-ready-2"]
    assert f'"app": "{OLD}"' in stage.serves
    assert "back the steps of `rollback` were carried out" in stage.told(run)


def test_a_list_that_does_not_bring_the_earlier_version(stage: Stage) -> None:
    """The steps all end well; that the earlier version serves must be seen all the same."""
    run = stage.apply(APP, "- restart", READY, rollback=("- reset-failed", "- restart"))
    told = not_rolled_back(stage, run)
    assert "the rollback failed at wait-ready: crash-loop" in told
    assert "back the steps of `rollback` were carried out, as far as rollback.wait-ready" in told


def test_past_a_start_limit_that_was_hit(stage: Stage) -> None:
    run = stage.apply(APP, "- restart", LOOPS)
    found = run.step("wait-ready")
    assert found["verdict"] == "start-limit-hit"
    # systemd's own word for why it failed is another one (systemd #32203).
    assert found["evidence"]["Result"] == "exit-code"
    assert rolled_back(stage, run) == ["app", "reset-failed", "restart", "wait-ready"]
    assert stage.systemd()["NRestarts"] == "0"


@pytest.fixture
def woken(stage: Stage) -> Stage:
    """app.socket passes its socket on; app.timer and app.path would start it, too."""
    stage.machine.write("/etc/systemd/system/app.socket", f"[Socket]\nListenStream=127.0.0.1:{PORT}\n")
    stage.machine.write("/etc/systemd/system/app.timer", "[Timer]\nOnActiveSec=1h\n")
    stage.machine.write("/etc/systemd/system/app.path", "[Path]\nPathExists=/run/stage/wake\n")
    stage.sh("systemctl stop app.service; systemctl daemon-reload; systemctl start app.socket app.timer app.path")
    until(lambda: stage.serves, "it to serve")
    return stage


def waking(stage: Stage) -> list[str]:
    return stage.sh("systemctl is-active app.socket app.timer app.path", check=False).split()


def test_what_starts_it_fails_with_the_new_version_and_comes_back(woken: Stage) -> None:
    """systemd fails a socket whose service has used up its starts, and does not open it again by itself."""
    run = woken.apply(HELD, "- start", LOOPS)
    assert run.step("wait-ready")["verdict"] == "start-limit-hit"
    assert "app.socket" not in run.step("rollback.app")["reason"]
    rolled_back(woken, run)
    assert waking(woken) == ["active"] * 3
    assert "app.socket is active (running)" in woken.told(run)


def test_a_held_update_that_fails_lets_all_go(woken: Stage) -> None:
    woken.let(f"refuses-{NEW}")
    run = woken.apply(HELD, "- start", READY)
    assert run.step("app")["verdict"] == "update-failed"
    assert "app.socket was started again" in run.step("app")["reason"]
    rolled_back(woken, run)
    assert (waking(woken), woken.log) == (["active"] * 3, [f"install app {NEW}"])


def test_an_update_that_is_stopped_half_way(woken: Stage) -> None:
    """It ignores TERM. Nothing is installed beside it, and what its files let fail comes back."""
    woken.let(f"waits-{NEW}")
    run = woken.apply(HELD.replace("timeout: 20s", "timeout: 6s"), "- start", READY)
    assert run.step("app")["verdict"] == "timed-out"
    rolled_back(woken, run)
    # Its last line, which comes when it may go on, is not there.
    assert (waking(woken), woken.log) == (["active"] * 3, [f"install app {NEW}", f"install app {OLD}"])


# -- it does not


def test_the_earlier_version_cannot_be_installed(stage: Stage) -> None:
    stage.let(f"refuses-{OLD}")
    run = stage.apply(LIB, APP, "- restart", READY)
    told = not_rolled_back(stage, run)
    assert "failed at wait-ready: crash-loop; the rollback failed at update: update-failed" in told
    assert f"back lib was not taken back to {OLD}, app is at {NEW}, not back at {OLD}" in told
    assert f"next install {OLD} by hand, then systemctl reset-failed app.service and systemctl restart" in told
    assert "no package app-1.0.0 in the index" in told
    assert stage.installed == [NEW, NEW]
    assert "app.service is" in run.last["now"]
    assert "no process listens on port 8070" in run.last["now"]


def test_the_earlier_version_does_not_come_up(stage: Stage) -> None:
    """The new one has migrated what both read."""
    stage.let("migrates")
    run = stage.apply(APP, "- restart", READY)
    told = not_rolled_back(stage, run)
    assert "the rollback failed at wait-ready: crash-loop" in told
    assert f"back app is back at {OLD} now app.service is" in told
    assert "cannot read the configuration: it is of a later version" in told
    assert "next journalctl -u app.service -n 30 shows why" in told


def test_the_earlier_version_is_not_proved(stage: Stage) -> None:
    """It is up, owns its port, and does not say what it is."""
    stage.let("mute")
    run = stage.apply(APP, "- restart", ANSWERS.replace("timeout: 20s", "timeout: 3s"))
    told = not_rolled_back(stage, run)
    assert "the rollback failed at wait-ready: probe-failed" in told
    assert f"back app is back at {OLD} now app.service is active (running), PID" in told


def test_an_earlier_version_that_is_slow_is_waited_for(stage: Stage) -> None:
    stage.let("slow")
    run = stage.apply(APP, "- restart", READY.replace("timeout: 20s", "timeout: 2s"))
    assert (run.exit, run.last["status"]) == (3, "still-starting"), run.last
    told = stage.told(run)
    assert "still-starting: it had failed at wait-ready: crash-loop; the earlier version was left alone" in told
    assert f"back app is back at {OLD}" in told
    assert f"next runbook resume {run.last['run']} continues to wait" in told
    stage.no_more("slow")
    until(lambda: stage.serves, "it to serve")
    done = stage.machine.run(["runbook", "resume"], check=False)
    assert done.returncode == 4, done.stdout
    assert "back  rollback             continues" in done.stdout
    assert "rolled-back: it had failed at wait-ready: crash-loop" in done.stdout
    assert stage.log == [f"install app {NEW}", f"install app {OLD}"]


def test_an_orphan_of_the_new_version_holds_the_port(stage: Stage) -> None:
    """Nothing in this runbook ends it, and the earlier version is not said to serve. It answers, by the way."""
    stage.let("leaves")
    run = stage.apply(APP, "- restart", READY)
    told = not_rolled_back(stage, run)
    assert "the rollback failed at wait-ready: orphan-holds-port" in told
    assert f'"app": "{NEW}"' in stage.serves
    assert f"back app is back at {OLD} now app.service is" in told
    assert "port 8070 is held by PID" in run.last["now"]
    advice = "next kill it by hand if it is not needed, then systemctl reset-failed app.service and systemctl restart"
    assert advice in told
    # And that is what mends it.
    stage.sh("systemctl stop stray.scope; systemctl reset-failed app.service; systemctl restart app.service")
    until(lambda: stage.serves == SERVES_OLD, "the earlier version to serve")


def test_an_orphan_that_the_runbook_ends(stage: Stage) -> None:
    stage.let("leaves")
    run = stage.apply(APP, "- restart", REMEDY)
    assert run.step("remediate.fix.kill-orphan")["verdict"] == "killed"
    assert run.step("remediate")["verdict"] == "not-fixed"
    assert rolled_back(stage, run) == ["app", "reset-failed", "restart", "wait-ready", "verify-port-owner"]


def test_there_was_no_version_before(stage: Stage) -> None:
    stage.sh("rm /opt/app/version")
    run = stage.apply(APP, "- restart", READY)
    told = not_rolled_back(stage, run)
    assert "back there was no version before app, so nothing was undone" in told
    assert not run.of("rollback-started")
