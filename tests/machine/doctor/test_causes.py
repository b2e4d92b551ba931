"""The causes, staged on a real systemd. A drop-in file that is to keep one from coming back is written and proved."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.machine.conftest import InstallUnit, StartService
from tests.machine.doctor.doctoring import carry_out, causes, diagnosed, doctor, paste
from tests.machine.incident import in_login
from tests.machine.machine import Machine, until
from tests.machine.runs import runbook, unit_file
from tests.machine.tree import USER

PORT = 8085
SERVER = "/opt/serve"
PROGRAM = f"""#!/usr/bin/python3
import errno, os, socket, sys, time
say = lambda text: print(text, flush=True)
time.sleep(float(os.environ.get("PAUSE", "0")))
server = socket.socket()
server.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
try:
    server.bind(("127.0.0.1", {PORT}))
except OSError as error:
    say(f"[Errno {{error.errno}}] Address already in use: port {PORT}")
    sys.exit(1)
server.listen()
if "notify" in sys.argv:
    socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
say("ready")
time.sleep(1e6)
"""
WANTED = "[Install]\nWantedBy=multi-user.target\n"  # systemd does not unload a unit that another one wants
FAST = {"Unit_StartLimitIntervalSec": "0", "Restart": "always", "RestartSec": "200ms"}


@pytest.fixture(autouse=True)
def _server(machine: Machine) -> Iterator[None]:
    machine.write(SERVER, PROGRAM, 0o755)
    yield
    machine.run(["sh", "-c", f"pkill -KILL -f {SERVER}"], check=False)
    until(lambda: not listening(machine), "the port to be free")


def listening(machine: Machine) -> str:
    return machine.run(["ss", "-Hltn", f"sport = :{PORT}"]).stdout


def look(machine: Machine, *argv: str, user: str | None = None) -> dict[str, Any]:
    return diagnosed(machine, "web", *argv, user=user)


def look_until(machine: Machine, cause: str, drop_in: str = "type") -> dict[str, Any]:
    """Return a diagnosis that has a cause and a drop-in file, and no other file.

    In a loop, not each moment shows both. The file with a start limit would count the starts of the loop.
    """
    seen: list[dict[str, Any]] = []

    def is_seen() -> bool:
        seen.append(look(machine))
        mine = [one for one in seen[-1]["drop-ins"] if one["path"].endswith(f"/zz-runbook-{drop_in}.conf")]
        seen[-1]["drop-ins"] = mine
        return bool(mine) and cause in causes(seen[-1])

    until(is_seen, f"the cause: {cause}", 20)
    return seen[-1]


def give_time(machine: Machine) -> None:
    """Replace the short time that the unit had to start: a busy machine may take longer to execute a program."""
    machine.write("/etc/systemd/system/web.service.d/zz-time.conf", "[Service]\nTimeoutStartSec=30s\n")
    machine.run(["systemctl", "daemon-reload"])


def is_refused(machine: Machine) -> bool:
    return "Address already in use" in machine.run(["journalctl", "-u", "web.service", "--since=-10s"]).stdout


def state(machine: Machine) -> str:
    return machine.show("web.service", "ActiveState")["ActiveState"]


def is_well(machine: Machine, name: str = "web") -> None:
    def is_healthy() -> bool:
        found = diagnosed(machine, name)
        last.append(found)
        return bool(found["exit"] == 0)

    last: list[dict[str, Any]] = []
    with contextlib.suppress(TimeoutError):
        until(is_healthy, "the unit to be healthy", 10)
    assert last[-1]["exit"] == 0, f"{last[-1]['summary']}; {causes(last[-1])}"


def test_a_leftover_of_kill_mode_process(machine: Machine, service: StartService) -> None:
    start = f"/bin/sh -c '{SERVER} & exec sleep infinity'"
    service("web.service", unit_file(start, KillMode="process"))
    until(lambda: listening(machine), "the child to listen")
    assert "KillMode" not in causes(look(machine))
    machine.run(["systemctl", "restart", "web.service"])
    until(
        lambda: "Address already in use" in machine.run(["journalctl", "-u", "web.service"]).stdout, "the rival's exit"
    )
    found = look(machine)
    assert (found["exit"], found["verdict"]) == (1, "leftover-holds-port")
    assert "of an earlier invocation is still in its cgroup: with KillMode=process a stop spares every other" in causes(
        found
    )
    [drop_in] = found["drop-ins"]
    assert drop_in["path"] == "/etc/systemd/system/web.service.d/zz-runbook-kill-mode.conf"
    carry_out(machine, found["commands"])
    is_well(machine)
    paste(machine, found)
    # With the drop-in file, no restart leaves a process.
    machine.run(["systemctl", "restart", "web.service"])
    until(lambda: listening(machine), "the new child to listen")
    is_well(machine)


def test_a_users_unit_of_the_same_name(machine: Machine, unit: InstallUnit) -> None:
    folder = f"/home/{USER}/.config/systemd/user"
    machine.write(f"{folder}/web.service", unit_file(SERVER) + "[Install]\nWantedBy=default.target\n")
    machine.run(["chown", "-R", USER, f"/home/{USER}/.config"])
    machine.run(["systemctl", "--user", "daemon-reload"], user=USER)
    machine.run(["systemctl", "--user", "enable", "--now", "-q", "web.service"], user=USER)
    until(lambda: listening(machine), "the user's unit to listen")
    unit("web.service", unit_file(SERVER, **FAST, User=USER))
    machine.run(["systemctl", "start", "web.service"])
    until(lambda: int(machine.show("web.service", "NRestarts")["NRestarts"]) > 1, "a loop")
    found = look(machine)
    assert (found["exit"], found["verdict"]) == (1, "other-unit-holds-port")
    assert f"the user manager of {USER} has a unit of the same name, which holds port {PORT}" in causes(found)
    [keep] = found["prevention"]
    assert keep == f"to keep only the system's: systemctl --user -M {USER}@ disable --now web.service"
    assert found["advice-commands"] == [f"systemctl --user -M {USER}@ stop web.service"]
    # Between two restarts it is down.
    verbs = [command.split()[1] for command in found["commands"]]
    assert verbs in (["reset-failed", "start"], ["reset-failed", "restart"])
    assert f"web.service is a service of the manager of user {USER}" in found["advice"]
    # From the user's side: no sudo, and it is the system's unit that is in the way once this one is down.
    found = look(machine, "--user", user=USER)
    assert (found["exit"], found["scope"]) == (0, "user")
    machine.run(["systemctl", "--user", "disable", "--now", "-q", "web.service"], user=USER)
    until(lambda: listening(machine), "the system's unit to listen")
    found = look(machine, "--user", "--port", str(PORT), user=USER)
    assert "the system has a unit of the same name" in causes(found)
    machine.run(["rm", "-rf", f"{folder}/web.service"])
    machine.run(["systemctl", "--user", "daemon-reload"], user=USER)


def test_the_commands_for_a_unit_of_ones_own_user_manager(machine: Machine) -> None:
    folder = f"/home/{USER}/.config/systemd/user"
    machine.write(f"{folder}/mine.service", unit_file(SERVER, Restart="always", RestartSec="200ms"))
    machine.run(["chown", "-R", USER, f"/home/{USER}/.config"])
    machine.run(["systemctl", "--user", "daemon-reload"], user=USER)
    login = in_login(machine, [SERVER])
    until(lambda: listening(machine), "the orphan to listen")
    machine.run(["systemctl", "--user", "start", "mine.service"], user=USER)
    failed = ["systemctl", "--user", "is-failed", "mine.service"]
    until(lambda: machine.run(failed, check=False, user=USER).returncode == 0, "its start limit")
    found = diagnosed(machine, "mine", "--user", user=USER)
    assert (found["exit"], found["scope"], found["verdict"]) == (1, "user", "orphan-holds-port")
    assert not [command for command in found["commands"] if "sudo" in command]
    carry_out(machine, found["commands"], user=USER)
    until(lambda: diagnosed(machine, "mine", "--user", user=USER)["exit"] == 0, "it to be healthy", 10)
    machine.run(["systemctl", "--user", "stop", "mine.service"], user=USER)
    machine.run(["rm", f"{folder}/mine.service"])
    machine.run(["systemctl", "--user", "daemon-reload"], user=USER)
    login.communicate()
    # Without --user, root is shown whose unit that is.
    machine.write(f"{folder}/mine.service", unit_file(SERVER))
    done = doctor(machine, "mine")
    assert (done.returncode, f"mine.service is a unit of the user manager of {USER}" in done.stderr) == (5, True)
    machine.run(["rm", f"{folder}/mine.service"])


def test_a_notification_that_never_comes(machine: Machine, unit: InstallUnit) -> None:
    unit("web.service", unit_file(f"{SERVER} --port {PORT}", Type="notify", TimeoutStartSec="30s"))
    machine.run(["systemctl", "start", "--no-block", "web.service"])
    until(lambda: listening(machine), "it to listen")
    found = look(machine)
    assert (found["exit"], found["verdict"], found["drop-ins"]) == (1, "still-starting", [])
    assert "it needs more time, or it never does" in causes(found)
    assert (found["commands"], found["advice"][:40]) == ([], "wait, and look again: systemd ends its s")
    machine.run(["systemctl", "stop", "web.service"])


def test_a_notification_that_did_not_come_in_time_again_and_again(machine: Machine, unit: InstallUnit) -> None:
    unit("web.service", unit_file(f"{SERVER} --port {PORT}", Type="notify", TimeoutStartSec="1s", **FAST))
    machine.run(["systemctl", "start", "--no-block", "web.service"])
    found = look_until(machine, f"it listens on 127.0.0.1:{PORT} already, and has not reported that it is ready")
    paste(machine, found)
    give_time(machine)
    machine.run(["systemctl", "restart", "web.service"])
    is_well(machine)


def test_a_notification_that_systemd_refuses(machine: Machine, unit: InstallUnit, suite: str) -> None:
    """systemd 257 logs that only on the level of debug messages; but that the service listens is known."""
    start = f"/bin/sh -c '{SERVER} notify & exec sleep infinity'"
    unit("web.service", unit_file(start, Type="notify", TimeoutStartSec="2s", **FAST))
    machine.run(["systemctl", "start", "--no-block", "web.service"])
    why = "systemd refuses its notification, which comes from PID" if suite == "bookworm" else "it listens on"
    found = look_until(machine, why, "notify" if suite == "bookworm" else "type")
    paste(machine, found)
    give_time(machine)
    machine.run(["systemctl", "restart", "web.service"])
    is_well(machine)


def test_a_forking_service_that_stays_in_the_foreground(machine: Machine, unit: InstallUnit) -> None:
    settings = {"Type": "forking", "PIDFile": "/run/web.pid", "TimeoutStartSec": "1s", **FAST}
    unit("web.service", unit_file(SERVER, **settings))
    machine.run(["systemctl", "start", "--no-block", "web.service"])
    found = look_until(machine, "stays in the foreground, but Type=forking waits for its exit")
    paste(machine, found)
    give_time(machine)
    machine.run(["systemctl", "restart", "web.service"])
    assert machine.show("web.service", "Type", "PIDFile") == {"Type": "exec", "PIDFile": ""}
    is_well(machine)


def test_a_pid_file_that_does_not_come(machine: Machine, unit: InstallUnit) -> None:
    settings = {"Type": "forking", "PIDFile": "/run/web.pid", "TimeoutStartSec": "30s"}
    unit("web.service", unit_file(f"/bin/sh -c '{SERVER} & exit 0'", **settings))
    machine.run(["systemctl", "start", "--no-block", "web.service"])
    until(lambda: listening(machine), "it to listen")
    found = look(machine)
    assert "systemd waits for PIDFile=/run/web.pid: it does not exist, and PID" in causes(found)
    assert "foreground" not in causes(found)


def test_a_program_that_goes_to_the_background(machine: Machine, unit: InstallUnit) -> None:
    machine.write("/opt/daemon", f"#!/bin/sh\n{SERVER} & exit 0\n", 0o755)
    unit("web.service", unit_file("/opt/daemon --daemonize") + WANTED)
    machine.run(["systemctl", "-q", "enable", "web.service"])
    machine.run(["systemctl", "start", "web.service"])
    until(lambda: state(machine) == "inactive", "it to be down")
    found = look(machine)
    assert "--daemonize sends it to the background, and with Type=simple systemd then kills" in causes(found)
    paste(machine, found)
    carry_out(machine, found["advice-commands"])
    is_well(machine)


@pytest.mark.parametrize(
    ("settings", "why"),
    [
        ({"User": "nosuch"}, "systemd could not change to User= (status 217/USER"),
        ({"WorkingDirectory": "/nosuch"}, "systemd could not change to WorkingDirectory= (status 200/CHDIR"),
        ({"ExecStart": "/nosuch"}, "/nosuch does not exist"),
    ],
)
def test_what_systemd_could_not_do(machine: Machine, unit: InstallUnit, settings: dict[str, str], why: str) -> None:
    others = {name: value for name, value in settings.items() if name != "ExecStart"}
    unit("web.service", unit_file(settings.get("ExecStart", SERVER), **others))
    machine.run(["systemctl", "start", "web.service"], check=False)
    until(lambda: state(machine) == "failed", "it to fail")
    found = look(machine)
    assert why in causes(found)
    first = "install /nosuch, or correct ExecStart=" if "ExecStart" in settings else "correct the setting by which"
    assert found["advice"].startswith(first)
    assert found["advice-commands"] == ["systemctl edit --full web.service"]


def test_an_environment_file_that_is_missing(machine: Machine, unit: InstallUnit) -> None:
    unit("web.service", unit_file(SERVER, EnvironmentFile="/etc/nosuch"))
    machine.run(["systemctl", "start", "web.service"], check=False)
    found = look(machine)
    assert "/etc/nosuch does not exist, and its start reads it" in causes(found)
    text = unit_file(SERVER, EnvironmentFile="-/etc/nosuch")
    machine.write("/etc/systemd/system/web.service", text)
    found = look(machine)
    assert found["commands"][0] == "systemctl daemon-reload"
    carry_out(machine, found["commands"])
    is_well(machine)


def test_a_stop_that_was_requested(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file(SERVER, Restart="always") + WANTED)
    machine.run(["systemctl", "-q", "enable", "web.service"])
    until(lambda: listening(machine), "it to listen")
    machine.run(["systemctl", "stop", "web.service"])
    found = look(machine)
    assert "a stop of web.service was requested" in causes(found)
    assert (found["commands"], found["advice"]) == ([], "it did not fail: start it if it is to run")
    carry_out(machine, found["advice-commands"])
    is_well(machine)


def test_a_watchdog_that_gets_no_ping(machine: Machine, unit: InstallUnit) -> None:
    unit("web.service", unit_file(SERVER, **FAST, WatchdogSec="300ms", WatchdogSignal="SIGTERM"))
    machine.run(["systemctl", "start", "web.service"])
    until(lambda: int(machine.show("web.service", "NRestarts")["NRestarts"]) > 3, "a loop")
    found = look(machine)
    assert "it sends no keep-alive ping within the 0.3s of WatchdogSec=" in causes(found)
    assert "it has no start limit, so systemd restarts it without end" in causes(found)
    assert "if it never sends any, write WatchdogSec=0; if it hangs, that would hide it" in found["prevention"]


def test_a_start_that_would_stop_another_unit(machine: Machine, service: StartService, unit: InstallUnit) -> None:
    service("old.service", unit_file("/bin/sleep infinity"))
    unit("web.service", unit_file("/bin/false", Unit_Conflicts="old.service"))
    machine.run(["systemctl", "start", "web.service"])
    until(lambda: state(machine) == "failed", "it to fail")
    machine.run(["systemctl", "start", "old.service"])
    found = look(machine)
    assert (found["commands"], found["proved-restart"]) == ([], "")
    assert found["advice"] == "decide which is to run: a start stops old.service (Conflicts=)"


def test_a_unit_that_waits_for_what_starts_it(machine: Machine, unit: InstallUnit) -> None:
    unit("web.service", unit_file("/bin/true", Restart="no"))
    unit("web.timer", "[Timer]\nOnActiveSec=1h\n")
    machine.run(["systemctl", "start", "web.timer"])
    found = look(machine)
    assert (found["exit"], found["commands"], found["advice"]) == (0, [], "")
    assert "web.timer starts it on demand" in machine.run(["runbook", "doctor", "web"]).stdout


def test_a_loop_that_no_start_limit_ends(machine: Machine, unit: InstallUnit) -> None:
    settings = {"Restart": "always", "RestartSec": "400ms", "Unit_StartLimitIntervalSec": "1s"}
    unit("web.service", unit_file("/bin/false", **settings))
    machine.run(["systemctl", "start", "web.service"])
    until(lambda: int(machine.show("web.service", "NRestarts")["NRestarts"]) > 3, "a loop")
    found = look(machine)
    assert (found["exit"], found["verdict"]) == (1, "crash-loop")
    assert "the start limit (5 starts in 1s) is never reached, so systemd restarts it without end" in causes(found)
    paste(machine, found)
    machine.run(["systemctl", "restart", "web.service"])
    until(lambda: state(machine) == "failed", "systemd to give it up")
    found = look(machine)
    assert "the start limit (10 starts in 1h) is reached" in causes(found)
    assert found["advice"] == "find out why it exits"
    assert found["advice-commands"] == ["journalctl -u web.service -n 30"]


def test_a_dependency_that_failed(machine: Machine, unit: InstallUnit) -> None:
    unit("db.service", unit_file("/bin/sh -c 'exit 3'", Type="oneshot"))
    unit("web.service", unit_file(SERVER, Unit_Requires="db.service", Unit_After="db.service"))
    machine.run(["systemctl", "start", "web.service"], check=False)
    found = look(machine)
    assert found["verdict"] == "job-dependency"
    assert "web.service needs db.service, which failed: its main process exited with status 3" in causes(found)
    assert found["advice"] == "find out why db.service fails"
    assert found["advice-commands"] == ["journalctl -u db.service -n 30"]
    machine.write("/etc/systemd/system/db.service", unit_file("/bin/true", Type="oneshot"))
    machine.run(["systemctl", "daemon-reload"])
    carry_out(machine, found["commands"])
    is_well(machine)


def test_a_condition_that_does_not_hold(machine: Machine, unit: InstallUnit) -> None:
    unit("web.service", unit_file(SERVER, Unit_ConditionPathExists="/nosuch"))
    machine.run(["systemctl", "start", "web.service"])
    found = look(machine)
    if found["verdict"] == "condition-not-met":  # systemd 252 unloads it at once, and has forgotten that.
        assert "ConditionPathExists=/nosuch of web.service does not hold" in causes(found)
    assert (found["exit"], found["severity"]) == (1, "problem")


def test_a_unit_that_is_masked_twice(machine: Machine, unit: InstallUnit) -> None:
    unit("web.service", "")
    machine.run(["sh", "-c", "rm /etc/systemd/system/web.service; systemctl -q mask web.service"])
    machine.run(["systemctl", "-q", "mask", "--runtime", "web.service"])
    found = look(machine)
    assert found["verdict"] == "unit-masked"
    assert "/etc/systemd/system/web.service and /run/systemd/system/web.service leads to /dev/null" in causes(found)
    assert found["commands"] == []
    carry_out(machine, found["advice-commands"][:-1])
    assert machine.show("web.service", "LoadState")["LoadState"] == "not-found"


def test_a_unit_that_is_frozen_and_one_that_is_stopped(machine: Machine, service: StartService) -> None:
    service("web.service", unit_file(SERVER))
    until(lambda: listening(machine), "it to listen")
    machine.run(["systemctl", "freeze", "web.service"])
    found = look(machine)
    assert (found["verdict"], found["commands"]) == ("unit-frozen", ["systemctl thaw web.service"])
    carry_out(machine, found["commands"])
    main = machine.show("web.service", "MainPID")["MainPID"]
    machine.run(["sh", "-c", f"kill -STOP {main}"])
    until(lambda: look(machine)["verdict"] == "unit-frozen", "it to be stopped")
    found = look(machine)
    assert found["commands"] == [f"kill -CONT {main}"]
    machine.run(["sh", "-c", found["commands"][0]])
    is_well(machine)


def test_another_service_on_the_port(machine: Machine, service: StartService, unit: InstallUnit) -> None:
    service("other.service", unit_file(SERVER))
    until(lambda: listening(machine), "the other to listen")
    unit("web.service", unit_file(SERVER, **FAST))
    machine.run(["systemctl", "start", "web.service"])
    until(lambda: int(machine.show("web.service", "NRestarts")["NRestarts"]) > 1, "a loop")
    found = look(machine)
    assert (found["verdict"], found["advice-commands"]) == ("other-unit-holds-port", ["systemctl stop other.service"])
    assert found["advice"].endswith("; stop it or give one of them another port")
    # In this order they bring it up.
    machine.run(found["advice-commands"][0].split())
    carry_out(machine, found["commands"])
    until(lambda: look(machine)["verdict"] == "ready", "it to listen")
    assert f"port {PORT} is held by PID" in causes(found)


def test_a_job_of_a_scheduler(machine: Machine, service: StartService, unit: InstallUnit) -> None:
    """A live service runs it in a scope of its own: to kill it is for that service to decide."""
    service("runner.service", unit_file(f"/bin/sh -c 'systemd-run --scope -q {SERVER}; true'"))
    until(lambda: listening(machine), "the job to listen")
    unit("web.service", unit_file(SERVER, **FAST))
    machine.run(["systemctl", "start", "web.service"])
    until(lambda: int(machine.show("web.service", "NRestarts")["NRestarts"]) > 1, "a loop")
    found = look(machine)
    assert (found["verdict"], found["commands"]) == ("other-unit-holds-port", [])
    assert "of runner.service, a live service" in causes(found)


def test_old_code_and_a_changed_file(machine: Machine, unit: InstallUnit) -> None:
    machine.run(["cp", "/bin/sleep", "/opt/sleeps"])
    unit("old.service", unit_file("/opt/sleeps infinity"))
    machine.run(["systemctl", "start", "old.service"])
    is_well(machine, "old")
    machine.run(["sh", "-c", "cp /bin/sleep /opt/sleeps.new; mv /opt/sleeps.new /opt/sleeps"])
    machine.write("/etc/systemd/system/old.service", unit_file("/opt/sleeps infinity", Nice="1"))
    found = diagnosed(machine, "old")
    assert (found["exit"], found["severity"]) == (1, "warning")
    assert "runs /opt/sleeps, and that file was replaced or removed since: the old code still runs" in causes(found)
    assert "the file of old.service changed since systemd read it" in causes(found)
    carry_out(machine, found["commands"])
    is_well(machine, "old")


def test_a_link_that_leads_to_another_release_and_a_script_that_was_written(
    machine: Machine, service: StartService
) -> None:
    """What an update without a restart leaves: the old release answers."""
    machine.run(["sh", "-c", f"for v in 1 2; do mkdir -p /opt/rel/$v && cp -p {SERVER} /opt/rel/$v/app; done"])
    machine.run(["ln", "-sfn", "1", "/opt/rel/current"])
    service("web.service", unit_file("/usr/bin/python3 /opt/rel/current/app"))
    until(lambda: listening(machine), "it to listen")
    is_well(machine)
    for update in ("ln -s 2 /opt/rel/new; mv -T /opt/rel/new /opt/rel/current", "echo >>/opt/rel/2/app"):
        machine.run(["sh", "-c", f"sleep 0.1; {update}"])
        found = look(machine)
        assert (found["exit"], found["severity"], found["verdict"]) == (1, "warning", "ready")
        changed = "/opt/rel/current" if "mv" in update else "/opt/rel/2/app"
        assert f" before {changed} changed: the old code still runs" in found["summary"]
        done = doctor(machine)
        assert (done.returncode, "next: runbook restart web.service" in done.stdout) == (1, True)
        assert found["proved-restart"] == "runbook restart web.service"
        carry_out(machine, [found["proved-restart"]])
        is_well(machine)
    machine.run(["rm", "-rf", "/opt/rel"])


def test_starts_that_were_requested_count_too(machine: Machine, unit: InstallUnit) -> None:
    unit("often.service", unit_file("/bin/sleep infinity", Unit_StartLimitIntervalSec="60") + WANTED)
    machine.run(["systemctl", "-q", "enable", "often.service"])
    for _ in range(4):
        machine.run(["systemctl", "restart", "often.service"])
    machine.run(["systemctl", "stop", "often.service"])
    found = diagnosed(machine, "often")
    assert "all of its 4 starts in 1min were requested, and systemd restarted it never" in causes(found)
    assert "one more is left for the next" in causes(found)


def test_requested_restarts_that_reach_the_start_limit(machine: Machine, unit: InstallUnit) -> None:
    """Nothing is wrong with the service itself. Once the interval is over, systemd accepts a start again."""
    limit = {"Unit_StartLimitIntervalSec": "10", "Unit_StartLimitBurst": "4"}
    unit("refused.service", unit_file("/bin/sleep infinity", **limit, Restart="always") + WANTED)
    machine.run(["systemctl", "-q", "enable", "refused.service"])
    machine.run(["sh", "-c", "for i in 1 2 3 4 5; do systemctl restart refused.service; done"], check=False)
    found = diagnosed(machine, "refused")
    assert "all of its 4 starts in 10s were requested" in causes(found)
    assert "nothing is wrong with the service itself" in causes(found)
    assert "the start limit (4 starts in 10s) is reached: systemd refuses to start refused.service" in causes(found)
    assert (found["advice"], "it was stopped (SIGTERM)" in found["summary"]) == ("", True)
    until(
        lambda: "systemd accepts a start again" in causes(diagnosed(machine, "refused")), "the interval to be over", 15
    )
    machine.run(["systemctl", "start", "refused.service"])
    assert diagnosed(machine, "refused")["exit"] == 0


def test_starts_since_a_reset_by_this_program(machine: Machine, unit: InstallUnit) -> None:
    """systemd has no record of a reset-failed, but the journal has this program's own: the starts before are over."""
    unit("counted.service", unit_file("/bin/sleep infinity", Unit_StartLimitIntervalSec="60") + WANTED)
    machine.run(["systemctl", "-q", "enable", "counted.service"])
    machine.run(["sh", "-c", "for i in 1 2 3 4; do systemctl restart counted.service; done"])
    done = runbook(machine, "apply", "unit: counted.service\nsteps:\n  - reset-failed\n")
    assert done.exit == 0, done.stderr
    machine.run(["sh", "-c", "for i in 1 2 3 4; do systemctl restart counted.service; done"])
    # `restart` counts by the same rule, and does not wait for the end of the interval.
    done = runbook(machine, "apply", "unit: counted.service\nsteps:\n  - restart\n")
    assert (done.exit, [wait for wait in done.of("step-waiting") if "limit" in wait["reason"]]) == (0, [])
    machine.run(["systemctl", "stop", "counted.service"])
    found = diagnosed(machine, "counted")
    assert "5 starts since runbook cleared the counter at " in causes(found)


def test_a_start_script_that_opens_a_login(machine: Machine, unit: InstallUnit) -> None:
    """What it starts through su stays in a session's scope when the unit is stopped."""
    first = f"su - {USER} -c 'setsid {SERVER} >/dev/null 2>&1 &'"
    once = f"test -e /run/once || {{ touch /run/once; {first}; sleep 1; }}"
    machine.write("/opt/start", f"#!/bin/sh\n{once}\nexec {SERVER}\n", 0o755)
    unit("web.service", unit_file("/opt/start", **FAST))
    machine.run(["systemctl", "start", "web.service"])
    until(lambda: int(machine.show("web.service", "NRestarts")["NRestarts"]) > 0, "a loop")
    until(lambda: look(machine)["verdict"] == "orphan-holds-port", "su to leave the orphan alone")
    found = look(machine)
    assert f"was started in a login of {USER} (session-" in causes(found)
    assert "its start runs su, which moves what it starts out of the unit's cgroup" in causes(found)
    carry_out(machine, found["commands"])
    is_well(machine)
    machine.run(["rm", "/run/once"])


def test_a_supervisor_that_is_an_orphan_itself(machine: Machine, unit: InstallUnit) -> None:
    machine.write(
        "/opt/keeper", f"#!/usr/bin/python3\nimport subprocess\nwhile True: subprocess.run(['{SERVER}'])\n", 0o755
    )
    login = in_login(machine, ["/opt/keeper"])
    until(lambda: listening(machine), "the orphan to listen")
    unit("web.service", unit_file(SERVER, **FAST))
    machine.run(["systemctl", "start", "web.service"])
    until(lambda: int(machine.show("web.service", "NRestarts")["NRestarts"]) > 1, "a loop")
    found = look(machine)
    assert found["verdict"] == "orphan-holds-port"
    assert "(keeper), belongs to no service either, and may start it again: stop that one first" in causes(found)
    machine.run(["sh", "-c", "pkill -KILL -f /opt/keeper"], check=False)
    login.kill()
    login.communicate()
