"""`notify`: what is reported about the end of a run, to whom, and how."""

from __future__ import annotations

import json
import re
import urllib.parse
from collections.abc import Mapping
from functools import partial
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator, ValidationInfo, model_validator

from runbook.spec.fields import CommandField, FolderField, PositiveSpan, shown_as
from runbook.spec.readers import FieldError, as_list, check_header, check_one_line, read_template_text
from runbook.spec.step import FileModel
from runbook.template.expression import Expression
from runbook.template.text import Template, parse_text, write_plain
from runbook.util.wording import brief_command, join_words

Status = Literal[
    "ok", "changed", "remediated", "failed", "still-starting", "rolled-back", "interrupted", "not-begun"
]  # a run that ends as `locked` or `invalid` has not begun, and has no record

STATUSES: tuple[Status, ...] = get_args(Status)
GOOD_STATUSES = ("ok", "changed")  # those that are not reported by default
DEFAULT_STATUSES = tuple(status for status in STATUSES if status not in GOOD_STATUSES)

MAX_NOTIFICATIONS = 50  # entries of a list: all of them are carried out at the same time
MAX_TIMEOUT = 60.0  # seconds that one notification may take, as the run ends after it

_KINDS = ("run", "webhook", "mail")
_ADDRESS = re.compile(r"(?!-)[^\s,;:|<>()\[\]\\\"\x00-\x1f\x7f]{1,254}")


def check_url(text: str) -> str:
    """Return an address of HTTP. The message has no address, which may be a secret."""
    if not re.fullmatch(r"https?://[^/\s?#]+\S*", text) or not text.isprintable():
        raise FieldError("is not an http or https URL; write one such as https://example.org/hook")
    try:
        parts = urllib.parse.urlsplit(text)
        if parts.port == 0 or not parts.hostname:
            raise ValueError
    except ValueError:
        raise FieldError("is not a URL: its host or its port is wrong") from None
    return text


def _check_address(text: str) -> str:
    if not _ADDRESS.fullmatch(text):
        raise FieldError("is not one mail address; write one such as ops@example.org, or several entries")
    return text


def _write_one_line(value: Any, piece: Expression) -> str:
    """Return a value for a header, where a line break would begin another header."""
    return " ".join(write_plain(value, piece).split())


def _write_json(value: Any, piece: Expression) -> str:
    """Return a value for the inside of a text of JSON, unless it is `| raw`."""
    text = write_plain(value, piece)
    return text if piece.raw else json.dumps(text)[1:-1]


def _check_json(text: str) -> str:
    try:
        json.loads(text)
    except (ValueError, RecursionError) as error:
        where = f" at line {error.lineno}: {error.msg.lower()}" if isinstance(error, json.JSONDecodeError) else ""
        how = "write each value inside the quotes of a text"
        raise FieldError(f"begins like JSON and is none{where}; {how}") from None
    return text


def is_json(body: str) -> bool:
    """True if a body begins as JSON does."""
    return body.lstrip()[:1] in ("{", "[") and not body.lstrip().startswith("{{")


def _read_body(value: object, info: ValidationInfo) -> str:
    """Return a body. Values in one that is JSON are escaped, and the text around them must be JSON."""
    if isinstance(value, (Mapping, list, tuple)):
        raise FieldError("must be a text; write the JSON below `body: |`")
    if not isinstance(value, str) or not is_json(value):
        return read_template_text(value, info)
    parsed = parse_text(value)
    parts = parsed.parts if isinstance(parsed, Template) else (parsed,)
    _check_json("".join(part if isinstance(part, str) else "0" if part.raw else "x" for part in parts))
    return read_template_text(value, info, put=_write_json, finish=_check_json)


_STATUS = {"type": "string", "enum": [*STATUSES]}
StatusList = Annotated[
    tuple[Status, ...],
    BeforeValidator(as_list),
    shown_as("", "failed", ["failed", "rolled-back"], anyOf=[_STATUS, {"type": "array", "items": _STATUS}]),
]
"""Statuses of a run. A single one is read as a list of one."""
Url = Annotated[
    str,
    PlainValidator(partial(read_template_text, finish=check_url)),
    shown_as("URL", "https://example.org/hook", "${{ env.HOOK_URL }}", type="string", minLength=1),
]
_HeaderValue = Annotated[str, PlainValidator(partial(read_template_text, put=_write_one_line, finish=check_one_line))]
WebhookHeaders = Annotated[
    dict[Annotated[str, AfterValidator(check_header)], _HeaderValue],
    shown_as(
        "mapping of names to texts",
        {"Title": "Upgrade of ${{ unit }}"},
        type="object",
        additionalProperties={"anyOf": [{"type": kind} for kind in ("string", "number", "boolean")]},
    ),
]
Body = Annotated[
    str, PlainValidator(_read_body), shown_as("text", '{"text": "${{ run.reason }}"}', type="string", minLength=1)
]
MailAddress = Annotated[
    str,
    PlainValidator(partial(read_template_text, finish=_check_address)),
    shown_as("mail address", "ops@example.org", type="string", minLength=1),
]
NotificationTimeout = Annotated[PositiveSpan, Field(le=MAX_TIMEOUT)]


class Webhook(FileModel):
    """An HTTP POST to a server, which must answer with a status from 200 to 299."""

    url: Url = Field("", description="An http:// or https:// URL.")
    url_file: FolderField = Field(
        "", description="In the place of `url`: a file that contains the URL.", examples=["/etc/runbook/slack-url"]
    )
    headers: WebhookHeaders = Field(default_factory=dict, description="Headers of the request.")
    headers_file: FolderField = Field(
        "",
        description="A file with more headers, one `Name: value` on each line.",
        examples=["/etc/runbook/ntfy-headers"],
    )
    body: Body = Field("", description="What is sent; by default a JSON object with the result of the run.")

    @model_validator(mode="after")
    def _one_url(self) -> Webhook:
        if bool(self.url) == bool(self.url_file):
            raise ValueError("a webhook must have either `url` or `url-file`")
        return self

    @property
    def host(self) -> str:
        """The server, as messages call it. The rest of a URL may be a secret."""
        if self.url_file or isinstance(self.url, Template):
            return self.url_file or self.url
        return urllib.parse.urlsplit(self.url).netloc.rpartition("@")[2]


class Notification(FileModel):
    """One entry of `notify`: exactly one of `run`, `webhook` and `mail`."""

    when: StatusList = Field(
        DEFAULT_STATUSES, description="The final statuses that are reported; by default all but `ok` and `changed`."
    )
    run: CommandField | None = Field(
        None, description="A command to run.", examples=["logger --tag upgrade ${{ run.reason }}"]
    )
    webhook: Webhook | None = Field(
        None, description="An HTTP POST to a server.", examples=[{"url": "https://example.org/hook"}]
    )
    mail: MailAddress | None = Field(None, description="An address to which `sendmail` sends a mail.")
    timeout: NotificationTimeout = Field(10.0, description="How long it may take, at most 1min.")

    @model_validator(mode="after")
    def _one_kind(self) -> Notification:
        if len([kind for kind in (self.run, self.webhook, self.mail) if kind is not None]) != 1:
            raise ValueError(f"an entry of `notify` must be exactly one of {join_words(_KINDS)}")
        return self

    @property
    def label(self) -> str:
        """Who is notified, as messages call it."""
        if self.webhook is not None:
            return f"webhook {self.webhook.host}"
        return f"mail {self.mail}" if self.mail is not None else brief_command(self.run or "")

    def describe(self) -> str:
        """Return who is notified, and of what."""
        if set(self.when) == set(DEFAULT_STATUSES):
            return f"notifies {self.label} unless a run ends ok or changed"
        return f"notifies {self.label} if a run ends {' or '.join(self.when)}"
