"""A rollback that is cut short: the program is killed or stopped, or an administrator acts on the unit."""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

import pytest

from tests.machine.machine import until
from tests.machine.readiness.shapes import REQUESTER, meanwhile
from tests.machine.rollback.staging import APP, NEW, OLD, READY, SERVES_OLD, Stage, book
from tests.machine.runs import Run, parsed


def cut(stage: Stage, signum: str, *steps: str, half: str = "") -> Run:
    """Apply a runbook, and signal the program during the wait for the earlier version, or with `half` installed."""

    def act(_event: Any) -> None:
        if half:
            until(lambda: stage.log[-1:] == [f"install app {OLD}"] and stage.installed[0] == half, "half of it")
        stage.sh(f"pkill -{signum} -f '[r]unbook apply'")

    event, name = ("step-acting", "rollback.app") if half else ("step-waiting", "rollback.wait-ready")
    return meanwhile(stage.machine, book(*steps), act, event=event, id=name)


def resume(stage: Stage) -> Run:
    done = stage.machine.run(["runbook", "resume", "--output", "json"], check=False)
    return parsed(done.stdout, done.returncode, done.stderr)


def rolled_back(stage: Stage, run: Run, *installed: str) -> None:
    """Assert that version 1.0.0 answers, and what was installed."""
    assert (run.exit, run.last["status"]) == (4, "rolled-back"), run.last
    assert stage.serves == SERVES_OLD
    assert stage.log == [f"install app {NEW}", *installed]
    assert run.of("run-resumed")[0]["rollback"] == "wait-ready"


def test_a_run_killed_while_the_earlier_version_is_installed(stage: Stage) -> None:
    """The command continues, and the resumed run uses its result."""
    stage.set_flags(f"waits-{OLD}")
    cut(stage, "KILL", APP, "- restart", READY, half="half")
    stage.set_flags("go")
    until(lambda: stage.installed == [OLD, OLD], "the command to end")
    rolled_back(stage, resume(stage), f"install app {OLD}", f"waited app {OLD}")


def test_a_run_stopped_while_the_earlier_version_is_installed(stage: Stage) -> None:
    """The command was stopped half way, so it is run again."""
    stage.set_flags(f"lingers-{OLD}")
    run = cut(stage, "TERM", APP, "- restart", READY, half=NEW)
    assert (run.exit, run.last["status"]) == (143, "interrupted"), run.last
    assert "interrupted by SIGTERM at rollback.app" in run.last["reason"]
    assert stage.installed != [OLD, OLD]
    stage.clear_flags(f"lingers-{OLD}")
    rolled_back(stage, resume(stage), f"install app {OLD}", f"install app {OLD}")


@pytest.mark.parametrize("signum", ["KILL", "TERM"])
def test_a_run_cut_short_during_the_wait_for_the_earlier_version(stage: Stage, signum: str) -> None:
    """The earlier version stays installed. The wait for it begins again."""
    stage.set_flags("slow")
    cut(stage, signum, APP, "- restart", READY)
    stage.clear_flags("slow")
    until(lambda: stage.serves == SERVES_OLD, "the earlier version to serve")
    began = stage.systemd()["InvocationID"]
    run = resume(stage)
    rolled_back(stage, run, f"install app {OLD}")
    assert [e["id"] for e in run.of("step-kept")] == ["rollback.app", "rollback.reset-failed", "rollback.restart"]
    assert stage.systemd()["InvocationID"] == began
    assert run.step("rollback.wait-ready")["verdict"] == "ready"


def test_an_earlier_version_that_exited_before_the_resume_is_found(stage: Stage) -> None:
    """A resumed rollback checks again that the unit is still up."""
    stage.set_flags("slow")
    cut(stage, "KILL", APP, "- restart", READY)
    stage.set_flags("migrated")
    stage.sh("systemctl kill --signal=KILL app.service")
    until(lambda: stage.systemd()["ActiveState"] == "failed", "the start limit")
    run = resume(stage)
    assert (run.exit, run.last["status"], run.last.get("step")) == (1, "failed", "rollback.wait-ready"), run.last
    assert run.last["back"] == f"app is back at {OLD}"


def stops(stage: Stage) -> Callable[[Any], object]:
    """Return a function that stops the service, as a second administrator would."""
    return lambda _event: stage.sh("systemctl stop app.service")


def test_nothing_is_rolled_back_if_an_administrator_stops_the_unit(stage: Stage) -> None:
    """A rollback would start the unit again, and replace its files while the administrator works on it."""
    stage.set_flags("hangs")
    run = meanwhile(stage.machine, book(APP, "- restart", READY), stops(stage), event="step-waiting", id="wait-ready")
    assert (run.exit, run.last["status"], run.last["verdict"]) == (1, "failed", "unit-changed"), run.last
    assert not run.of("rollback-started")
    assert (stage.systemd()["ActiveState"], stage.installed) == ("inactive", [NEW, OLD])
    shown = stage.show(run)
    expected = rf"back app.service was stopped by {REQUESTER}, which is not overridden, so nothing was rolled back"
    assert re.search(expected, shown), shown
    assert "now app.service is inactive" in shown
    assert "next find out who" in shown or "next agree with the requester" in shown


def test_a_rollback_fails_if_an_administrator_stops_the_unit(stage: Stage) -> None:
    stage.set_flags("slow")
    text = book(APP, "- restart", READY)
    run = meanwhile(stage.machine, text, stops(stage), event="step-waiting", id="rollback.wait-ready")
    assert (run.exit, run.last["status"], run.last["verdict"]) == (1, "failed", "unit-changed"), run.last
    assert run.last["back"] == f"app is back at {OLD}"
    assert stage.systemd()["ActiveState"] == "inactive"
    assert "failed at wait-ready: crash-loop; the rollback failed at wait-ready: unit-changed" in stage.show(run)


def test_a_rollback_does_not_override_a_mask(stage: Stage) -> None:
    """The run fails, and does not report the unit as serving."""

    def masks(_event: Any) -> None:
        stage.sh("mv /etc/systemd/system/app.service /run/stage/; systemctl mask --now app.service")

    stage.set_flags("hangs")
    run = meanwhile(stage.machine, book(APP, "- restart", READY), masks, event="step-waiting", id="wait-ready")
    try:
        assert (run.exit, run.last["status"]) == (1, "failed"), run.last
        assert stage.systemd()["ActiveState"] == "inactive"
        assert stage.machine.show("app.service", "LoadState")["LoadState"] == "masked"
        print(stage.machine.run(["runbook", "show", run.last["run"]]).stdout)
    finally:
        stage.sh("systemctl unmask app.service; systemctl daemon-reload")
