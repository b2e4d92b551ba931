"""What is found on a machine stays one text in YAML and in a comment."""

from __future__ import annotations

import pytest
import yaml

from runbook.document.quoting import MAX_COMMENT, clean, is_writable, quote, quote_in_list, quote_port
from runbook.model import Port

TEXTS = (
    "nginx.service",
    "postgresql@15-main.service",
    "no",
    "1.10",
    "080",
    "2026-11-30",
    "0x1f",
    "~",
    "",
    " a ",
    "a: b",
    "a #b",
    "- a",
    "*a",
    "&a",
    "!a",
    "%a",
    "@a",
    "`a",
    '"a',
    "'a'",
    "[::1]:80",
    "{a: b}",
    "a, b]",
    "a\nb: c",
    "a\u2028b",
    "a\x1bb",
    "\N{SNOWMAN}",
    "dpkg-query -W -f '${db:Status-Status} ${Version}' nginx",
    r"^installed (\S+)",
)


@pytest.mark.parametrize("text", TEXTS)
def test_a_text_is_read_as_it_is(text: str) -> None:
    assert yaml.safe_load(f"key: {quote(text)}\nother: 1") == {"key": text, "other": 1}
    assert yaml.safe_load(f"key: {{a: {quote_in_list(text)}, b: [{quote_in_list(text)}, c]}}") == {
        "key": {"a": text, "b": [text, "c"]}
    }
    assert "\n" not in quote(text)


def test_what_needs_no_quotes_has_none() -> None:
    assert quote("postgresql@15-main.service") == "postgresql@15-main.service"
    assert quote("127.0.0.1:80") == "127.0.0.1:80"
    assert quote_in_list("http://127.0.0.1/health") == "http://127.0.0.1/health"


def test_a_port() -> None:
    assert quote_port(Port(80)) == "80"
    assert quote_port(Port(53, "udp")) == '"udp:53"'
    assert quote_port(Port(80, address="::1")) == '"[::1]:80"'


def test_a_comment_stays_in_its_line() -> None:
    assert "\n" not in clean("a\nport: 1")
    assert len(clean("a" * 1000)) == MAX_COMMENT


def test_a_text_that_would_be_a_template() -> None:
    assert is_writable("/opt/a b")
    assert not any(map(is_writable, ("/opt/${{ x }}", "/opt/{{ x }}", "/opt/a\nb")))
