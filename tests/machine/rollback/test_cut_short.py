"""A rollback in which somebody else steps: the program is killed, or stopped, or an administrator acts on the unit."""

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
    """Apply a runbook, and send the program a signal: while the earlier version is watched, or `half` installed."""

    def act(_told: Any) -> None:
        if half:
            until(lambda: stage.log[-1:] == [f"install app {OLD}"] and stage.installed[0] == half, "half of it")
        stage.sh(f"pkill -{signum} -f '[r]unbook apply'")

    event, name = ("step-acting", "rollback.app") if half else ("step-waiting", "rollback.wait-ready")
    return meanwhile(stage.machine, book(*steps), act, event=event, id=name)


def gone_on_with(stage: Stage) -> Run:
    done = stage.machine.run(["runbook", "resume", "--output", "json"], check=False)
    return parsed(done.stdout, done.returncode, done.stderr)


def rolled_back(stage: Stage, run: Run, *installed: str) -> None:
    """See that 1.0.0 serves by its own word, and what was installed on the way."""
    assert (run.exit, run.last["status"]) == (4, "rolled-back"), run.last
    assert stage.serves == SERVES_OLD
    assert stage.log == [f"install app {NEW}", *installed]
    assert run.of("run-resumed")[0]["rollback"] == "wait-ready"


def test_killed_while_the_earlier_version_is_installed(stage: Stage) -> None:
    """The command goes on by itself; whoever goes on with the run takes its end as it is."""
    stage.let(f"waits-{OLD}")
    cut(stage, "KILL", APP, "- restart", READY, half="half")
    stage.let("go")
    until(lambda: stage.installed == [OLD, OLD], "the command to end")
    rolled_back(stage, gone_on_with(stage), f"install app {OLD}", f"waited app {OLD}")


def test_stopped_while_the_earlier_version_is_installed(stage: Stage) -> None:
    """The command was stopped half way, so it is carried out anew."""
    stage.let(f"lingers-{OLD}")
    run = cut(stage, "TERM", APP, "- restart", READY, half=NEW)
    assert (run.exit, run.last["status"]) == (143, "interrupted"), run.last
    assert "interrupted by SIGTERM at rollback.app" in run.last["reason"]
    assert stage.installed != [OLD, OLD]
    stage.no_more(f"lingers-{OLD}")
    rolled_back(stage, gone_on_with(stage), f"install app {OLD}", f"install app {OLD}")


@pytest.mark.parametrize("signum", ["KILL", "TERM"])
def test_cut_while_the_earlier_version_is_watched(stage: Stage, signum: str) -> None:
    """What was installed is kept; that it serves is proved anew."""
    stage.let("slow")
    cut(stage, signum, APP, "- restart", READY)
    stage.no_more("slow")
    until(lambda: stage.serves == SERVES_OLD, "the earlier version to serve")
    began = stage.systemd()["InvocationID"]
    run = gone_on_with(stage)
    rolled_back(stage, run, f"install app {OLD}")
    assert [e["id"] for e in run.of("step-kept")] == ["rollback.app", "rollback.reset-failed", "rollback.restart"]
    assert stage.systemd()["InvocationID"] == began
    assert run.step("rollback.wait-ready")["verdict"] == "ready"


def test_the_earlier_version_died_while_nobody_watched(stage: Stage) -> None:
    """A resumed rollback takes nothing on trust: not that what was up then still is."""
    stage.let("slow")
    cut(stage, "KILL", APP, "- restart", READY)
    stage.let("migrated")
    stage.sh("systemctl kill --signal=KILL app.service")
    until(lambda: stage.systemd()["ActiveState"] == "failed", "systemd to give it up")
    run = gone_on_with(stage)
    assert (run.exit, run.last["status"], run.last["step"]) == (1, "failed", "rollback.wait-ready"), run.last
    assert run.last["back"] == f"app is back at {OLD}"


def stops(stage: Stage) -> Callable[[Any], object]:
    """Make what a second administrator types."""
    return lambda _told: stage.sh("systemctl stop app.service")


def test_somebody_stops_the_new_version(stage: Stage) -> None:
    """A rollback would start it again, and swap files under whoever is looking at it."""
    stage.let("hangs")
    run = meanwhile(stage.machine, book(APP, "- restart", READY), stops(stage), event="step-waiting", id="wait-ready")
    assert (run.exit, run.last["status"], run.last["verdict"]) == (1, "failed", "unit-changed"), run.last
    assert not run.of("rollback-started")
    assert (stage.systemd()["ActiveState"], stage.installed) == ("inactive", [NEW, OLD])
    told = stage.told(run)
    expected = rf"back app.service was stopped by {REQUESTER}, which is not overridden, so nothing was rolled back"
    assert re.search(expected, told), told
    assert "now app.service is inactive" in told
    assert "next find out who" in told or "next agree with the requester" in told


def test_somebody_stops_the_earlier_version(stage: Stage) -> None:
    stage.let("slow")
    text = book(APP, "- restart", READY)
    run = meanwhile(stage.machine, text, stops(stage), event="step-waiting", id="rollback.wait-ready")
    assert (run.exit, run.last["status"], run.last["verdict"]) == (1, "failed", "unit-changed"), run.last
    assert run.last["back"] == f"app is back at {OLD}"
    assert stage.systemd()["ActiveState"] == "inactive"
    assert "failed at wait-ready: crash-loop; the rollback failed at wait-ready: unit-changed" in stage.told(run)


def test_somebody_masks_it(stage: Stage) -> None:
    """A mask is not overridden either, and nothing is said to serve."""

    def masks(_told: Any) -> None:
        stage.sh("mv /etc/systemd/system/app.service /run/stage/; systemctl mask --now app.service")

    stage.let("hangs")
    run = meanwhile(stage.machine, book(APP, "- restart", READY), masks, event="step-waiting", id="wait-ready")
    try:
        assert (run.exit, run.last["status"]) == (1, "failed"), run.last
        assert stage.systemd()["ActiveState"] == "inactive"
        assert stage.machine.show("app.service", "LoadState")["LoadState"] == "masked"
        print(stage.machine.run(["runbook", "show", run.last["run"]]).stdout)
    finally:
        stage.sh("systemctl unmask app.service; systemctl daemon-reload")
