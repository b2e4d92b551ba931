"""Quotes for a runbook that is written: what is found on a machine must stay one text in YAML and in a comment."""

from __future__ import annotations

import json
import re

import yaml

from runbook.model import Port
from runbook.template.text import OPEN
from runbook.util.wording import shorten

MAX_COMMENT = 200  # characters of a found text in a comment
_ASCII = re.compile(r"[\x20-\x7e]+")


def quote(text: str) -> str:
    """Return a text as a YAML scalar in one line: as it is if YAML reads it so, else in double quotes."""
    if _ASCII.fullmatch(text):
        try:
            if yaml.safe_load(f"key: {text}") == {"key": text}:
                return text
        except yaml.YAMLError:
            pass
    return json.dumps(text)


def quote_port(port: Port) -> str:
    """Return a port as a YAML scalar: a number if it is no more than that, else in quotes."""
    text = str(port)
    return text if text.isdecimal() else json.dumps(text)


def quote_in_list(text: str) -> str:
    """Return a text as an entry of a list in brackets, or as a value in braces."""
    return json.dumps(text) if set(text) & set(",[]{}") else quote(text)


def is_writable(text: str) -> bool:
    """True if a found text may stand in a runbook: printable, and not the beginning of a template."""
    return text.isprintable() and OPEN not in text and "{{" not in text


def clean(text: str) -> str:
    """Return a found text for a comment: in one line, so that nothing in it begins another."""
    return shorten(text, MAX_COMMENT)
