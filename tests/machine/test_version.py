"""The running version compared with the files on the disk, on a real systemd."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.conftest import StartService
from tests.machine.incident import holders
from tests.machine.machine import Machine, until
from tests.machine.runs import Run, runbook, unit_file

SERVER = """
import http.server
from version import VERSION

class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        body = VERSION if self.path == "/version" else open("/opt/app/current/disk").read()
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())

http.server.HTTPServer(("127.0.0.1", 8090), Answer).serve_forever()
"""

RUN = "python3 /opt/app/current/server.py"
UP = "wait-ready: {healthy-for: 0, timeout: 20s}"


def release(machine: Machine, version: str) -> None:
    """Unpack a release beside the others, with old time stamps."""
    folder = f"/opt/app/{version}"
    machine.write(f"{folder}/server.py", SERVER)
    machine.write(f"{folder}/version.py", f'VERSION = "app {version}"\n')
    machine.write(f"{folder}/disk", version)
    machine.run(["sh", "-c", f"touch -d 2020-01-01 {folder}/*"])


def switch(machine: Machine, version: str) -> None:
    machine.run(["ln", "-sfn", version, "/opt/app/current"])


@pytest.fixture
def app(machine: Machine, service: StartService) -> Iterator[Machine]:
    """Run version 1.0.0 as web.service, with 1.1.0 unpacked beside it."""
    release(machine, "1.0.0")
    release(machine, "1.1.0")
    switch(machine, "1.0.0")
    service("web.service", unit_file(f"/usr/bin/{RUN}"))
    yield machine
    machine.run(["rm", "-rf", "/opt/app"])


def look(machine: Machine, fields: str, *before: str) -> Run:
    steps = "".join(f"  - {step}\n" for step in (*before, UP, f"verify-version: {{{fields}}}"))
    return runbook(machine, "apply", f"unit: web\nport: 8090\nsteps:\n{steps}")


PAGE = 'http: {url: "http://127.0.0.1:8090/version"}, expect: 1.1.0'
DISK = 'http: {url: "http://127.0.0.1:8090/"}, expect: 1.1.0'
NEWER = "newer-than: /opt/app/current"


def test_an_update_without_a_restart_is_found(app: Machine) -> None:
    """The running service reports the old version, and the link is younger than its process."""
    assert look(app, NEWER).step("verify-version")["verdict"] == "version-ok"
    switch(app, "1.1.0")
    asked = look(app, PAGE)
    assert (asked.exit, asked.step("verify-version")["verdict"]) == (1, "version-mismatch")
    assert asked.step("verify-version")["reason"] == "1.0.0 serves, not 1.1.0"
    # A page that reads the disk reports the new version. That passes if the step checks nothing else.
    assert look(app, DISK).step("verify-version")["verdict"] == "version-ok"
    for fields in (NEWER, f"{DISK}, {NEWER}"):
        aged = look(app, fields)
        assert (aged.exit, aged.step("verify-version")["verdict"]) == (1, "old-code-serving")
        assert "before /opt/app/current changed" in aged.step("verify-version")["reason"]


def test_an_update_with_a_restart_is_ok(app: Machine) -> None:
    switch(app, "1.1.0")
    run = look(app, f"{PAGE}, {NEWER}", "restart")
    assert (run.exit, run.step("verify-version")["verdict"]) == (0, "version-ok"), run.last
    assert run.step("verify-version")["reason"].startswith("1.1.0 serves; PID ")


@pytest.mark.parametrize(
    "swap",
    [
        "mv /opt/app/1.0.0/server.py /tmp/old; cp -p /opt/app/1.1.0/server.py /opt/app/1.0.0/",
        "mv /opt/app/1.1.0/server.py /opt/app/1.0.0/",
        "mv /opt/app/1.0.0 /opt/app/was; mv /opt/app/1.1.0 /opt/app/1.0.0",
        "echo >>/opt/app/1.0.0/server.py; touch -d 2020-01-01 /opt/app/1.0.0/server.py",
    ],
    ids=["copied with its times", "moved", "folder moved", "written and dated back"],
)
def test_each_way_to_replace_the_files_of_a_process_is_found(app: Machine, swap: str) -> None:
    # Make sure that the process has loaded its files.
    assert look(app, NEWER).step("verify-version")["verdict"] == "version-ok"
    app.run(["sh", "-c", swap])
    stale = look(app, NEWER)
    assert stale.step("verify-version")["verdict"] == "old-code-serving", stale.last
    fresh = look(app, NEWER, "restart")
    assert fresh.step("verify-version")["verdict"] == "version-ok", fresh.last


def test_a_restart_right_after_the_swap_is_ok(app: Machine) -> None:
    """A restart in the same moment does not count as old code, though times are cut to a hundredth of a second."""
    steps = f'  - reset-failed\n  - run: {{run: "touch /opt/app/1.0.0/server.py"}}\n  - restart\n  - {UP}\n'
    for _ in range(5):
        run = runbook(app, "apply", f"unit: web\nport: 8090\nsteps:\n{steps}  - verify-version: {{{NEWER}}}\n")
        assert run.exit == 0, run.last


def test_a_replaced_program_is_found(machine: Machine, service: StartService) -> None:
    machine.run(["cp", "/usr/bin/sleep", "/opt/sleep"])
    service("web.service", unit_file("/opt/sleep infinity"))
    book = "unit: web\nsteps: [verify-version: {newer-than: /opt/sleep}]\n"
    assert runbook(machine, "check", book).step("verify-version")["verdict"] == "version-ok"
    machine.run(["sh", "-c", "cp /usr/bin/sleep /opt/new; mv /opt/new /opt/sleep"])
    run = runbook(machine, "check", book)
    assert (run.exit, run.step("verify-version")["verdict"]) == (1, "old-code-serving")
    assert "runs /opt/sleep, and that file was replaced or removed since" in run.step("verify-version")["reason"]
    machine.run(["rm", "/opt/sleep"])


def test_the_right_version_from_an_orphan_does_not_count(app: Machine) -> None:
    switch(app, "1.1.0")
    app.run(["systemctl", "stop", "web.service"])
    app.run(
        [
            "systemd-run",
            "--quiet",
            "--scope",
            "--slice=user.slice",
            "--unit=stray",
            "sh",
            "-c",
            f"{RUN} >/dev/null 2>&1 &",
        ]
    )
    until(lambda: holders(app, 8090), "the stray to listen")
    app.run(["systemctl", "start", "web.service"], check=False)
    try:
        run = runbook(app, "check", f"unit: web\nport: 8090\nsteps: [verify-version: {{{PAGE}}}]\n")
    finally:
        app.run(["systemctl", "stop", "stray.scope"])
        app.run(["systemctl", "reset-failed", "web.service"], check=False)
    assert (run.exit, run.step("verify-version")["verdict"]) == (1, "orphan-holds-port")


def test_another_user_may_compare_times(app: Machine) -> None:
    """Each user may read the times, but not the holder of a port."""
    run = runbook(app, "check", f"unit: web\nsteps: [verify-version: {{{NEWER}}}]\n", user="agentops")
    assert (run.exit, run.step("verify-version")["verdict"]) == (0, "version-ok"), run.last
