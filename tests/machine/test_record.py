"""The record of a run on a real machine: shown later, followed during the run, on a full disk, and without secrets."""

from __future__ import annotations

import contextlib
import json
import subprocess
from collections.abc import Iterator

import pytest

from tests.machine.conftest import StartService
from tests.machine.incident import Incident
from tests.machine.machine import Machine, until
from tests.machine.runs import RUNBOOK, parsed, runbook, unit_file, write_runbook
from tests.machine.tree import PROJECT, VENV

RUNS = "/var/lib/runbook/runs"


@pytest.fixture(autouse=True)
def _no_runs(machine: Machine) -> Iterator[None]:
    """Delete all runs before a test, and stop their commands after it."""
    machine.run(["rm", "-rf", "/var/lib/runbook"])
    yield
    machine.run(["systemctl", "stop", "runbook-*"])
    machine.run(["systemctl", "reset-failed", "runbook-*"], check=False)


def ask(machine: Machine, *argv: str, status: int = 0, user: str | None = None) -> str:
    """Run a command that shows runs, and return its output without line breaks."""
    done = machine.run(["runbook", *argv], check=False, user=user)
    assert done.returncode == status, done.stdout + done.stderr
    assert all(len(line) <= 80 or "/" in line for line in done.stdout.splitlines()), done.stdout
    return " ".join((done.stdout + done.stderr).split())


# -- shown later


def test_the_record_shows_the_incident(machine: Machine, incident: Incident) -> None:
    since = machine.run(["date", "+%Y-%m-%d"]).stdout.strip()
    book = """
        name: upgrade the gateway
        unit: gateway
        port: 18789
        steps:
          - remediate:
              check: [wait-ready: {healthy-for: 0, timeout: 30s}]
              fix: [stop, kill-orphan, reset-failed, start]
    """
    machine.run(["systemctl", "start", "gateway"])
    run = runbook(machine, "apply", book)
    assert run.exit == 0, run.last
    name = run.last["run"]
    shown = ask(machine, "show", name[-3:])
    assert f"upgrade the gateway run {name}" in shown
    assert f"by root file {RUNBOOK} unit gateway.service" in shown
    unit = run.step("remediate.fix.kill-orphan")["evidence"]["killed"][0]["unit"]
    for what in ("holds", "killed"):
        assert f"{what}: PID {incident.orphan} in {unit} of user agentops, since {since}" in shown
    assert "| /usr/bin/python3 /opt/gateway" in shown
    assert f"PID {incident.orphan} (gateway) exited on TERM" in shown
    assert f"files {RUNS}/{name}" in shown
    assert [json.loads(line) for line in machine.run(["runbook", "show", "--output", "json"]).stdout.splitlines()] == [
        json.loads(line) for line in machine.read(f"{RUNS}/{name}/events.jsonl").splitlines()
    ]
    assert f"{name} {since}" in (listed := ask(machine, "history"))
    assert "remediated" in listed
    assert "upgrade the gateway: gateway.service" in listed
    ask(machine, "show", "--html", "/root/run.html")
    assert "kill-orphan" in machine.read("/root/run.html")


def test_other_users_cannot_read_records(machine: Machine) -> None:
    runbook(machine, "apply", "steps: [run: {run: echo hello}]\n")
    assert machine.run(["find", "/var/lib/runbook", "-perm", "/077"]).stdout == ""
    machine.run(["runbook", "show", "--html", "/tmp/run.html"])
    for path in (RUNS, "/tmp/run.html"):
        assert (
            "Permission denied"
            in machine.run(["ls" if path == RUNS else "cat", path], check=False, user="agentops").stderr
        )
    machine.run(["rm", "/tmp/run.html"])
    assert "no run is recorded in /home/agentops/" in ask(machine, "history", user="agentops")
    assert "there is no run" in ask(machine, "show", status=5, user="agentops")


# -- followed

WAITS = """
    steps:
      - run: {id: first, run: echo hello from the first}
      - run: {id: second, run: 'while [ ! -e /tmp/go ]; do sleep 0.05; done'}
"""


@contextlib.contextmanager
def under_way(machine: Machine) -> Iterator[subprocess.Popen[str]]:
    """Start a run that waits for /tmp/go."""
    machine.run(["rm", "-f", "/tmp/go"])
    with machine.popen(["runbook", "apply", write_runbook(machine, WAITS)]) as process:
        try:
            until(lambda: "second" in _events(machine), "the second step", 20)
            yield process
        finally:
            machine.run(["touch", "/tmp/go"])  # A command that follows the run ends with it, too.
            process.wait(20)


def _events(machine: Machine) -> str:
    found = machine.run(["sh", "-c", f"grep -h step-acting {RUNS}/*/events.jsonl"], check=False)
    return found.stdout


def pid_of(machine: Machine, *words: str) -> str:
    """Return the PID of a `runbook` in the machine, found by its arguments."""
    return machine.run(["pgrep", "-f", f"^[^ ]*python[^ ]* [^ ]*runbook {' '.join(words)}"]).stdout.split()[0]


def test_a_follower_ends_with_the_run_or_on_ctrl_c(machine: Machine) -> None:
    with under_way(machine):
        assert "under-way" in ask(machine, "history")
        assert "next runbook show --follow" in ask(machine, "show")
        # A process that a shell has started in the background ignores SIGINT.
        follows = ["env", "--default-signal=INT", "runbook", "show", "--follow"]
        with machine.popen([*follows, "--output", "json"]) as lines, machine.popen(follows) as left:
            out, err = left.stdout, left.stderr
            assert out is not None
            assert err is not None
            try:
                until(lambda: "hello from the first" in out.readline(), "the first step's output", 20)
                machine.run(["kill", "-INT", pid_of(machine, "show --follow$")])
                assert (left.wait(20), err.read()) == (130, "")
            finally:
                machine.run(["touch", "/tmp/go"])
            printed, _ = lines.communicate(timeout=20)
            assert lines.returncode == 0
        assert [json.loads(line)["event"] for line in printed.splitlines()][-1] == "run-finished"


def test_a_killed_run_is_shown_as_cut_short_and_can_be_resumed(machine: Machine) -> None:
    with under_way(machine) as process, machine.popen(["runbook", "show", "--follow"]) as text:
        out = text.stdout
        assert out is not None
        until(lambda: "hello from the first" in out.readline(), "the first step's output", 20)
        machine.run(["kill", "-KILL", pid_of(machine, "apply")])
        process.wait(20)
        text.wait(20)
        shown = " ".join(out.read().split())
    assert "cut short: its program was killed, or the machine went down" in shown
    assert "cut second began to act, and its end is not recorded" in shown
    assert "--rerun second or --skip second; --abandon closes it" in shown
    assert "cut-short" in ask(machine, "history")
    machine.run(["touch", "/tmp/go"])
    assert ", resumed" in ask(machine, "resume")
    shown = ask(machine, "show")
    assert "resumed, 2" in shown
    assert "cut short" not in shown
    assert "runbook resume" not in shown


# -- on a full disk


@pytest.fixture
def small(machine: Machine) -> Iterator[Machine]:
    """Mount a disk of 400 kB for the records."""
    machine.run(["mkdir", "-p", "/var/lib/runbook"])
    machine.run(["mount", "-t", "tmpfs", "-o", "size=400k,mode=700", "tmpfs", "/var/lib/runbook"])
    yield machine
    machine.run(["umount", "/var/lib/runbook"])


def test_a_disk_that_fills_up_does_not_end_a_run(small: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    before = small.show("web.service", "InvocationID")
    # The files that start a command are deleted after it, so several thousand bytes are free again by then.
    book = """
        unit: web
        steps:
          - run: {run: cat /dev/zero >/var/lib/runbook/fill || true}
          - run: {run: seq 1000, read-only: true}
          - run: {run: seq 1000, read-only: true}
          - run: {run: seq 1000, read-only: true}
          - run: {run: seq 1000, read-only: true}
          - run: {run: seq 1000, read-only: true}
          - restart
          - wait-ready: {healthy-for: 0, timeout: 20s}
    """
    run = runbook(small, "apply", book)
    assert (run.exit, run.last["status"]) == (0, "changed"), run.last
    assert small.show("web.service", "InvocationID") != before
    [notice] = run.of("notice")
    assert "cannot grow any more (no space left on device); the run continues, but cannot be resumed" in notice["text"]
    shown = ask(small, "show")
    assert "the record is incomplete: no space left on device; its last event is from 2" in shown
    assert "its record is incomplete (no space left on device)" in ask(small, "resume", run.last["run"], status=5)
    assert "there is no run to resume" in ask(small, "resume", status=5)


def test_no_run_begins_on_a_full_disk(small: Machine, service: StartService) -> None:
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    before = small.show("web.service", "InvocationID")
    small.run(["sh", "-c", "cat /dev/zero >/var/lib/runbook/fill"], check=False)
    run = runbook(small, "apply", "unit: web\nsteps: [restart]\n")
    assert (run.exit, run.last["status"]) == (5, "not-begun")
    assert "no place for the run's record in /var/lib/runbook/runs: No space left on device" in run.last["reason"]
    assert small.run(["find", "/var/lib/runbook", "-mindepth", "2"]).stdout == "", "no incomplete record is left"
    small.run(["rm", "/var/lib/runbook/fill"])
    small.run(["mount", "-o", "remount,ro", "/var/lib/runbook"])
    run = runbook(small, "apply", "unit: web\nsteps: [restart]\n")
    assert (run.exit, run.last["status"]) == (5, "not-begun")
    assert "Read-only file system" in run.last["reason"]
    assert small.show("web.service", "InvocationID") == before


# -- secrets

CORE = "c0rrect-h0rse"
TOKEN = f"my '{CORE}' $x % \"y\""
OTHER = "battery-staple"

EVERYWHERE = """
    name: upgrade web
    unit: web
    secrets: [TOKEN]
    vars: {key: ""}
    env: {TOKEN: "${{ env.TOKEN }}"}
    steps:
      - run: {id: prints, run: 'echo "the token is $TOKEN, yes"; printf "%s%s" "$TOKEN" "$TOKEN"'}
      - run: {id: key, run: 'echo key ${{ vars.key }}'}
      - run: {id: looks, run: 'echo "$TOKEN"', read-only: true}
      - run: {id: fails, run: 'echo "bad token $TOKEN"; exit 3', retries: 1, delay: 0, on-failure: continue}
      - run: {id: long, run: 'echo it is a long command which ends in ${{ vars.key }}; exit 3', on-failure: continue}
      - run: {id: quiet, run: 'cat /root/other; exit 3', name: quiet, secret: true, on-failure: continue}
      - run: {id: cwd, run: 'true', cwd: '/nowhere/${{ vars.key }}', on-failure: continue}
      - update:
          run: 'echo "installing with $TOKEN"; exit 1'
          version: 'echo "no version for $TOKEN"'
          to: "1.0"
          on-failure: continue
      - restart: {on-failure: continue}
      - wait-ready: {timeout: 20s, on-failure: continue}
      - run: {id: uses, run: 'echo again ${{ steps.looks.output }}'}
"""


def assert_hidden(machine: Machine, name: str, printed: list[str], *words: str) -> None:
    """Assert that words are neither printed nor recorded, nor in the journal, unless the unit logged them itself."""
    texts = list(printed)
    for argv in (["show"], ["show", "--output", "json"], ["history"], ["show", "--html", "/root/page.html"]):
        texts.append(machine.run(["runbook", *argv, *([name] if argv[0] == "show" else [])]).stdout)
    texts.append(machine.read("/root/page.html"))
    machine.run(["journalctl", "--sync"])
    lines = machine.run(["journalctl", "-o", "json", "--no-pager"]).stdout.splitlines()
    # journald records the sender's command line, which has the value of --set, as ps shows it too.
    entries = [{**entry, "_CMDLINE": ""} for entry in map(json.loads, lines)]
    texts += [json.dumps(entry) for entry in entries if entry.get("_SYSTEMD_UNIT") != "web.service"]
    for word in words:
        assert [text for text in texts if word in text] == []
        found = machine.run(["grep", "-rc", word, "/var/lib/runbook"], check=False).stdout
        assert [line for line in found.splitlines() if not line.endswith(":0")] == []


def test_a_secret_is_neither_recorded_nor_printed(machine: Machine, service: StartService) -> None:
    """It comes from a command's environment, words and output, from --set, and from `version`, the unit and errors."""
    machine.write("/root/token", TOKEN)
    machine.write("/root/other", OTHER)
    service("web.service", unit_file("/usr/bin/sleep infinity"))
    machine.write(
        "/etc/systemd/system/web.service",
        unit_file("/bin/sh -c 'cat /root/token; exit 3'"),
    )
    machine.run(["systemctl", "daemon-reload"])
    write_runbook(machine, EVERYWHERE)
    texts = []
    for output in ("json", "plain"):
        argv = ["runbook", "apply", RUNBOOK, "--output", output, "--set", f"key={TOKEN}"]
        done = machine.run(argv, check=False, env={"TOKEN": TOKEN})
        assert done.returncode == 0, done.stdout
        texts += [done.stdout, done.stderr]
    name = json.loads(texts[0].splitlines()[-1])["run"]
    assert_hidden(machine, name, texts, CORE, OTHER)
    assert "***" in texts[0]
    assert "bad token ***" in texts[2]
    assert (
        "journal" in [e for e in map(json.loads, texts[0].splitlines()) if e.get("id") == "wait-ready"][-1]["evidence"]
    )
    # Normal output is kept, with asterisks for the secret. The output of a `secret` step is not kept.
    stars = "*" * len(TOKEN)
    assert machine.read(f"{RUNS}/{name}/output/prints.log") == f"the token is {stars}, yes\n{stars}{stars}"
    assert machine.run(["ls", f"{RUNS}/{name}/output"]).stdout.count("quiet.log\n") == 0


ECHOES = r"""
import http.server, urllib.parse

class Echoes(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        token = self.headers["Authorization"]
        if self.path == "/garbled":
            self.wfile.write(f"no {token!r}\r\n".encode())
        else:
            self.send_response(302)
            self.send_header("Location", f"/?{urllib.parse.quote(token)}&{'x' * 60000}")
            self.end_headers()

http.server.HTTPServer(("127.0.0.1", 9470), Echoes).serve_forever()
"""

PROBE = """
      - wait-ready:
          {id: ID, on-failure: continue, healthy-for: 0, timeout: 1s, probes: [{http: {url: "http://127.0.0.1:9470/ID",
           headers: {Authorization: "${{ env.TOKEN }}"}}}]}"""

IN_ERRORS = f"""
    unit: web
    port: 9470
    secrets: [TOKEN]
    env: {{TOKEN: "${{{{ env.TOKEN }}}}"}}
    steps:
      - wait-ready: {{healthy-for: 0, timeout: 20s}}
      - run: {{id: raises, run: [python3, -c, 'import os; os.environ[os.environ["TOKEN"]]'], on-failure: continue}}
      {PROBE.replace("ID", "garbled")}
      {PROBE.replace("ID", "moved")}
      - stop
"""


def test_a_secret_in_the_text_of_an_error(machine: Machine, service: StartService) -> None:
    """Errors quote values in other forms: that of a command, of a server's answer, and one of the program itself."""
    machine.write("/opt/echoes.py", ECHOES)
    service("web.service", unit_file("/usr/bin/python3 /opt/echoes.py"))
    write_runbook(machine, IN_ERRORS)
    texts = []
    for output in ("json", "plain"):
        program = [f"{VENV}/bin/python", "-m", "tests.machine.bounds.broken", "stop", "check", "1"]
        argv = [*program, "apply", RUNBOOK, "--output", output]
        done = machine.run(argv, check=False, env={"TOKEN": TOKEN, "PYTHONPATH": str(PROJECT)})
        assert done.returncode == 1, done.stdout + done.stderr
        texts += [done.stdout, done.stderr]
    run = parsed(texts[0], 1)
    assert_hidden(machine, run.last["run"], texts, CORE)
    assert "KeyError: '***'" in run.step("raises")["evidence"]["output"]
    assert "http://127.0.0.1:9470/garbled: no '***'" in run.step("garbled")["reason"]
    assert "answered 302, to /?***&xxx" in run.step("moved")["reason"]
    assert len(run.step("moved")["reason"]) < 400
    assert run.last["reason"].startswith("stop: internal error (KeyError: '***'"), run.last
    assert "KeyError: '***'" in run.step("stop")["evidence"]["traceback"][-1]


def test_a_resumed_run_needs_the_secret_and_hides_it(machine: Machine) -> None:
    """The killed program did not hide the secret in the output. The program that resumes the run does."""
    machine.run(["rm", "-f", "/tmp/go"])
    book = """
        secrets: [TOKEN]
        env: {TOKEN: "${{ env.TOKEN }}"}
        steps:
          - run: {id: second, run: 'echo "$TOKEN"; while [ ! -e /tmp/go ]; do sleep 0.05; done'}
    """
    path = write_runbook(machine, book)
    with machine.popen(["runbook", "apply", path], env={"TOKEN": TOKEN}):
        until(lambda: CORE in machine.run(["sh", "-c", f"cat {RUNS}/*/output/*.log"], check=False).stdout, "it", 20)
        machine.run(["kill", "-KILL", pid_of(machine, "apply")])
    assert "TOKEN is not set" in ask(machine, "resume", status=5)
    machine.run(["touch", "/tmp/go"])
    done = machine.run(["runbook", "resume"], env={"TOKEN": TOKEN})
    assert CORE not in done.stdout
    assert machine.run(["grep", "-r", CORE, "/var/lib/runbook"], check=False).stdout == ""
