"""pydantic's errors as one sentence each, at the position that the author must correct."""

from __future__ import annotations

from typing import Literal

import pytest
from pydantic import Field, ValidationError

from runbook.document.nodes import Node, compose
from runbook.document.syntax import Position
from runbook.document.wording import describe_problems, describe_unknown_key, fields_of, find_models
from runbook.spec.fields import Integer, TextList
from runbook.spec.step import FileModel
from runbook.steps import registry


class Inner(FileModel):
    """A nested mapping."""

    url: str


class Outer(FileModel):
    """Every kind of field."""

    mode: Literal["leave", "fail"] = "leave"
    max_count: Integer = Field(1, ge=1)
    names: TextList = ()
    inner: Inner | None = None
    many: tuple[Inner, ...] = ()
    either: Inner | tuple[Inner, ...] = ()


ITEM = Position(9, 9)


def problems(text: str) -> list[tuple[int, int, str]]:
    node = compose(text, [])
    assert node is not None
    with pytest.raises(ValidationError) as caught:
        Outer.model_validate(node.to_plain(), by_alias=True, by_name=False)
    found = describe_problems(caught.value, Outer, node, ITEM, "outer")
    return [(position.line, position.column, sentence) for position, sentence in found]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("mode: leav", (1, 7, "`mode` must be leave or fail, not `leav`; did you mean `leave`?")),
        ("mode: [x]", (1, 7, "`mode` must be leave or fail, not a list")),
        ("mode: ${{ x }}", (1, 7, "`mode` cannot be a template; write leave or fail")),
        ("max-count: '0'", (1, 12, "`max-count` must be at least 1")),
        ("max_count: '1'", (1, 1, "unknown key `max_count`; did you mean `max-count`?")),
        ("inner: x", (1, 8, "`inner` must be a mapping (`key: value`), not a single value")),
        ("inner: {ulr: x, url: y}", (1, 9, "unknown key `ulr`; did you mean `url`?")),
        ("inner: {}", (1, 8, "inner needs `url`")),
        ("many: {url: x}", (1, 7, "`many` must be a list (`- …`), not a mapping")),
        ("many: [x]", (1, 8, "an entry of `many` must be a mapping (`key: value`), not a single value")),
        ("either: x", (1, 9, "`either` must be a mapping (`key: value`), not a single value")),
        ("many: [{url: [x]}]", (1, 14, "`url` must be a single value, not a list")),
    ],
)
def test_each_error_is_a_sentence_at_its_position(text: str, expected: tuple[int, int, str]) -> None:
    assert problems(text) == [expected]


def test_in_an_empty_mapping_the_position_is_that_of_the_step() -> None:
    with pytest.raises(ValidationError) as caught:
        Inner.model_validate({})
    assert list(describe_problems(caught.value, Inner, Node(ITEM, {}), ITEM, "http")) == [(ITEM, "http needs `url`")]


def test_an_unknown_key_that_resembles_none_is_answered_with_all_keys() -> None:
    assert describe_unknown_key("xyz", Inner, "http") == "unknown key `xyz`; the keys of http are `url`"


def test_keys_are_those_of_the_file() -> None:
    assert list(fields_of(Outer)) == ["mode", "max-count", "names", "inner", "many", "either"]


def test_models_are_found_in_unions_and_lists_and_steps_are_not() -> None:
    fields = Outer.model_fields
    assert [list(find_models(fields[name].annotation)) for name in ("mode", "inner", "many")] == [[], [Inner], [Inner]]
    assert list(find_models(registry()["remediate"].model_fields["fix"].annotation)) == []
