"""The words of other tools: each is explained by keys and step types that exist."""

from __future__ import annotations

import re

import pytest

from runbook.document import synonyms
from runbook.document.wording import fields_of
from runbook.spec.runbook import Runbook
from runbook.steps import registry

KEYS = {key for cls in registry().values() for key in fields_of(cls)}
PROBES = {"http", "tcp", "websocket", "status", "body", "headers", "url"}


@pytest.mark.parametrize("table", ["_TOP", "_STEPS", "_PHRASES"])
def test_every_name_in_a_hint_exists(table: str) -> None:
    known = {*KEYS, *registry(), *fields_of(Runbook)}
    for word, hint in getattr(synonyms, table).items():
        names = {name for quoted in re.findall(r"`([^`]*)`", hint) for name in re.findall(r"^[a-z][\w-]*", quoted)}
        assert names - {"runbook"} <= known, (word, hint)


def test_every_key_that_a_word_stands_for_exists() -> None:
    assert {key for keys in synonyms._FIELDS.values() for key in keys.split()} <= {*KEYS, *PROBES}


def test_no_step_type_is_explained() -> None:
    assert [kind for kind in registry() if synonyms.explain_step_type(kind)] == []
    assert [key for key in fields_of(Runbook) if synonyms.explain_top_level(key)] == []


@pytest.mark.parametrize("word", ["TimeoutStopSec", "timeout_stop_sec", "timeout-stop-sec", " Timeout_Stop_Sec"])
def test_a_word_is_found_however_it_is_spelled(word: str) -> None:
    assert synonyms.explain_field(word, {"grace"}) == "; it is called `grace` here"


def test_a_collection_in_front_of_a_module_is_left_out() -> None:
    assert synonyms.explain_step_type("ansible.builtin.shell") == "; write `run: {run: COMMAND}`"


def test_a_word_stands_for_a_key_of_this_mapping_only() -> None:
    assert synonyms.explain_field("stop_grace_period", {"timeout"}) == "; it is called `timeout` here"
    assert synonyms.explain_field("stop_grace_period", {"url"}) == ""
