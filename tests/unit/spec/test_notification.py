"""Entries of `notify`: what is refused, and what a message calls them."""

from __future__ import annotations

from typing import Any

import pytest
from pydantic import ValidationError

from runbook.spec.notification import DEFAULT_STATUSES, Notification, is_json


def notification(**fields: Any) -> Notification:
    return Notification.model_validate(fields)


def test_every_status_but_the_good_ones_is_reported_by_default() -> None:
    assert notification(mail="root").when == DEFAULT_STATUSES
    assert {"ok", "changed"}.isdisjoint(DEFAULT_STATUSES)
    assert {"remediated", "failed", "still-starting", "rolled-back", "interrupted"} < set(DEFAULT_STATUSES)


def test_one_status_needs_no_list() -> None:
    assert notification(mail="root", when="failed").when == ("failed",)


@pytest.mark.parametrize(
    ("fields", "label"),
    [
        ({"mail": "ops@example.org"}, "mail ops@example.org"),
        ({"run": ["logger", "done"]}, "`logger done`"),
        ({"webhook": {"url": "https://hooks.slack.com/services/T0/B0/secret"}}, "webhook hooks.slack.com"),
        ({"webhook": {"url": "https://user:word@ntfy.example.org:8443/x"}}, "webhook ntfy.example.org:8443"),
        ({"webhook": {"url-file": "/etc/runbook/slack-url"}}, "webhook /etc/runbook/slack-url"),
    ],
)
def test_a_label_contains_no_secret_part_of_a_url(fields: dict[str, Any], label: str) -> None:
    assert notification(**fields).label == label


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({}, "exactly one of"),
        ({"mail": "root", "run": "x"}, "exactly one of"),
        ({"webhook": {}}, "either `url` or `url-file`"),
        ({"webhook": {"url": "https://x", "url-file": "/x"}}, "either `url` or `url-file`"),
        ({"webhook": {"url": "file:///etc/passwd"}}, "not an http or https URL"),
        ({"webhook": {"url": "https://x:y/"}}, "its host or its port is wrong"),
        ({"webhook": {"url": "https://x/a b"}}, "not an http or https URL"),
        ({"webhook": {"url": "https://x", "headers": {"A": "1\r\nB: 2"}}}, "line break"),
        ({"webhook": {"url": "https://x", "body": {"a": "1"}}}, "must be a text"),
        ({"webhook": {"url": "https://x", "body": '{"a": }'}}, "begins like JSON and is none at line 1"),
        ({"webhook": {"url": "https://x", "body": '{"a": ${{ run.reason }}}'}}, "inside the quotes"),
        ({"mail": "-oQ/tmp"}, "not one mail address"),
        ({"mail": "a@b\nBcc: c@d"}, "not one mail address"),
        ({"mail": "|/bin/sh"}, "not one mail address"),
        ({"mail": "root", "when": "locked"}, "Input should be"),
        ({"mail": "root", "timeout": "2min"}, "less than or equal to 60"),
    ],
)
def test_what_is_refused(fields: dict[str, Any], words: str) -> None:
    with pytest.raises(ValidationError, match=words):
        notification(**fields)


def test_what_begins_as_json_does_is_json() -> None:
    assert is_json(' {"a": 1}')
    assert is_json("[1]")
    assert not is_json("${{ run.reason }}")
    assert not is_json("done")


def test_a_raw_value_may_be_a_number() -> None:
    body = '{"exit": ${{ vars.exit | raw }}, "text": "${{ vars.exit | raw }}"}'
    assert notification(webhook={"url": "https://x", "body": body}).webhook
