"""A unit that is up and answers wrongly is a failure; one that does not answer yet is still starting."""

from __future__ import annotations

import pytest

from tests.machine.conftest import InstallUnit, StartService
from tests.machine.machine import Machine, until
from tests.machine.readiness.shapes import book
from tests.machine.runs import Run, runbook, unit_file

PORT = 9440
URL = f"http://127.0.0.1:{PORT}"

PAGES = """
import http.server, sys, time

class Pages(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        if self.path == "/slow":
            time.sleep(30)
        while self.path.startswith("/interim"):
            self.send_response_only(100)
            self.end_headers()
            time.sleep(0.3 if "slowly" in self.path else 0)
        status = int(self.path.strip("/") or 200) if self.path != "/slow" else 200
        version = open("/srv/version").read().encode()
        # The new version has lost its page.
        status = 404 if self.path == "/" and version == b"2.0.0" else status
        self.send_response(status)
        self.send_header("Content-Length", str(len(version)))
        self.end_headers()
        self.wfile.write(version)

http.server.ThreadingHTTPServer(("127.0.0.1", int(sys.argv[1])), Pages).serve_forever()
"""


@pytest.fixture
def pages(machine: Machine) -> str:
    """Write a server that answers a path with the status that it names; return its ExecStart=."""
    machine.write("/opt/pages.py", PAGES)
    machine.write("/srv/version", "1.0.0")
    return unit_file(f"/usr/bin/python3 /opt/pages.py {PORT}")


def wait(probe: str, fields: str = "") -> str:
    return f"wait-ready: {{timeout: 2s, healthy-for: 0{fields}, probes: [{probe}]}}"


def ended(run: Run) -> tuple[int, str, str]:
    return run.exit, run.step("wait-ready")["status"], run.step("wait-ready")["verdict"]


WRONG = {
    "another status": f'{{http: {{url: "{URL}/404"}}}}',
    "a redirection": f'{{http: {{url: "{URL}/302"}}}}',
    "an error": f'{{http: {{url: "{URL}/500"}}}}',
    "another body": f'{{http: {{url: "{URL}/", body: "^2"}}}}',
    "no websocket": f'{{websocket: {{url: "ws://127.0.0.1:{PORT}/"}}}}',
    "another exit status": f"{{run: {{run: 'curl -sf {URL}/404'}}}}",
    "one of two": f'{{http: {{url: "{URL}/"}}}}, {{http: {{url: "{URL}/404"}}}}',
}

NONE = {
    "not available": f'{{http: {{url: "{URL}/503"}}}}',
    "no connection": '{http: {url: "http://127.0.0.1:9441/"}}',
    "no answer in time": f'{{http: {{url: "{URL}/slow", timeout: 500ms}}}}',
    "a closed port": "{tcp: {port: 9441}}",
    "no line": "{journal: {pattern: never}}",
    "a command that waits": "{run: {run: 'until false; do sleep 0.1; done', timeout: 500ms}}",
}


@pytest.mark.parametrize("name", [*WRONG, *NONE])
def test_what_the_end_of_the_time_means(machine: Machine, service: StartService, pages: str, name: str) -> None:
    """Whatever on-timeout is, a wrong answer is a failure; and a fix is begun for it, but not for a missing answer."""
    service("web.service", pages)
    until(lambda: machine.run(["ss", "-Hltn", f"sport = :{PORT}"]).stdout, "the port to be held")
    wrong = name in WRONG
    probe = WRONG.get(name) or NONE[name]
    run = runbook(machine, "apply", book("web", wait(probe), port=PORT))
    assert ended(run) == ((1, "failed", "probe-failed") if wrong else (3, "failed", "still-starting")), run.last
    fixes = f"remediate: {{check: [{wait(probe)}], fix: [run: {{run: 'true'}}]}}"
    run = runbook(machine, "apply", book("web", fixes, port=PORT))
    assert bool(run.of("fix-started")) == wrong
    assert run.exit == (1 if wrong else 3)


INTERIM = {
    "interim": "it answers `100 Continue` again and again, and nothing else",
    "interim-slowly": "no answer within 1s",
}


@pytest.mark.parametrize("path", INTERIM)
def test_interim_answers_without_an_end(machine: Machine, service: StartService, pages: str, path: str) -> None:
    """They are no answer, and the probe ends with its own time-out, however many come."""
    service("web.service", pages)
    until(lambda: machine.run(["ss", "-Hltn", f"sport = :{PORT}"]).stdout, "the port to be held")
    probe = f"http: {{url: '{URL}/{path}', timeout: 1s}}"
    run = runbook(machine, "check", book("web", f"wait-ready: {{timeout: 40s, probes: [{probe}]}}", port=PORT))
    assert ended(run) == (1, "failed", "probe-failed"), run.last
    assert run.step("wait-ready")["reason"] == f"{URL}/{path}: {INTERIM[path]}"
    assert run.step("wait-ready")["seconds"] < 10
    run = runbook(machine, "apply", book("web", wait(f"{{{probe}}}"), port=PORT))
    assert ended(run) == (3, "failed", "still-starting"), run.last
    assert f"{URL}/{path}: {INTERIM[path]}; web.service is active" in run.step("wait-ready")["reason"]
    assert run.step("wait-ready")["seconds"] < 10


def test_an_upgrade_with_a_wrong_answer_is_rolled_back(machine: Machine, unit: InstallUnit, pages: str) -> None:
    unit("web.service", pages)
    machine.run(["systemctl", "start", "web.service"])
    update = "update: {run: 'printf ${{ to }} >/srv/version', version: cat /srv/version, to: 2.0.0}"
    page = wait(f'{{http: {{url: "{URL}/"}}}}')
    run = runbook(machine, "apply", book("web", update, "restart", page, port=PORT, rollback="auto"))
    assert (run.exit, run.last["status"]) == (4, "rolled-back"), run.last
    assert run.last["reason"].startswith(f"wait-ready: not ready within 2s: {URL}/: answered 404; expected 200")
    assert machine.run(["curl", "-s", URL]).stdout == "1.0.0"
