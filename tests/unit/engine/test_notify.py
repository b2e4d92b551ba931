"""Who is notified of the end of a run: when, of what, once, and what a failure means."""

from __future__ import annotations

import email
import email.policy
import http.server
import json
import os
import re
import subprocess
import sys
import threading
from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from runbook.engine import notify
from runbook.engine.execution.stream import EventStream
from runbook.engine.notify import Notifier
from runbook.engine.runner import Runner
from runbook.errors import HostError, Interrupted
from runbook.events import Event, RunFinished
from runbook.host.facts import JobRef
from runbook.host.queries import Answer, Command
from runbook.model import RunStatus, Wake
from runbook.spec.notification import Notification
from runbook.spec.runbook import Runbook
from runbook.spec.state import RunState
from runbook.steps import registry
from runbook.template.namespace import TemplateNamespace
from tests.docs import DOCS
from tests.unit.fake_machine import FakeMachine, process, unit
from tests.unit.runs import run, step

GOOD = Answer[Any](True, "")
HEALTHY = {"units": {"gw.service": unit()}, "processes": {100: process(100)}}


class Commands(FakeMachine):
    """A machine on which every command is recorded and answered alike."""

    def __init__(self, answer: Answer[Any] | None = GOOD, **facts: Any) -> None:
        super().__init__(**{**HEALTHY, **facts})
        self.answer = answer
        self.commands: list[Command] = []

    def query(self, query: Any) -> Any:
        if not isinstance(query.kind, Command):
            return super().query(query)
        if query.kind not in self.commands:
            self.commands.append(query.kind)
        return self.answer


def entry(**fields: Any) -> Notification:
    return Notification.model_validate(fields, context=None)


def told(machine: FakeMachine, *entries: Notification, **book: Any) -> tuple[RunFinished, list[Event]]:
    """Run a step that fails, and return the end and the events."""
    return run(machine, step("verify-port-owner"), notify=entries, **book)


def named(events: Iterable[Event], name: str) -> list[dict[str, Any]]:
    return [dict(event.data) for event in events if event.event == name]


def test_the_final_status_is_reported_right_before_the_last_event() -> None:
    machine = Commands()
    end, events = told(machine, entry(run="tell"), always=(step("run", id="tidy", run="tidy"),))
    assert end.status == "failed"
    assert [event.event for event in events[-3:]] == ["step-finished", "notified", "run-finished"]
    assert named(events, "notified") == [{"to": "`tell`", "status": "failed", "entry": "runbook 1"}]
    env = machine.commands[0].env
    assert env == {
        "RUNBOOK_STATUS": "failed",
        "RUNBOOK_RUN": "run-1",
        "RUNBOOK_UNIT": "gw.service",
        "RUNBOOK_REASON": "verify-port-owner: no process listens on port 80",
    }


@pytest.mark.parametrize(
    ("when", "count"), [(None, 1), ("failed", 1), (["ok", "changed", "rolled-back", "interrupted"], 0)]
)
def test_only_the_wanted_statuses_are_reported(when: Any, count: int) -> None:
    machine = Commands()
    told(machine, entry(mail="root", **({"when": when} if when else {})))
    assert len(machine.commands) == count


def test_a_good_end_is_reported_only_on_request() -> None:
    machine = Commands()
    end, _ = run(machine, step("start"), notify=(entry(run="a"), entry(run="b", when=["ok"])))
    assert end.status == "ok"
    assert [str(command) for command in machine.commands] == ["b"]


def test_the_entries_of_the_machine_come_last() -> None:
    machine = Commands()
    _, events = told(machine, entry(run="a"), machine_notify=(entry(run="b ${{ unit }}"),), unit="gw.service")
    assert [one["entry"] for one in named(events, "notified")] == ["runbook 1", "machine 1"]


def test_values_are_quoted_in_a_command() -> None:
    from runbook.document import parse

    text = (
        'unit: gw\nsteps: [start]\nnotify: [{run: "x ${{ run.reason }} ${{ run.status }} ${{ steps.start.status }}"}]'
    )
    machine = Commands()
    run(machine, step("verify-port-owner"), notify=parse(text).notify)
    assert str(machine.commands[0]) == "x 'verify-port-owner: no process listens on port 80' failed ''"


def test_a_failure_is_a_notice_and_changes_nothing() -> None:
    machine = Commands(Answer(False, "exited with status 3", "no route\n"))
    end, events = told(machine, entry(run="tell"), entry(mail="root"))
    assert (end.status, end.exit) == ("failed", 1)
    assert [one["text"] for one in named(events, "notice")] == [
        "cannot notify `tell`: exited with status 3: no route",
        "cannot notify mail root: no route",
    ]
    assert events[-1].event == "run-finished"


def test_an_entry_without_an_answer_is_left_in_time() -> None:
    machine = Commands(None)
    began = machine.clock.monotonic()
    _, events = told(machine, entry(run="hangs", timeout=3.0), entry(mail="root", timeout=5.0))
    assert machine.clock.monotonic() - began <= 7.0
    assert [one["text"] for one in named(events, "notice")] == [
        "cannot notify `hangs`: not done within 3s",
        "cannot notify mail root: not done within 5s",
    ]
    (waiting,) = named(events, "waiting")
    assert (waiting["name"], waiting["reason"]) == ("notify", "notifies `hangs`, mail root")


def test_an_error_of_this_program_does_not_hide_the_last_event(monkeypatch: pytest.MonkeyPatch) -> None:
    def breaks(*_: object) -> None:
        raise ZeroDivisionError

    monkeypatch.setattr(notify, "write_message", breaks)
    _, events = told(Commands(), entry(mail="root"))
    assert "ZeroDivisionError" in named(events, "notice")[0]["text"]
    assert events[-1].event == "run-finished"


# -- interrupted, resumed


class Interrupting(Commands):
    """A machine whose second wait is interrupted: the first notification is under way then."""

    refuses = False

    def wait(self, wake: Wake, deadline: Any) -> None:
        raise Interrupted(15)

    def start_command(self, name: str, command: Command) -> JobRef:
        if self.refuses:
            raise HostError("cannot start it: no answer")
        assert (command.keep_output, command.output) == (False, "/out/notify-1-1")
        self.written.append(f"unit {name}: {command}")
        return JobRef("/job/1", f"runbook-{name}.service", "start")


def test_an_interrupted_run_hands_its_commands_to_systemd() -> None:
    machine = Interrupting()
    end, events = run(machine, step("wait-ready"), notify=(entry(run="tell"),))
    assert (end.status, end.exit) == ("interrupted", 143)
    assert machine.commands == []
    assert machine.written == ["unit run-1--notify-1-1: tell"]
    assert named(events, "notified")[0]["unit"] == "runbook-run-1--notify-1-1.service"
    assert events[-1].event == "run-finished"


def test_an_interruption_while_notifying_hands_over_the_rest_and_keeps_the_status() -> None:
    machine = Interrupting(None)
    end, events = told(machine, entry(run="tell"))
    assert end.status == "failed"
    assert machine.written == ["unit run-1--notify-1-1: tell"]
    assert named(events, "notified")[0]["status"] == "failed"


def test_what_systemd_refuses_is_a_notice() -> None:
    machine = Interrupting()
    machine.refuses = True
    _, events = run(machine, step("wait-ready"), notify=(entry(run="tell"),))
    assert named(events, "notice")[-1]["text"] == "cannot notify `tell`: cannot start it: no answer"


def test_a_resumed_run_does_not_report_twice_what_is_recorded() -> None:
    _, events = told(Commands(), entry(run="a"), entry(run="b"))
    recorded = [event for event in events if event.event not in ("run-finished",) and event.data.get("to") != "`b`"]
    machine = Commands()
    _, events = run(machine, step("verify-port-owner"), notify=(entry(run="a"), entry(run="b")), earlier=recorded)
    assert [str(command) for command in machine.commands] == ["b"]


def test_each_end_of_a_run_is_reported() -> None:
    machine = Interrupting()
    _, earlier = run(machine, step("wait-ready"), notify=(entry(run="a"),))
    again = Commands()
    told(again, entry(run="a"))
    _, events = run(again, step("verify-port-owner"), notify=(entry(run="a"),), earlier=earlier)
    assert named(events, "notified")[-1]["status"] == "failed"


# -- what is sent

TOKEN = "S3cret-token"
END = RunFinished(
    status=RunStatus.FAILED,
    exit=1,
    reason=f'wait-ready: "quoted" \\ {TOKEN}\nBcc: all@example.org',
    step="wait-ready",
    verdict="crash-loop",
    now="gw.service is failed",
    hint="journalctl -u gw.service -n 30 shows why it ended",
)


def prepare(one: Notification, end: RunFinished = END, folder: Path = Path("/srv")) -> tuple[Command | None, list[str]]:
    """Return the command of an entry, and the notices."""
    book = Runbook.model_validate(
        {"unit": "gw.service", "name": "upgrade", "steps": (step("restart"),), "types": registry(), "notify": (one,)}
    ).model_copy(update={"namespace": TemplateNamespace(env={"TOKEN": TOKEN}, host="gw1", unit="gw.service")})
    machine = Commands()
    seen: list[Event] = []
    events = EventStream("run-1", machine.clock, (seen.append,), (TOKEN,))
    runner = Runner(book, machine, machine, events, RunState("run-1", folder))
    Notifier(book, machine, machine, events, runner.state, runner.resume_state).notify(end, runner._make_namespace())
    return next(iter(machine.commands), None), [one["text"] for one in named(seen, "notice")]


def request_of(command: Command | None) -> dict[str, Any]:
    """Return the request that a command sends: it is read by the very shell that runs the command."""
    assert command is not None
    assert command.script is not None
    script = command.script.replace(sys.executable, "/bin/cat", 1).replace("-I -S /dev/fd/4", "-", 1)
    done = subprocess.run(["/bin/sh", "-e", "-c", script], capture_output=True, text=True, timeout=20, check=True)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def webhook(**fields: Any) -> Notification:
    return entry(webhook={"url": "https://hooks.example.org/T0/secret-path", **fields})


def test_the_default_body_has_the_facts_and_no_secret() -> None:
    request = request_of(prepare(webhook())[0])
    body = json.loads(request["body"])
    assert request["headers"] == {"Content-Type": "application/json"}
    assert body["reason"] == 'wait-ready: "quoted" \\ ***\nBcc: all@example.org'
    assert {key: body[key] for key in ("run", "name", "unit", "status", "exit", "step", "verdict")} == {
        "run": "run-1",
        "name": "upgrade",
        "unit": "gw.service",
        "status": "failed",
        "exit": 1,
        "step": "wait-ready",
        "verdict": "crash-loop",
    }


def templated(body: str, **headers: str) -> Notification:
    from runbook.document import parse

    made = {"url": "https://x", "body": body, "headers": headers or {"A": "1"}}
    text = f"unit: gw\nsteps: [restart]\nnotify: [{{webhook: {json.dumps(made)}}}]"
    (one,) = parse(text, environ={"TOKEN": TOKEN}).notify
    return one


def test_values_in_a_json_body_are_escaped() -> None:
    request = request_of(prepare(templated('{"text": "${{ run.status }}: ${{ run.reason }}", "n": 3}'))[0])
    assert json.loads(request["body"]) == {
        "text": 'failed: wait-ready: "quoted" \\ ***\nBcc: all@example.org',
        "n": 3,
    }


def test_values_in_another_body_are_inserted_as_they_are() -> None:
    request = request_of(prepare(templated("${{ run.verdict }} ${{ env.TOKEN }}"))[0])
    assert request["body"] == "crash-loop ***"
    assert request["headers"]["Content-Type"] == "text/plain; charset=utf-8"


def test_a_value_begins_no_other_header_and_a_token_is_sent() -> None:
    one = templated("x", Title="${{ run.reason }}", Authorization="Bearer ${{ env.TOKEN }}")
    request = request_of(prepare(one)[0])
    assert request["headers"]["Title"] == 'wait-ready: "quoted" \\ *** Bcc: all@example.org'
    assert request["headers"]["Authorization"] == f"Bearer {TOKEN}"


def test_a_long_reason_arrives() -> None:
    end = RunFinished(status=RunStatus.FAILED, exit=1, reason="ä" * 65536)
    for one in (webhook(), templated('{"text": "${{ run.reason }}"}')):
        assert request_of(prepare(one, end)[0])["body"].count("\\u00e4") == notify.MAX_REASON


def test_a_secret_is_masked_before_a_text_is_cut() -> None:
    end = replace(END, reason="x" * (notify.MAX_REASON - 6) + TOKEN)
    assert TOKEN[:5] not in request_of(prepare(webhook(), end)[0])["body"]


def test_a_url_and_headers_come_from_files(tmp_path: Path) -> None:
    (tmp_path / "url").write_text("https://hooks.example.org/T0/B0\n")
    (tmp_path / "headers").write_text("Authorization: Bearer abc\n\nPriority: high\n")
    one = entry(webhook={"url-file": "url", "headers-file": str(tmp_path / "headers"), "headers": {"Priority": "low"}})
    request = request_of(prepare(one, folder=tmp_path)[0])
    assert request["url"] == "https://hooks.example.org/T0/B0"
    assert request["headers"] == {
        "Authorization": "Bearer abc",
        "Priority": "high",
        "Content-Type": "application/json",
    }


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({}, "cannot read {}/url: no such file or directory"),
        ({"url": "file:///etc/passwd"}, "is not an http or https URL; write one such as https://example.org/hook"),
        ({"url": "https://x", "headers": "abcdefgh"}, "{}/headers has a line that is not `Name: value`"),
    ],
)
def test_what_is_wrong_with_a_file_is_a_notice_without_its_content(
    tmp_path: Path, files: dict[str, str], why: str
) -> None:
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    headers = {"headers-file": str(tmp_path / "headers")} if "headers" in files else {}
    command, notices = prepare(entry(webhook={"url-file": str(tmp_path / "url"), **headers}))
    assert command is None
    assert notices == [f"cannot notify webhook {tmp_path}/url: {why.format(tmp_path)}"]


def test_a_message_about_a_webhook_hides_its_address_and_its_headers() -> None:
    one = webhook(headers={"Authorization": "Bearer abcdefg"})
    machine = Commands(Answer(False, "exited with status 1", "answered 403: /T0/secret-path Bearer abcdefg\n"))
    _, events = told(machine, one)
    assert named(events, "notice")[0]["text"] == "cannot notify webhook hooks.example.org: answered 403: /*** ***"
    assert "secret-path" not in json.dumps([dict(event.data) for event in events])


def test_the_command_line_and_the_environment_contain_no_part_of_a_request() -> None:
    command, _ = prepare(webhook(headers={"Authorization": "Bearer abcdefg"}))
    assert command is not None
    assert (command.argv[:-1], command.env) == (("/bin/sh", "-e", "-c"), {})  # The last one is written to a file.


def test_a_mail_has_the_verdict_in_its_subject_and_no_other_header(tmp_path: Path) -> None:
    sendmail = tmp_path / "sendmail"
    sendmail.write_text('#!/bin/sh\nprintf "%s\\n" "$*"\ncat\n')
    sendmail.chmod(0o755)
    end = RunFinished(**{**END.__dict__, "reason": f"{END.reason}\n.\nEND\n{'y' * 2000}"})
    command, _ = prepare(entry(mail="ops@example.org"), end)
    assert command is not None
    assert command.script is not None
    env = {**os.environ, "PATH": f"{tmp_path}:{os.environ['PATH']}"}
    argv = ["/bin/sh", "-e", "-c", command.script]
    done = subprocess.run(argv, env=env, capture_output=True, text=True, timeout=20, check=True)
    arguments, _, text = done.stdout.partition("\n")
    assert arguments == "-i ops@example.org"
    mail = email.message_from_string(text, policy=email.policy.default)
    assert {name.lower() for name in mail} == {
        *("from", "to", "subject", "date", "auto-submitted"),
        *("content-type", "content-transfer-encoding", "mime-version"),
    }
    assert mail["Subject"] == "upgrade on gw1: failed at wait-ready: crash-loop"
    body = mail.get_content()
    assert body.startswith('failed: wait-ready: "quoted" \\ ***\nBcc: all@example.org\n.\nEND\nyyy')
    assert "\nnext  journalctl -u gw.service -n 30 shows why it ended\n" in body
    assert "\nshow  runbook show run-1\n" in body
    assert TOKEN not in text


def test_a_missing_sendmail_is_named() -> None:
    command, _ = prepare(entry(mail="root"))
    assert command is not None
    assert command.script is not None
    script = command.script.replace(":/usr/sbin:/usr/lib", "")
    done = subprocess.run(
        ["/bin/sh", "-e", "-c", script],
        env={"PATH": "/nowhere"},
        capture_output=True,
        text=True,
        check=False,
        timeout=9,
    )
    assert (done.returncode, done.stdout) == (1, "no sendmail is installed\n")


# -- the examples of the page, against a server that records what it got


def examples() -> list[str]:
    page = (DOCS / "how-to" / "notify.md").read_text()
    return re.findall(r"^```yaml part\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)


def test_the_examples_of_webhooks_send_what_their_servers_expect(tmp_path: Path) -> None:
    from runbook.document import parse

    got: dict[str, tuple[dict[str, str], str]] = {}

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = self.rfile.read(int(self.headers["Content-Length"])).decode()
            got[self.path] = ({**self.headers}, body)
            self.send_response(200)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        base = f"http://127.0.0.1:{server.server_port}"
        (tmp_path / "slack-url").write_text(f"{base}/services/T0/B0/x\n")
        (tmp_path / "ntfy-headers").write_text("Authorization: Bearer abc\n")
        for example in examples():
            text = re.sub(r"https://[^/]+/", f"{base}/", example).replace("/etc/runbook", str(tmp_path))
            for one in parse(f"unit: gw\nsteps: [restart]\n{text}", environ={}, host="gw1").notify:
                if one.webhook is None:
                    continue
                command, notices = prepare(one, replace(END, status=one.when[0]))
                assert notices == []
                assert command is not None
                argv = ["/bin/sh", "-e", "-c", str(command.script)]
                assert subprocess.run(argv, capture_output=True, timeout=20, check=False).returncode == 0
        server.shutdown()
    reason = 'wait-ready: "quoted" \\ ***\nBcc: all@example.org'
    # The form of Slack: a JSON object with `text`.
    headers, body = got["/services/T0/B0/x"]
    assert headers["Content-Type"] == "application/json"
    assert json.loads(body) == {"text": f"*remediated* on gw1: {reason}"}
    # That of ntfy: the message is the body; title, priority and tags are headers.
    headers, body = got["/our-upgrades"]
    assert body == reason
    assert {name: headers[name] for name in ("Title", "Priority", "Tags", "Authorization")} == {
        "Title": "gw.service: remediated",
        "Priority": "high",
        "Tags": "warning",
        "Authorization": "Bearer abc",
    }
    # That of Healthchecks.io: the check, or the check with /fail; any body is kept as its log.
    check = "/0d3b4c6e-9f1a-4c57-8a53-6f0f4dd2b1c7"
    assert json.loads(got[check][1])["status"] == "ok"
    assert got[f"{check}/fail"][1] == reason
