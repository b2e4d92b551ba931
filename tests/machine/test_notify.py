"""`notify` on a real systemd: a real mail server, a server for webhooks, and the file of the machine."""

from __future__ import annotations

import email
import email.policy
import json
import signal
import textwrap
from collections.abc import Iterator
from typing import Any

import pytest

from tests.machine.machine import Machine, until
from tests.machine.runs import interrupted, parsed, runbook, write_runbook

MACHINE_FILE = "/etc/runbook/notify.yaml"
GOT = "/tmp/got"

SERVER = """
import http.server, json, time
class Handler(http.server.BaseHTTPRequestHandler):
    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"])).decode()
        if self.path == "/hang":
            time.sleep(60)
        if self.path == "/slow":
            time.sleep(1.5)
        self.send_response({"/bad": 500, "/away": 302}.get(self.path, 200))
        self.send_header("Location", "file:///etc/passwd")
        self.end_headers()
        with open("/tmp/got", "a") as file:
            print(json.dumps([self.path, dict(self.headers), body]), file=file)
        if self.path == "/bad":
            self.wfile.write(b"x" * 10_000_000)
http.server.ThreadingHTTPServer(("127.0.0.1", 9797), Handler).serve_forever()
"""

FAILS = "unit: web.service\nport: 8080\nsteps: [verify-port-owner]\n"


@pytest.fixture(scope="module")
def machine(suite: str) -> Iterator[Machine]:
    """Boot a machine with a mail server, and a server that records requests."""
    with Machine(suite, services=True) as booted:
        booted.write("/opt/hooks.py", SERVER)
        booted.write("/etc/systemd/system/web.service", "[Service]\nExecStart=/usr/bin/sleep infinity\n")
        booted.run(["systemctl", "daemon-reload"])
        booted.run(["systemctl", "start", "web.service", "postfix.service"])
        booted.run(["systemd-run", "--unit=hooks", "/usr/bin/python3", "/opt/hooks.py"])
        until(lambda: booted.run(["curl", "-sd", "", "127.0.0.1:9797/"], check=False).returncode == 0, "the server")
        yield booted


@pytest.fixture(autouse=True)
def _clean(machine: Machine) -> Iterator[None]:
    machine.run(["rm", "-f", GOT, "/var/mail/root"])
    yield
    machine.run(["rm", "-rf", "/etc/runbook"])


def requests(machine: Machine) -> dict[str, tuple[dict[str, str], str]]:
    """Return headers and body of each request, by its path."""
    lines = machine.run(["cat", GOT], check=False).stdout.splitlines()
    return {path: (headers, body) for path, headers, body in map(json.loads, lines)}


def notices(run: Any) -> list[str]:
    return [event["text"] for event in run.of("notice")]


def test_every_kind_arrives_and_every_failure_is_bounded(machine: Machine) -> None:
    machine.write("/root/token", "Authorization: Bearer s3cret-token\n", 0o600)
    book = f"""{FAILS}
name: ü upgrade
always: [run: {{run: touch /tmp/tidied}}]
notify:
  - mail: root
  - run: test -e /tmp/tidied && printf '%s' ${{{{ run.reason }}}} >/tmp/told; (setsid sleep 98765 &)
  - run: "trap '' TERM; sleep 98765 & sleep 98765"
    timeout: 2s
  - when: ok
    run: touch /tmp/never
  - webhook:
      url: http://127.0.0.1:9797/good
      headers: {{Title: "${{{{ unit }}}} ☃"}}
      headers-file: /root/token
      body: |
        {{"text": "${{{{ run.status }}}}: ${{{{ run.reason }}}}"}}
  - webhook: {{url: "http://127.0.0.1:9797/bad"}}
  - webhook: {{url: "http://127.0.0.1:9797/away"}}
  - {{webhook: {{url: "http://127.0.0.1:9797/hang"}}, timeout: 2s}}
"""
    run = runbook(machine, "apply", book)
    assert (run.exit, run.last["event"], run.last["status"]) == (1, "run-finished", "failed")
    assert {event["to"].partition(" ")[0] for event in run.of("notified")} == {"mail", "`test", "webhook"}
    reasons = sorted(text.partition(": ")[2] for text in notices(run) if text.startswith("cannot notify"))
    assert reasons == [
        "answered 302; a redirection is not followed",
        f"answered 500: {'x' * 160}",
        "did not exit in time and was stopped",
        "no answer within 2s",
    ]
    headers, body = requests(machine)["/good"]
    assert json.loads(body) == {"text": f"failed: {run.last['reason']}"}
    assert headers["Authorization"] == "Bearer s3cret-token"
    assert machine.read("/tmp/told") == run.last["reason"]
    default = json.loads(requests(machine)["/bad"][1])
    assert (default["status"], default["unit"], default["exit"]) == ("failed", "web.service", 1)
    # Nothing is left of the commands, nor of the token in the record.
    assert machine.run(["pgrep", "-f", "sleep 98765"], check=False).returncode == 1
    assert machine.run(["grep", "-r", "s3cret", "/var/lib/runbook"], check=False).returncode == 1
    assert machine.run(["test", "-e", "/tmp/never"], check=False).returncode == 1
    until(lambda: machine.run(["test", "-s", "/var/mail/root"], check=False).returncode == 0, "the mail")
    text = machine.read("/var/mail/root").partition("\n")[2]  # after the line of the mailbox
    mail = email.message_from_string(text, policy=email.policy.default)
    host = machine.read("/etc/hostname").strip()
    assert mail["Subject"] == f"ü upgrade on {host}: failed at verify-port-owner: not-listening"
    assert str(mail["From"]).startswith("runbook <root")
    assert mail.get_content().startswith(f"failed: {run.last['reason']}\n")


def test_an_interrupted_run_ends_within_a_second_and_notifies(machine: Machine) -> None:
    book = """
        unit: web.service
        steps: [run: {run: sleep 31337}]
        notify:
          - webhook: {url: "http://127.0.0.1:9797/slow"}
          - mail: root
    """
    write_runbook(machine, book)
    run, took = interrupted(machine, signal.SIGTERM, "sleep 31337")
    assert (run.exit, run.last["status"]) == (143, "interrupted")
    assert took < 1.0
    assert [event["unit"] for event in run.of("notified")] == [
        f"runbook-{run.last['run']}--notify-1-{number}.service" for number in (1, 2)
    ]
    # Another run may begin while they go on.
    assert runbook(machine, "apply", "unit: web.service\nsteps: [restart]\n").exit == 0
    until(lambda: "/slow" in requests(machine), "the webhook")
    assert json.loads(requests(machine)["/slow"][1])["status"] == "interrupted"
    until(lambda: machine.run(["test", "-s", "/var/mail/root"], check=False).returncode == 0, "the mail")
    left = ["sh", "-c", f"cat /var/lib/runbook/runs/{run.last['run']}/outputs/*.start"]
    until(lambda: machine.run(left, check=False).returncode != 0, "the requests to be removed")


def test_a_resumed_run_reports_its_end(machine: Machine) -> None:
    book = """
        unit: web.service
        steps: [run: {run: "test -e /tmp/go || exec sleep 31338"}]
        notify: [{when: [interrupted, changed], run: "echo ${{ run.status }} >>/tmp/ends"}]
    """
    write_runbook(machine, book)
    run, _ = interrupted(machine, signal.SIGINT, "sleep 31338")
    until(lambda: machine.run(["cat", "/tmp/ends"], check=False).stdout == "interrupted\n", "the first end")
    machine.write("/tmp/go", "")
    argv = ["runbook", "resume", run.last["run"], "--output", "json"]
    done = machine.run(argv, check=False)
    assert (done.returncode, parsed(done.stdout, 0).last["status"]) == (0, "changed"), done.stdout
    assert machine.read("/tmp/ends") == "interrupted\nchanged\n"


def test_a_run_that_was_killed_while_it_notified_reports_its_end_again(machine: Machine) -> None:
    write_runbook(machine, f"{FAILS}notify: [{{run: 'echo $RUNBOOK_STATUS >>/tmp/again; sleep 3.0101'}}]\n")
    killed, _ = interrupted(machine, signal.SIGKILL, "sleep 3.0101")
    assert killed.last["event"] == "step-finished"
    done = machine.run(["runbook", "resume", "--output", "json"], check=False)
    run = parsed(done.stdout, done.returncode)
    assert (run.exit, run.last["status"], len(run.of("notified"))) == (1, "failed", 1)
    assert machine.read("/tmp/again") == "failed\nfailed\n"


def test_the_file_of_the_machine(machine: Machine) -> None:
    text = "notify:\n  - {when: [ok, failed, changed], run: 'echo ${{ unit }} $RUNBOOK_STATUS >>/tmp/all'}\n"
    machine.run(["mkdir", "-p", "/etc/runbook"])
    machine.write(MACHINE_FILE, text)
    book = textwrap.dedent(FAILS)
    for command in ("check", "apply"):
        assert runbook(machine, command, book).exit == 1
    plan = runbook(machine, "apply", book, "--dry-run")
    sentence = "notifies `echo ${{ unit }} $RUNBOOK_STATUS >>/tmp/all` if a run ends ok or failed or changed"
    assert f"{MACHINE_FILE} {sentence}" in notices(plan)
    assert machine.run(["runbook", "restart", "web.service", "--healthy-for", "1s"]).returncode == 0
    assert machine.read("/tmp/all") == "web.service failed\nweb.service changed\n"
    valid = machine.run(["runbook", "validate", MACHINE_FILE, "/root/test.yaml"])
    assert valid.stderr.count("notifies `echo") == 2

    machine.run(["chmod", "o+w", MACHINE_FILE])
    refused = runbook(machine, "apply", book)
    assert (refused.exit, refused.last["reason"]) == (
        5,
        f"cannot use {MACHINE_FILE}: {MACHINE_FILE} is writable by every user",
    )
    machine.run(["chmod", "o-w", MACHINE_FILE])
    machine.write(MACHINE_FILE, "notify:\n  - mial: root\n")
    wrong = runbook(machine, "apply", book)
    assert (wrong.exit, wrong.last["status"]) == (2, "invalid")
    assert wrong.stderr == f"{MACHINE_FILE}:2:5: unknown key `mial`; did you mean `mail`?\n"
    # What is no run goes on.
    assert runbook(machine, "check", book).exit == 1
    assert machine.run(["runbook", "history"]).returncode == 0
    warned = machine.run(["runbook", "validate", "/root/test.yaml"])
    assert "every run on this machine would be refused" in warned.stderr
