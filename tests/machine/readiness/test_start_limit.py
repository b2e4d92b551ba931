"""The program never hits a unit's start limit by itself, on a real systemd, which does not show its counter."""

from __future__ import annotations

from tests.machine.conftest import InstallUnit, StartService
from tests.machine.machine import Machine, until
from tests.machine.readiness.shapes import book, script, wait
from tests.machine.runs import runbook, unit_file

SLEEPS = "/usr/bin/sleep infinity"


def limited(start: str, burst: int, **settings: str) -> str:
    """Return a unit that may be started `burst` times in ten minutes."""
    return unit_file(start, **settings, Unit_StartLimitBurst=str(burst), Unit_StartLimitIntervalSec="600")


def test_restarts_of_the_run_end_before_the_limit(machine: Machine, unit: InstallUnit) -> None:
    """systemd would refuse the fourth restart, and the service would be down. It is not requested."""
    unit("limit.service", limited(SLEEPS, 3))
    run = runbook(machine, "apply", book("limit", "restart", "restart", "restart", "restart"))
    assert [verdict for _, _, verdict in run.verdicts] == ["job-done"] * 3 + ["start-limit-hit"]
    assert "was started 3 times, and its start limit is 3 in 10min: systemd would stop it" in run.last["reason"]
    acting = [event["reason"] for event in run.of("step-acting")]
    assert acting[2].endswith("; it would be the last one within its start limit (3 in 10min)")
    assert machine.show("limit.service", "ActiveState")["ActiveState"] == "active"
    # systemd does stop the service, and refuses to start it.
    assert machine.run(["systemctl", "restart", "limit.service"], check=False).returncode == 1
    assert machine.show("limit.service", "ActiveState")["ActiveState"] == "failed"


def test_a_fix_that_would_hit_the_limit_does_not_begin(machine: Machine, unit: InstallUnit) -> None:
    """With a reset-failed before its start, it does."""
    unit("fix.service", limited(SLEEPS, 2))
    fix = "remediate: {check: [verify-port-owner: {port: 9401}], fix: [stop, start]}"
    run = runbook(machine, "apply", book("fix", "restart", "restart", fix))
    assert "no fix was begun: start would fail: fix.service was started 2 times" in run.last["reason"], run.last
    assert machine.show("fix.service", "ActiveState")["ActiveState"] == "active"
    cleared = fix.replace("start]", "reset-failed, start]")
    run = runbook(machine, "apply", book("fix", "reset-failed", "restart", "restart", cleared))
    assert ("remediate.fix.start", "changed", "job-done") in run.verdicts, run.verdicts


def test_retries_end_before_the_limit(machine: Machine, unit: InstallUnit) -> None:
    unit("retry.service", limited(SLEEPS, 3, ExecStartPre=script("exit 4")))
    run = runbook(machine, "apply", book("retry", "restart: {retries: 6, delay: 10ms}"))
    found = [event["verdict"] for event in run.of("step-retrying")]
    assert found == ["job-failed"] * 3 + ["start-limit-hit"] * 3, found
    machine.run(["journalctl", "--sync"])
    journal = machine.run(["journalctl", "--unit", "retry.service", "--output", "cat"]).stdout
    assert "Start request repeated too quickly" not in journal


def test_a_start_in_the_pause_before_a_restart_counts_twice(machine: Machine, unit: InstallUnit, suite: str) -> None:
    """systemd counts it and then the restart: two invocations, three starts. 257 logs both, 252 only one."""
    start = script("test -e /run/well && exec sleep infinity; exit 1")
    # On 252 the start request waits for the end of the pause.
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


def test_a_plan_shows_the_remaining_starts(machine: Machine, service: StartService) -> None:
    """The unit is down because of its start limit. The plan shows that a restart would fail."""
    service("plan.service", limited(script("exit 78"), 4, Restart="always"))
    until(lambda: machine.show("plan.service", "ActiveState")["ActiveState"] == "failed", "the limit to be hit")
    run = runbook(machine, "apply", book("plan", "restart"), "--dry-run")
    [observed] = run.of("observed")
    expected = "4 starts counted, 0 left before the start limit (4 in 10min)"
    assert observed["starts"]["says"] == expected
    [planned] = run.of("step-planned")
    assert planned["reason"].startswith("would fail: plan.service was started 4 times, and its start limit is 4 in")
    shown = machine.run(["runbook", "apply", "--dry-run", "/root/test.yaml", "--output", "plain"]).stdout
    assert expected in " ".join(shown.split())


def test_a_limit_that_was_cleared_by_hand_does_not_prevent_a_start(machine: Machine, service: StartService) -> None:
    """The journal has too many starts, and no entry about the reset. As the unit is down, systemd is asked."""
    start = script("test -e /run/fixed || exit 1; exec sleep infinity")
    service("cleared.service", limited(start, 2, Restart="always"))
    until(lambda: machine.show("cleared.service", "ActiveState")["ActiveState"] == "failed", "the limit to be hit")
    machine.run(["sh", "-c", "touch /run/fixed; systemctl reset-failed cleared.service"])
    run = runbook(machine, "apply", book("cleared", "start", wait("healthy-for: 200ms")))
    assert (run.exit, run.step("wait-ready")["verdict"]) == (0, "ready"), run.last
    machine.run(["rm", "/run/fixed"])


def test_a_daemon_reload_clears_the_count_only_on_252(machine: Machine, unit: InstallUnit) -> None:
    """systemd 252 clears its counters at a daemon-reload, 257 does not. The count of the program does the same."""
    unit("reload.service", limited(SLEEPS, 2))
    run = runbook(machine, "apply", book("reload", "restart", "restart", "daemon-reload", "restart"))
    forgets = machine.suite == "bookworm"
    assert run.verdicts[-1][2] == ("job-done" if forgets else "start-limit-hit"), run.last
    again = machine.run(["systemctl", "restart", "reload.service"], check=False)
    assert again.returncode == (0 if forgets else 1)


def test_the_window_opens_at_the_first_start_after_the_counter_was_cleared(
    machine: Machine, service: StartService
) -> None:
    """Not when it was cleared: systemd would refuse the second restart, and leave the service failed."""
    limit = {"Unit_StartLimitBurst": "2", "Unit_StartLimitIntervalSec": "8"}
    service("window.service", unit_file(SLEEPS, **limit))
    machine.run(["systemctl", "stop", "window.service"])
    machine.run(["systemctl", "daemon-reload" if machine.suite == "bookworm" else "reset-failed"])
    machine.run(["sleep", "4"])
    machine.run(["systemctl", "start", "window.service"])
    machine.run(["sleep", "3"])
    run = runbook(machine, "apply", book("window", "restart", "restart: {timeout: 20s}"))
    assert [verdict for _, _, verdict in run.verdicts] == ["job-done", "job-done"], run.last
    assert run.step("restart-2")["reason"].endswith(", delayed by its start limit")
    waited = [one for one in run.of("step-waiting") if "opens-in" in one]
    assert waited
    assert "a restart now could leave it down; the step waits up to " in waited[0]["reason"]
    assert waited[0]["reason"].endswith(", or until window.service exits")
    assert machine.show("window.service", "ActiveState")["ActiveState"] == "active"


def test_unloading_a_unit_clears_the_count(machine: Machine, unit: InstallUnit) -> None:
    """systemd unloads a unit without references when it is down, and drops its counter."""
    unit("forgot.service", limited(SLEEPS, 2))
    for _ in range(2):
        machine.run(["systemctl", "start", "forgot.service"])
        machine.run(["systemctl", "stop", "forgot.service"])
    machine.run(["systemctl", "start", "forgot.service"])
    run = runbook(machine, "apply", book("forgot", "restart"))
    assert (run.exit, run.verdicts[0][2]) == (0, "job-done"), run.last
    assert "it would be the last one" in run.of("step-acting")[0]["reason"]
    assert machine.show("forgot.service", "ActiveState")["ActiveState"] == "active"
