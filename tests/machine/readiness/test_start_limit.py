"""The program's own tries never run into systemd's start limit, on a real systemd that shows nobody its counter."""

from __future__ import annotations

from tests.machine.conftest import InstallUnit, StartService
from tests.machine.machine import Machine, until
from tests.machine.readiness.shapes import book, script, wait
from tests.machine.runs import runbook, unit_file

SLEEPS = "/usr/bin/sleep infinity"


def limited(start: str, burst: int, **settings: str) -> str:
    """Write a unit that may be started so often in ten minutes."""
    return unit_file(start, **settings, Unit_StartLimitBurst=str(burst), Unit_StartLimitIntervalSec="600")


def test_own_restarts_end_before_the_limit(machine: Machine, unit: InstallUnit) -> None:
    """The fourth would be refused by systemd, and the service be down: it is not asked for, and the service runs on."""
    unit("limit.service", limited(SLEEPS, 3))
    run = runbook(machine, "apply", book("limit", "restart", "restart", "restart", "restart"))
    assert [verdict for _, _, verdict in run.verdicts] == ["job-done"] * 3 + ["start-limit-hit"]
    assert "was started 3 times, and its start limit is 3 in 10min: systemd would stop it" in run.last["reason"]
    acting = [told["reason"] for told in run.of("step-acting")]
    assert acting[2].endswith("; it would be the last one within its start limit (3 in 10min)")
    assert machine.show("limit.service", "ActiveState")["ActiveState"] == "active"
    # And so it is: systemd stops it, and refuses.
    assert machine.run(["systemctl", "restart", "limit.service"], check=False).returncode == 1
    assert machine.show("limit.service", "ActiveState")["ActiveState"] == "failed"


def test_a_fix_that_would_run_into_it_is_not_begun(machine: Machine, unit: InstallUnit) -> None:
    """Unless a reset-failed stands before the start."""
    unit("fix.service", limited(SLEEPS, 2))
    mends = "remediate: {check: [verify-port-owner: {port: 9401}], fix: [stop, start]}"
    run = runbook(machine, "apply", book("fix", "restart", "restart", mends))
    assert "no fix was begun: start would fail: fix.service was started 2 times" in run.last["reason"], run.last
    assert machine.show("fix.service", "ActiveState")["ActiveState"] == "active"
    cleared = mends.replace("start]", "reset-failed, start]")
    run = runbook(machine, "apply", book("fix", "reset-failed", "restart", "restart", cleared))
    assert ("remediate.fix.start", "changed", "job-done") in run.verdicts, run.verdicts


def test_retries_are_no_way_round_it(machine: Machine, unit: InstallUnit) -> None:
    unit("retry.service", limited(SLEEPS, 3, ExecStartPre=script("exit 4")))
    run = runbook(machine, "apply", book("retry", "restart: {retries: 6, delay: 10ms}"))
    found = [told["verdict"] for told in run.of("step-retrying")]
    assert found == ["job-failed"] * 3 + ["start-limit-hit"] * 3, found
    machine.run(["journalctl", "--sync"])
    said = machine.run(["journalctl", "--unit", "retry.service", "--output", "cat"]).stdout
    assert "Start request repeated too quickly" not in said


def test_a_start_in_the_pause_before_a_restart(machine: Machine, unit: InstallUnit, suite: str) -> None:
    """systemd counts it, and then the restart: of two invocations three starts. 257 writes of both, 252 of one."""
    start = script("test -e /run/well && exec sleep infinity; exit 1")
    # 252 lets the one who asks wait for the end of the pause.
    pause = {"trixie": "1h", "bookworm": "10s"}[suite]
    unit("pause.service", limited(start, 3, Restart="always", RestartSec=pause))
    machine.run(["rm", "-f", "/run/well"])
    machine.run(["systemctl", "start", "pause.service"])
    until(lambda: machine.show("pause.service", "SubState")["SubState"] == "auto-restart", "the pause")
    machine.run(["sh", "-c", "touch /run/well; systemctl start pause.service"])
    run = runbook(machine, "apply", book("pause", "restart: {timeout: 3s}"))
    assert run.step("restart")["verdict"] == "start-limit-hit", run.last
    assert bool(run.of("step-acting")) == (suite == "bookworm")
    assert machine.show("pause.service", "ActiveState")["ActiveState"] == ("active" if suite == "trixie" else "failed")


def test_what_is_left_is_told_in_a_plan(machine: Machine, service: StartService) -> None:
    """The unit is down for its limit, and the plan says what its restart would come to."""
    service("plan.service", limited(script("exit 78"), 4, Restart="always"))
    until(lambda: machine.show("plan.service", "ActiveState")["ActiveState"] == "failed", "the limit to be hit")
    run = runbook(machine, "apply", book("plan", "restart"), "--dry-run")
    [observed] = run.of("observed")
    says = "4 starts counted, 0 left before the start limit (4 in 10min)"
    assert observed["starts"]["says"] == says
    [planned] = run.of("step-planned")
    assert planned["reason"].startswith("would fail: plan.service was started 4 times, and its start limit is 4 in")
    shown = machine.run(["runbook", "apply", "--dry-run", "/root/test.yaml", "--output", "plain"]).stdout
    assert says in " ".join(shown.split())


def test_a_limit_that_somebody_cleared_by_hand(machine: Machine, service: StartService) -> None:
    """The journal tells of too many starts, and nothing of the reset. Of a unit that is down systemd is asked."""
    start = script("test -e /run/mended || exit 1; exec sleep infinity")
    service("cleared.service", limited(start, 2, Restart="always"))
    until(lambda: machine.show("cleared.service", "ActiveState")["ActiveState"] == "failed", "the limit to be hit")
    machine.run(["sh", "-c", "touch /run/mended; systemctl reset-failed cleared.service"])
    run = runbook(machine, "apply", book("cleared", "start", wait("healthy-for: 200ms")))
    assert (run.exit, run.step("wait-ready")["verdict"]) == (0, "ready"), run.last
    machine.run(["rm", "/run/mended"])


def test_what_a_reload_forgets(machine: Machine, unit: InstallUnit) -> None:
    """systemd 252 forgets its counters with a daemon-reload, and 257 does not: the count does as systemd does."""
    unit("reload.service", limited(SLEEPS, 2))
    run = runbook(machine, "apply", book("reload", "restart", "restart", "daemon-reload", "restart"))
    forgets = machine.suite == "bookworm"
    assert run.verdicts[-1][2] == ("job-done" if forgets else "start-limit-hit"), run.last
    again = machine.run(["systemctl", "restart", "reload.service"], check=False)
    assert again.returncode == (0 if forgets else 1)


def test_what_systemd_forgot_when_it_unloaded_the_unit(machine: Machine, unit: InstallUnit) -> None:
    """A unit that nobody names is unloaded when it is down, and its counter goes with it: nothing is waited for."""
    unit("forgot.service", limited(SLEEPS, 2))
    for _ in range(2):
        machine.run(["systemctl", "start", "forgot.service"])
        machine.run(["systemctl", "stop", "forgot.service"])
    machine.run(["systemctl", "start", "forgot.service"])
    run = runbook(machine, "apply", book("forgot", "restart"))
    assert (run.exit, run.verdicts[0][2]) == (0, "job-done"), run.last
    assert "it would be the last one" in run.of("step-acting")[0]["reason"]
    assert machine.show("forgot.service", "ActiveState")["ActiveState"] == "active"
