"""What a command of the run starts beside the services of its manager is not restarted: then it is not rolled back."""

from __future__ import annotations

import re

import pytest

from tests.machine.incident import in_login
from tests.machine.machine import Machine, until
from tests.machine.ownership.staging import USER_UNITS, Stage
from tests.machine.runs import Run, runbook, unit_file
from tests.machine.tree import USER

SERVE = "python3 /opt/left/serve.py"
SERVER = """\
import http.server, pathlib, signal, sys, os
version = pathlib.Path("/opt/left/version").read_text().strip()
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(version.encode())
    def log_message(self, *words):
        pass
signal.signal(signal.SIGHUP, lambda *_: os.execv(sys.executable, [sys.executable, *sys.argv]))
signal.pthread_sigmask(signal.SIG_UNBLOCK, [signal.SIGHUP])
http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Answer).serve_forever()
"""
BOOK = """\
unit: left-web
port: 8090
rollback: {rollback}
steps:
  - update: {{run: "echo ${{{{ to }}}} >/opt/left/version", version: cat /opt/left/version, to: "2.0"}}
  - restart
  - run: {{name: extra, run: "{extra}"}}
  - run: {{name: fails, run: "false"}}
  - wait-ready: {{healthy-for: 100ms}}
  - verify-port-owner
"""
QUIET = "</dev/null >/dev/null 2>&1"
UNSEEN = "; not looked at: containers, programs that a command made re-execute themselves, and what it starts later"


@pytest.fixture
def left(machine: Machine) -> Stage:
    """Run version 1.0 of the service, and of one of a user's manager."""
    stage = Stage(machine)
    machine.write("/opt/left/serve.py", SERVER)
    machine.write("/opt/left/version", "1.0\n")
    machine.run(["chmod", "-R", "a+rX", "/opt/left"])
    stage.service("left-web.service", f"/usr/bin/{SERVE} 8090")
    stage.service("left-aide.service", f"/usr/bin/{SERVE} 8093")
    stage.users_manager()
    machine.write(f"{USER_UNITS}/left-help.service", unit_file(f"/usr/bin/{SERVE} 8091"))
    machine.run(["chown", "-R", USER, f"/home/{USER}/.config"])
    stage.as_user("daemon-reload")
    stage.as_user("restart", "left-help.service")
    stage.start("left-web.service", "left-aide.service")
    stage.listening(8090, 8091, 8093)
    return stage


def apply(stage: Stage, extra: str, rollback: str = "auto") -> Run:
    """Apply the runbook with this command in it; stop everything afterwards."""
    try:
        return runbook(stage.machine, "apply", BOOK.format(extra=extra, rollback=rollback))
    finally:
        stage.as_user("stop", "left-help.service")
        stage.machine.run(["systemctl", "stop", "left-*.service", "left-*.scope"], check=False)
        stage.machine.run(["pkill", "-KILL", "-f", "/opt/left/serve.py"], check=False)
        for process in stage.started:
            process.communicate(timeout=20)


@pytest.mark.parametrize(
    ("extra", "named", "remedy"),
    [
        (
            f"systemctl --user -M {USER}@ restart left-help.service; sleep 0.5",
            f"left-help.service of user {USER}",
            f"systemctl --user -M {USER}@ restart left-help.service",
        ),
        (
            f"systemd-run --quiet --unit=left-job {SERVE} 8092; sleep 0.5",
            r"left-job\.service",
            "systemctl stop left-job.service, and start python3 again if it is needed",
        ),
        (
            f"systemd-run --quiet --scope --unit=left-daemon setsid -f {SERVE} 8092 {QUIET}; sleep 0.5",
            r"left-daemon\.scope",
            "systemctl stop left-daemon.scope",
        ),
        (
            f"su - {USER} -c 'setsid -f {SERVE} 8092 {QUIET}'; sleep 0.5",
            r"session-\S+\.scope",
            "systemctl stop session",
        ),
    ],
    ids=["user-service", "transient", "scope", "session"],
)
def test_what_runs_on_is_named_and_it_is_no_rollback(left: Stage, extra: str, named: str, remedy: str) -> None:
    run = apply(left, extra)
    assert (run.exit, run.last["status"]) == (1, "failed"), run.last
    why = rf"{named}: PID \d+ \(python3\) started while a command of this run was running, and may run the new version"
    assert re.search(rf"the rollback is not proved: {why}$", run.last["reason"]), run.last
    proof = run.step("rollback.proof")
    assert (proof["status"], proof["verdict"]) == ("failed", "old-code-serving"), proof
    shown = " ".join(left.machine.run(["runbook", "show", run.last["run"]]).stdout.split())
    assert remedy in shown, shown


@pytest.mark.parametrize(
    "extra",
    [
        "systemd-run --quiet --wait --unit=left-job true",
        f"su - {USER} -c true",
        "pkill -HUP -f 'serve.py 8093'; sleep 0.5",  # It re-executes itself, which cannot be found out.
    ],
    ids=["transient-ended", "session-ended", "re-executed"],
)
def test_what_has_ended_is_rolled_back_and_what_was_not_looked_at_is_named(left: Stage, extra: str) -> None:
    run = apply(left, extra)
    assert (run.exit, run.last["status"]) == (4, "rolled-back"), str(run.last["reason"])
    assert run.last["reason"].endswith(f"; rolled back: update is back at 1.0{UNSEEN}"), run.last


def test_a_login_and_what_started_before_do_not_count(left: Stage) -> None:
    """A person who logs in, and starts something there, is no command of the run."""
    left.begin(["systemd-run", "--quiet", "--scope", "--unit=left-before", "sleep", "20"])
    until(lambda: left.machine.run(["pgrep", "-f", "sleep 20"], check=False).stdout, "it to run")
    login = in_login(left.machine, ["sh", "-c", "while :; do sleep 0.3; done"])
    try:
        run = apply(left, "sleep 1.5")
    finally:
        login.kill()
        login.communicate(timeout=10)
    assert (run.exit, run.last["status"]) == (4, "rolled-back"), str(run.last["reason"])


def test_after_a_list_of_steps_it_is_a_notice(left: Stage) -> None:
    back = (
        '[{run: {run: "echo 1.0 >/opt/left/version"}}, restart, {wait-ready: {healthy-for: 100ms}}, verify-port-owner]'
    )
    run = apply(left, f"systemd-run --quiet --unit=left-job {SERVE} 8092; sleep 0.5", back)
    assert (run.exit, run.last["status"]) == (4, "rolled-back"), str(run.last["reason"])
    (text,) = [one["text"] for one in run.of("notice") if "left-job" in one["text"]]
    assert re.match(r"left-job\.service: PID \d+ \(python3\) started while a command", text)
