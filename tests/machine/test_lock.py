"""Only one run at a time acts on a unit, for each user and each name of the unit."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from subprocess import Popen

import pytest

from tests.machine.conftest import StartService
from tests.machine.machine import Machine, until
from tests.machine.runs import Run, parsed, runbook, unit_file, write_runbook
from tests.machine.tree import USER

HOLDS = "unit: web\nsteps: [run: {run: 'touch /run/there; while test ! -e /run/go; do sleep 0.05; done'}]\n"
READS = "unit: {unit}\nsteps: [run: {{run: 'true', read-only: true}}]\n"
"""A runbook that names a unit, and does nothing with it."""

SYSTEM = "/run/runbook/system"


@pytest.fixture
def web(service: StartService) -> str:
    return service("web.service", unit_file("/usr/bin/sleep infinity") + "[Install]\nAlias=www.service\n")


@contextmanager
def held(machine: Machine, book: str = HOLDS, *options: str) -> Iterator[tuple[Popen[str], str]]:
    """Start a run that locks its units and waits, and yield its process and its id. At the end let it finish."""
    machine.run(["rm", "-f", "/run/there", "/run/go"])
    path = write_runbook(machine, book, "/root/holds.yaml")
    with machine.popen(["runbook", "apply", path, "--output", "json", *options]) as process:
        try:
            assert process.stdout is not None
            name = json.loads(process.stdout.readline())["run"]
            until(lambda: machine.run(["test", "-e", "/run/there"], check=False).returncode == 0, "the command", 40)
            yield process, name
        finally:
            machine.run(["touch", "/run/go"])
            process.communicate(timeout=30)


def apply(machine: Machine, unit: str, *options: str, command: str = "apply") -> Run:
    return runbook(machine, command, READS.format(unit=unit), *options)


def pid_of(machine: Machine, unit: str = "web.service") -> int:
    pid: int = json.loads(machine.read(f"{SYSTEM}/{unit}"))["pid"]
    return pid


def test_each_name_of_a_unit_has_the_same_lock_and_a_refusal_names_the_holder(machine: Machine, web: str) -> None:
    machine.run(["systemctl", "enable", "--quiet", "web.service"])
    try:
        with held(machine) as (_, name):
            for spelled in ("web", "web.service", "www.service"):
                refused = apply(machine, spelled)
                assert (refused.exit, refused.last["status"], refused.last["exit"]) == (75, "locked", 75), spelled
                reason = refused.last["reason"]
                assert f"web.service is locked by run {name} (PID {pid_of(machine)}, user root), since 20" in reason
                assert f"runbook show --follow {name}" in refused.last["hint"]
            assert apply(machine, "other.service").last["status"] == "ok"
    finally:
        machine.run(["systemctl", "disable", "--quiet", "web.service"])
    assert apply(machine, "web").exit == 0


def test_each_instance_of_a_template_has_its_own_lock(machine: Machine, service: StartService) -> None:
    machine.write("/etc/systemd/system/app@.service", unit_file("/usr/bin/sleep infinity"))
    machine.run(["systemctl", "daemon-reload"])
    with held(machine, HOLDS.replace("unit: web", "unit: app@one")):
        assert apply(machine, "app@one.service").exit == 75
        assert apply(machine, "app@two").exit == 0
    machine.run(["rm", "/etc/systemd/system/app@.service"])
    machine.run(["systemctl", "daemon-reload"])


def test_all_units_of_a_runbook_are_locked_or_none(machine: Machine, service: StartService, web: str) -> None:
    service("another.service", unit_file("/usr/bin/sleep infinity"))
    both = "unit: web\nsteps: [run: {run: 'true'}, reset-failed: {unit: another}]\n"
    with held(machine):
        assert runbook(machine, "apply", both).last["reason"].startswith("cannot begin: web.service is locked")
        assert apply(machine, "another").exit == 0
    assert runbook(machine, "apply", both).exit == 0
    modes = machine.run(["stat", "-c", "%a %U %n", "/run/runbook", SYSTEM, f"{SYSTEM}/web.service"]).stdout
    assert modes.splitlines() == ["755 root /run/runbook", f"755 root {SYSTEM}", f"600 root {SYSTEM}/web.service"]


def test_a_dry_run_takes_no_lock_and_names_the_holder(machine: Machine, web: str) -> None:
    with held(machine) as (_, name):
        plan = apply(machine, "web", "--dry-run")
        [notice] = plan.of("notice")
        [holder] = plan.last["locked-by"]
        assert apply(machine, "web", command="check").exit == 0
    assert plan.exit == 0
    assert notice["text"].startswith(f"web.service is locked by run {name} (PID ")
    assert (holder["unit"], holder["run"], holder["user"]) == ("web.service", name, "root")
    machine.run(["rm", f"{SYSTEM}/web.service"])
    free = apply(machine, "web", "--dry-run")
    assert "locked-by" not in free.last
    assert machine.run(["test", "-e", f"{SYSTEM}/web.service"], check=False).returncode == 1


def test_a_run_waits_for_the_lock_and_names_the_holder(machine: Machine, web: str) -> None:
    path = write_runbook(machine, READS.format(unit="web"), "/root/waits.yaml")
    with held(machine) as (_, name):
        argv = ["runbook", "apply", path, "--output", "json", "--lock-wait", "1min"]
        with machine.popen(argv) as waits:
            assert waits.stdout is not None
            notice = json.loads(waits.stdout.readline())
            assert notice["event"] == "notice"
            assert f"web.service is locked by run {name}" in notice["text"]
            assert "waiting for it, at most" in notice["text"]
            waiting = json.loads(waits.stdout.readline())
            assert (waiting["event"], waiting["name"], waiting["seconds"] < 1) == ("waiting", "lock", True)
            assert waiting["reason"].startswith(f"web.service is locked by run {name} (PID ")
            machine.run(["touch", "/run/go"])
            out, err = waits.communicate(timeout=60)
    run = parsed(out, waits.returncode, err)
    assert (run.exit, run.last["status"]) == (0, "ok")


def test_a_log_shows_every_15_seconds_which_run_has_the_lock(machine: Machine, web: str) -> None:
    path = write_runbook(machine, READS.format(unit="web"), "/root/waits.yaml")
    with held(machine) as (_, name):
        late = machine.run(["runbook", "apply", path, "--lock-wait", "17s"], check=False)
    assert late.returncode == 75
    logged = " ".join(late.stdout.split())
    assert f"web.service is locked by run {name} (PID" in logged.split(" .. lock ")[0]
    assert f"15s: web.service is locked by run {name} (PID" in logged.split(" .. lock ")[1]


def test_a_wait_for_the_lock_ends_with_its_time_or_a_signal(machine: Machine, web: str) -> None:
    path = write_runbook(machine, READS.format(unit="web"), "/root/waits.yaml")
    argv = ["runbook", "apply", path, "--output", "json", "--lock-wait"]
    with held(machine):
        late = machine.run([*argv, "300ms"], check=False)
        assert late.returncode == 75
        assert json.loads(late.stdout.splitlines()[-1])["reason"].endswith("; waited 0.3s for it")
        with machine.popen([*argv, "1min"]) as waits:
            assert waits.stdout is not None
            waits.stdout.readline()
            machine.run(["pkill", "-TERM", "-f", "lock-wait 1min"])
            out, _ = waits.communicate(timeout=30)  # This is long before the wait would end.
    assert waits.returncode == 143
    assert json.loads(out.splitlines()[-1])["status"] == "interrupted"


def test_a_killed_run_holds_no_lock_but_its_running_command_blocks_others(machine: Machine, web: str) -> None:
    """The lock ends with the process. Its command still acts on the unit, so no other run may begin there."""
    with held(machine) as (process, name):
        machine.run(["kill", "-KILL", str(pid_of(machine))])
        process.wait(20)
        command = f"runbook-{name}-run.service"
        assert machine.show(command, "ActiveState")["ActiveState"] == "activating"
        beside = runbook(machine, "apply", "unit: web\nsteps: [restart]\n")
        other = apply(machine, "other.service")
    assert (beside.exit, beside.last["status"]) == (5, "not-begun")
    assert f"a command of run {name}, which was interrupted, still acts on web.service" in beside.last["reason"]
    assert command in beside.last["reason"]
    assert beside.last["hint"].startswith(f"runbook resume {name} waits for it and continues; systemctl stop {command}")
    assert other.exit == 0
    until(lambda: machine.show(command, "ActiveState")["ActiveState"] == "inactive", "the command to end")
    with held(machine, HOLDS.replace("unit: web", "unit: other")):
        # The line that the killed run left in the lock file names no holder.
        assert "locked-by" not in apply(machine, "web", "--dry-run").last
    assert apply(machine, "web").exit == 0


def test_a_resumed_run_needs_the_lock(machine: Machine, web: str) -> None:
    with held(machine) as (process, name):
        machine.run(["pkill", "-TERM", "-f", "runbook apply /root/holds.yaml"])
        process.wait(20)
    path = write_runbook(machine, "unit: web\nsteps: [run: {run: 'true'}]\n", "/root/other.yaml")
    code = (
        "import fcntl, os, sys; fd = os.open('/run/runbook/system/web.service', os.O_RDWR); fcntl.flock(fd, 2);"
        " print(os.getpid(), flush=True); sys.stdin.readline()"
    )
    with machine.popen(["python3", "-c", code], stdin=-1) as stranger:
        assert stranger.stdout is not None
        pid = int(stranger.stdout.readline())
        resumed = machine.run(["runbook", "resume", name, "--output", "json"], check=False)
        refused = machine.run(["runbook", "apply", path], check=False)
        stranger.communicate("\n", timeout=20)
    last = json.loads(resumed.stdout.splitlines()[-1])
    assert (resumed.returncode, last["status"]) == (75, "locked")
    # The lock file still names the run that has ended, so the holder is read from the kernel.
    assert f"web.service is locked by another run (PID {pid}, user root)" in last["reason"]
    assert (refused.returncode, "another run" in refused.stderr) == (75, True)
    assert machine.run(["runbook", "resume", name], check=False).returncode == 0


def test_a_planted_lock_file_is_refused_and_not_changed(machine: Machine, web: str) -> None:
    machine.run(["mkdir", "-p", SYSTEM])
    victim = "/root/victim"
    machine.write(victim, "precious")
    for plant in (["ln", "-sf", victim], ["mkfifo"], ["mkdir"], ["install", "-o", USER, "-m", "644", "/dev/null"]):
        machine.run(["rm", "-rf", f"{SYSTEM}/web.service"])
        machine.run([*plant, f"{SYSTEM}/web.service"])
        refused = runbook(machine, "apply", "unit: web\nsteps: [restart]\n")
        assert (refused.exit, refused.last["status"]) == (5, "not-begun"), plant
        assert f"cannot lock web.service: {SYSTEM}/web.service" in refused.last["reason"]
        assert machine.run(["ls", "-d", f"{SYSTEM}/web.service"]).returncode == 0
    machine.run(["rm", "-f", f"{SYSTEM}/web.service"])
    assert machine.read(victim) == "precious"
    machine.run(["chmod", "o+w", SYSTEM])
    open_to_all = runbook(machine, "apply", "unit: web\nsteps: [restart]\n")
    machine.run(["chmod", "o-w", SYSTEM])
    assert (open_to_all.exit, "may be written by others" in open_to_all.last["reason"]) == (5, True)


def test_only_root_locks_a_system_unit_and_users_read_who_holds_it(machine: Machine, web: str) -> None:
    change, look = "unit: web\nsteps: [restart]\n", READS.format(unit="web")
    machine.run(["rm", "-rf", "/run/runbook"])
    with held(machine) as (_, name):
        denied = runbook(machine, "apply", change, user=USER)
        assert (denied.exit, denied.last["status"]) == (5, "not-begun")
        assert "only root may lock the units of the system's manager" in denied.last["reason"]
        assert denied.last["hint"] == "run it as root: sudo runbook …"
        # A run that changes nothing needs no lock. A notice reports that it has none.
        looked = runbook(machine, "apply", look, user=USER)
        assert (looked.exit, "needs no lock" in looked.of("notice")[0]["text"]) == (0, True)
        [holder] = runbook(machine, "apply", change, "--dry-run", user=USER).last["locked-by"]
        assert (holder["pid"], holder["user"], "run" in holder) == (pid_of(machine), "root", False)
        assert name in str(runbook(machine, "apply", change, "--dry-run").last["locked-by"])
    assert "locked-by" not in runbook(machine, "apply", change, "--dry-run", user=USER).last
    assert apply(machine, "web").exit == 0


def test_units_of_a_users_manager_have_separate_locks(machine: Machine, web: str) -> None:
    machine.run(["loginctl", "enable-linger", USER])
    user = ["systemctl", "--user", "is-system-running", "--wait"]
    until(lambda: machine.run(user, check=False, user=USER).stdout.strip() in ("running", "degraded"), "a manager")
    with held(machine):
        run = runbook(machine, "apply", f"scope: user\n{READS.format(unit='web')}", user=USER)
    assert run.exit == 0, run.last
    [line] = machine.run(["stat", "-c", "%a %U %n", "/run/user/1000/runbook/web.service"]).stdout.splitlines()
    assert line == f"600 {USER} /run/user/1000/runbook/web.service"
    machine.run(["loginctl", "disable-linger", USER])


def test_a_lost_terminal_does_not_end_a_wait_for_the_lock(machine: Machine, web: str) -> None:
    path = write_runbook(machine, READS.format(unit="web"), "/root/waits.yaml")
    with (
        held(machine),
        machine.popen(["runbook", "apply", path, "--output", "json", "--lock-wait", "59s"]) as waits,
    ):
        assert waits.stdout is not None
        waits.stdout.readline()
        machine.run(["pkill", f"-{signal.SIGHUP.name.removeprefix('SIG')}", "-f", "lock-wait 59s"])
        machine.run(["touch", "/run/go"])
        out, _ = waits.communicate(timeout=60)
    assert (waits.returncode, json.loads(out.splitlines()[-1])["status"]) == (0, "ok")
