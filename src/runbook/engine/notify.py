"""Reports the final status of a run to the entries of `notify`.

Each entry is one command: that of the file, a program that sends a webhook, or sendmail. All are carried out at the
same time, as children of this program. An interrupted run must end within a second, so its commands are handed over to
systemd, as units that go on without this program.

An entry is recorded after it was carried out. If the program is killed in between, `resume` carries it out again: a
message may arrive twice, but none is lost. One that is recorded is not repeated for the same status.
"""

from __future__ import annotations

import contextlib
import json
import os
import secrets
import shlex
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from runbook.actions import webhook_client
from runbook.engine.execution.replay import ResumeState
from runbook.engine.execution.stream import EventStream
from runbook.engine.internal_error import describe_internal_error
from runbook.engine.launch import NOTIFY_MARK
from runbook.errors import HostError, Interrupted, RunbookError
from runbook.events import Notice, Notified, RunFinished, Waiting
from runbook.host.interface import Host, Waiter
from runbook.host.kernel.accounts import find_account
from runbook.host.queries import Answer, Command, Query
from runbook.model import Deadline, RunStatus, Wake, frozen
from runbook.spec.notification import Notification, Webhook, check_url, is_json
from runbook.spec.readers import check_header
from runbook.spec.runbook import Runbook
from runbook.spec.state import RunState
from runbook.template import text as template
from runbook.template.namespace import RUN_FACTS, TemplateNamespace
from runbook.util.secrets import SecretMask
from runbook.util.wording import describe_error, describe_last_line, shorten

MAX_REASON = 16_000  # characters of a sentence that are passed on; the kernel accepts 128 KiB as one variable
MAX_SUBJECT = 200  # characters of the subject of a mail
MAX_SECRET_FILE = 64 * 1024  # bytes of a `url-file` or `headers-file`
MIN_HIDDEN = 8  # characters of a header's value that is hidden in messages: a shorter one is an ordinary word
MARGIN = 1.0  # seconds after its own limit in which a command may still answer
SHOWN_AFTER = 1.0  # seconds after which it is shown what the end of the run waits for
HANDOVER_LIMIT = 0.3  # seconds in which an interrupted run may hand over its commands

# Read when the run begins: an upgrade may replace the files of this program.
_CLIENT = Path(webhook_client.__file__).read_text()

_MAIL = """\
PATH="$PATH:/usr/sbin:/usr/lib"
command -v sendmail >/dev/null || {{ echo "no sendmail is installed"; exit 1; }}
exec sendmail -i {address} <<'{end}'
{text}
{end}
"""
_WEBHOOK = """\
exec {python} -I -S /dev/fd/4 4<<'{end}' <<'{end}'
{client}
{end}
{request}
{end}
"""


@frozen
class EndFacts:
    """What is known of the end of a run: the default body of a webhook, as an object of JSON."""

    run: str  # the ID of the run
    name: str  # the title of the runbook
    file: str  # the path of the runbook
    host: str  # the name of the machine
    unit: str  # the runbook's unit; may be empty
    status: str
    exit: int  # the exit status
    # What follows is as in `run-finished`, and may be empty.
    reason: str
    step: str
    verdict: str
    cause: str
    back: str
    now: str
    hint: str
    log: str


@dataclass
class Notifier:
    """Notifies all entries of a runbook and of the machine of the end of a run."""

    book: Runbook
    host: Host
    waiter: Waiter
    events: EventStream
    state: RunState
    resume_state: ResumeState

    def notify(self, end: RunFinished, namespace: TemplateNamespace) -> None:
        """Carry out the entries that are for the status of the run. Each failure is a notice."""
        try:
            pending = dict(self._prepare(end, namespace))
            if end.status != RunStatus.INTERRUPTED:
                with contextlib.suppress(Interrupted):  # What is still running goes on in units.
                    self._await(pending, end.status)
            self._hand_over(pending, end.status)
        except Exception as error:  # An error of this program: the last event must be written all the same.
            self.events.emit(Notice(text=f"cannot notify: {describe_internal_error(error)}"))

    def _prepare(self, end: RunFinished, namespace: TemplateNamespace) -> Iterator[tuple[str, _Delivery]]:
        facts = self._collect_facts(end)
        namespace = replace(
            namespace,
            unit=namespace.unit or "",
            run_facts={name: getattr(facts, name) for name in RUN_FACTS},
        )
        for source, entries in (("runbook", self.book.notify), ("machine", self.book.machine_notify)):
            for number, entry in enumerate(entries, 1):
                name = f"{source} {number}"
                if end.status not in entry.when or (name, end.status) in self.resume_state.notified:
                    continue
                try:
                    filled = template.fill(entry, namespace)
                    yield name, self._make_delivery(filled, facts)
                except (RunbookError, ValueError, OSError) as error:
                    why = error.message if isinstance(error, RunbookError) else describe_error(error)
                    self._report_failure(entry.label, why)

    def _collect_facts(self, end: RunFinished) -> EndFacts:
        """Return what is known of the end of the run, with the secrets masked."""
        facts = EndFacts(
            run=self.state.id,
            name=self.book.title,
            file=self.book.path,
            host=self.book.namespace.host,
            unit=self.book.unit or "",
            status=str(end.status),
            exit=end.exit,
            reason=end.reason,
            step=end.step,
            verdict=end.verdict,
            cause=end.cause,
            back=end.back,
            now=end.now,
            hint=end.hint,
            log=end.log,
        )
        # Masked first: half a secret, where a text is cut, would not be found.
        masked: dict[str, Any] = self.events.mask(asdict(facts))
        masked |= {key: value[:MAX_REASON] for key, value in masked.items() if isinstance(value, str)}
        return EndFacts(**masked)

    def _make_delivery(self, entry: Notification, facts: EndFacts) -> _Delivery:
        """Return the command of an entry. Raises OSError and ValueError."""
        env: dict[str, str] = {}
        hidden: tuple[str, ...] = ()
        run = entry.run
        if entry.webhook is not None:
            request, hidden = self._make_request(entry.webhook, facts, entry.timeout)
            run = _write_webhook(request)
        elif entry.mail is not None:
            run = _write_mail(entry.mail, write_message(entry.mail, facts))
        else:
            env = {
                "RUNBOOK_STATUS": facts.status,
                "RUNBOOK_RUN": facts.run,
                "RUNBOOK_UNIT": facts.unit,
                "RUNBOOK_REASON": facts.reason,
            }
        command = self.state.make_command(run or "", timeout=entry.timeout, env=env)
        query = Query(command, self.state.next_query_id(), entry.timeout + MARGIN * bool(entry.webhook))
        return _Delivery(entry.label, query, SecretMask(hidden).mask, own_words=entry.run is None)

    def _make_request(
        self, webhook: Webhook, facts: EndFacts, timeout: float
    ) -> tuple[dict[str, Any], tuple[str, ...]]:
        """Return a request, and what no message about it may contain."""
        url = check_url(self._read(webhook.url_file).strip()) if webhook.url_file else webhook.url
        lines = self._read(webhook.headers_file).splitlines() if webhook.headers_file else ()
        given = dict(_read_header(line, webhook.headers_file) for line in lines if line.strip())
        body = self.events.mask(webhook.body) if webhook.body else json.dumps(asdict(facts))
        kind = "application/json" if is_json(body) else "text/plain; charset=utf-8"
        headers = {**webhook.headers, **given}
        names = {name.lower() for name in headers}
        headers |= {} if "content-type" in names else {"Content-Type": kind}
        values = [value for value in (*given.values(), *webhook.headers.values()) if len(value) >= MIN_HIDDEN]
        path = url.partition("://")[2].partition("/")[2]
        hidden = (url, *([path] if len(path) >= MIN_HIDDEN else []), *values)
        return {"url": url, "headers": headers, "body": body, "timeout": timeout}, hidden

    def _read(self, name: str) -> str:
        path = self.state.folder / name
        try:
            with os.fdopen(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), encoding="utf-8") as file:
                return file.read(MAX_SECRET_FILE)
        except OSError as error:
            raise HostError(f"cannot read {path}: {describe_error(error)}") from None

    # -- carrying out

    def _await(self, pending: dict[str, _Delivery], status: str) -> None:
        """Carry out all entries; remove each that has ended. Raises Interrupted."""
        clock = self.host.clock
        began = clock.monotonic()
        longest = max((one.query.timeout for one in pending.values()), default=0.0) + MARGIN
        deadline = Deadline.after(clock, longest)
        shown = False
        while pending:
            for name in [*pending]:
                answer = self.host.query(pending[name].query)
                if answer is not None or deadline.expired:
                    self._report(name, pending.pop(name), answer, status)
            passed = clock.monotonic() - began
            if pending and passed >= SHOWN_AFTER and not shown:
                labels = ", ".join(one.label for one in pending.values())
                self.events.emit(
                    Waiting(name="notify", reason=f"notifies {labels}", seconds=passed, left=longest - passed)
                )
                shown = True
            if pending:
                self.waiter.wait(Wake(pending=True, within=SHOWN_AFTER), deadline)

    def _report(self, name: str, delivery: _Delivery, answer: Answer[str] | None, status: str) -> None:
        if answer is not None and answer.ok:
            self.events.emit(Notified(to=delivery.label, status=status, entry=name))
        else:
            self._report_failure(delivery.label, delivery.describe_failure(answer))

    def _report_failure(self, label: str, why: str) -> None:
        self.events.emit(Notice(text=f"cannot notify {label}: {why}"))

    def _hand_over(self, pending: Mapping[str, _Delivery], status: str) -> None:
        """Start what is not done yet in units that outlive this program."""
        until = time.monotonic() + HANDOVER_LIMIT
        part = self.resume_state.parts + 1
        for number, (name, delivery) in enumerate(pending.items(), 1):
            # Not a `.log`, whose input is deleted at the end of the run, perhaps before systemd has started it.
            output = self.state.output_path(f"notify-{part}-{number}")
            command = replace(delivery.command, output=output, keep_output=False)
            try:
                if time.monotonic() > until:
                    raise HostError("the run was interrupted, and systemd did not start the others in time")
                ref = self.host.start_command(f"{self.state.id}{NOTIFY_MARK}{part}-{number}", command)
            except RunbookError as error:
                self._report_failure(delivery.label, error.message)
            else:
                self.events.emit(Notified(to=delivery.label, status=status, entry=name, unit=ref.unit))


@dataclass
class _Delivery:
    """One entry, ready to be carried out."""

    label: str
    query: Query[str]
    hide: Callable[[Any], Any]  # hides in a message what the request has in its address and its headers
    own_words: bool  # True if the command is of this program: then its last line is the cause

    @property
    def command(self) -> Command:
        """The command."""
        assert isinstance(self.query.kind, Command)
        return self.query.kind

    def describe_failure(self, answer: Answer[str] | None) -> str:
        """Return why it failed; None stands for no answer."""
        if answer is None:
            return f"not done within {self.query.timeout:g}s"
        last = describe_last_line(answer.value or "")
        return str(self.hide(last.removeprefix(": ") if self.own_words and last else f"{answer.detail}{last}"))


def _read_header(line: str, path: str) -> tuple[str, str]:
    """Return a line of a file with headers. Raises ValueError without the line, which may be a secret."""
    name, colon, value = line.partition(":")
    try:
        if not colon:
            raise ValueError
        return check_header(name.strip()), value.strip()
    except ValueError:
        raise ValueError(f"{path} has a line that is not `Name: value`") from None


def _write_webhook(request: Mapping[str, Any]) -> str:
    """Return a script that sends a request. Neither its command line nor a file contains the request."""
    python, end = shlex.quote(sys.executable), f"END-{secrets.token_hex(8)}"
    return _WEBHOOK.format(python=python, end=end, client=_CLIENT, request=json.dumps(request))


def _write_mail(address: str, text: str) -> str:
    """Return a script that sends a mail."""
    return _MAIL.format(address=shlex.quote(address), end=f"END-{secrets.token_hex(8)}", text=text)


def write_message(address: str, facts: EndFacts) -> str:
    """Return a mail about the end of a run. A line break in a value begins no other header."""
    from email.message import EmailMessage  # noqa: PLC0415 - Most runs send no mail.
    from email.utils import formatdate  # noqa: PLC0415

    where = f" at {facts.step}" if facts.exit and facts.step else ""
    verdict = f": {facts.verdict}" if where and facts.verdict else ""
    subject = f"{facts.name} on {facts.host}: {facts.status}{where}{verdict}"
    message = EmailMessage()
    message["From"] = f"runbook <{find_account('').pw_name}>"
    message["To"] = address
    message["Subject"] = shorten(" ".join(subject.split()), MAX_SUBJECT)
    message["Date"] = formatdate(localtime=True)
    message["Auto-Submitted"] = "auto-generated"
    items = {"cause": facts.cause, "back": facts.back, "now": facts.now, "next": facts.hint, "log": facts.log}
    items |= {"show": f"runbook show {facts.run}", "unit": facts.unit, "host": facts.host}
    lines = [f"{facts.status}: {facts.reason}", "", *(f"{name:<6}{item}" for name, item in items.items() if item)]
    message.set_content("\n".join(lines), cte="quoted-printable")
    return message.as_string()
