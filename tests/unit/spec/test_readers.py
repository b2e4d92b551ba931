"""What the values of a runbook are read as, and the reason that a value is refused for."""

from __future__ import annotations

import re
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from runbook.model import Port
from runbook.spec import fields
from runbook.template import text as template
from runbook.template.namespace import TemplateNamespace
from runbook.template.text import Template

SCOPE = TemplateNamespace(
    vars={"n": "3", "v": "1.2+b", "words": ("a b", "c")},
    unit="gw.service",
    port=(Port(80),),
    earlier_steps={"up": frozenset({"status", "output", "to"})},
)


def read(field: Any, value: object, scope: TemplateNamespace | None = SCOPE) -> Any:
    return TypeAdapter(field).validate_python(value, context=scope)


def refusal(field: Any, value: object, scope: TemplateNamespace | None = SCOPE) -> str:
    with pytest.raises(ValidationError) as caught:
        read(field, value, scope)
    return str(caught.value.errors()[0]["ctx"]["error"])


@pytest.mark.parametrize(
    ("field", "value", "expected"),
    [
        (fields.TextField, "no", "no"),
        (fields.TextField, "v${{ vars.v }}", "v1.2+b"),
        (fields.Integer, "0", 0),
        (fields.Integer, "007", 7),
        (fields.Integer, "${{ vars.n }}", 3),
        (fields.Integer, 4, 4),
        (fields.IntegerList, "200", (200,)),
        (fields.IntegerList, ["200", "204"], (200, 204)),
        (fields.Number, "1.5", 1.5),
        (fields.Number, 2.0, 2.0),
        (fields.Boolean, "yes", True),
        (fields.Boolean, "Off", False),
        (fields.Boolean, True, True),
        (fields.TimeSpan, "1min", 60.0),
        (fields.TimeSpan, "0", 0.0),
        (fields.TimeSpan, 2.5, 2.5),
        (fields.TimeSpan, "${{ vars.n }}s", 3.0),
        (fields.PositiveSpan, "1ms", 0.001),
        (fields.UnitName, "${{ unit }}", "gw.service"),
        (fields.PortField, "udp:53", Port(53, "udp")),
        (fields.PortList, "80", (Port(80),)),
        (fields.PortList, ["80", "${{ vars.n }}"], (Port(80), Port(3))),
        (fields.PortList, (Port(80),), (Port(80),)),
        (fields.TextList, "one", ("one",)),
        (fields.TextList, ["one", "${{ vars.n }}"], ("one", "3")),
        (fields.Version, "1.10", "1.10"),
        (fields.Version, "${{ vars.v }}", "1.2+b"),
        (fields.Environment, {"A": "${{ vars.n }}"}, {"A": "3"}),
        (fields.Headers, {"X-Y": "z"}, {"X-Y": "z"}),
        (fields.StepId, "wait-ready-2", "wait-ready-2"),
        (fields.StepId, "remediate.check.wait-ready", "remediate.check.wait-ready"),
    ],
)
def test_it_reads(field: Any, value: object, expected: object) -> None:
    found = read(field, value)
    assert found == expected
    assert type(found) is type(expected)


@pytest.mark.parametrize(
    ("field", "value", "why"),
    [
        (fields.TextField, None, "is empty"),
        (fields.TextField, ["a"], "must be a single value, not a list"),
        (fields.Integer, "-1", "cannot read `-1` as a whole number"),
        (fields.Integer, "1_000", "as a whole number"),
        (fields.Integer, "0o17", "as a whole number"),
        (fields.Integer, "9" * 5000, "as a whole number"),
        (fields.Number, "nan", "as a number"),
        (fields.Number, "1e9", "as a number"),
        (fields.Boolean, "maybe", "write true or false"),
        (fields.Boolean, "1", "write true or false"),
        (fields.TimeSpan, "-1s", "is negative"),
        (fields.PositiveSpan, "0s", "must be longer than 0"),
        (fields.TimeSpan, "${{ steps.up.output }}", "known only during the run"),
        (fields.Integer, "${{ run.id }}", "`run.id` is known only during the run"),
        (fields.UnitName, "a/b", "is a path"),
        (fields.PortList, ["80", "80"], "is in the list twice"),
        (fields.Version, "latest", "is a tag, not a version"),
        (fields.Version, "1.2 3", "is not one version"),
        (fields.Version, "", "is empty"),
        (fields.Version, "${{ to }}", "cannot use `to` or `from`"),
        (fields.CommandField, "  ", "is empty"),
        (fields.CommandField, [], "is an empty list"),
        (fields.CommandField, ["", "x"], "begins with an empty word"),
        (fields.CommandField, {"a": "b"}, "must be a single value, not a mapping"),
        (fields.Pattern, "(", "is not a valid regular expression: error at character 1"),
        (fields.ExpressionField, "steps.nope.status", "no step has the id"),
        (fields.ExpressionField, "${{ unit }}", "is an expression already"),
        (fields.Environment, {"A-B": "x"}, "is not a valid name of an environment variable"),
        (fields.Headers, {"A": "x\ny"}, "contains a line break"),
        (fields.StepId, "a b", "is not a valid id"),
        (fields.StepId, "2nd", "is not a valid id"),
        (fields.FormatNumber, "2", "cannot read format `2`"),
    ],
)
def test_a_value_that_it_cannot_read_is_refused_with_a_reason(field: Any, value: object, why: str) -> None:
    assert why in refusal(field, value)


def test_a_script_waits_for_its_values_and_quotes_them() -> None:
    script = read(fields.CommandField, "echo ${{ vars.words }} ${{ vars.v | raw }}")
    assert isinstance(script, Template)
    assert script == "echo ${{ vars.words }} ${{ vars.v | raw }}"
    assert script.fill(SCOPE) == "echo 'a b' c 1.2+b"


def test_arguments_wait_for_their_values_and_are_not_quoted() -> None:
    words = read(fields.CommandField, ["echo", "${{ vars.words | first }}"])
    assert words == ("echo", "${{ vars.words | first }}")
    assert [word.fill(SCOPE) if isinstance(word, Template) else word for word in words] == ["echo", "a b"]


def test_the_names_in_a_script_are_checked_at_once() -> None:
    assert "`vars.m` is not defined" in refusal(fields.CommandField, "echo ${{ vars.m }}")
    assert "`vars.m` is not defined" in refusal(fields.CommandField, ["echo", "${{ vars.m }}"])


def test_a_value_in_a_pattern_matches_itself_only() -> None:
    assert read(fields.Pattern, "^${{ vars.v }}$") == r"^1\.2\+b$"
    assert read(fields.Pattern, "^${{ vars.v | raw }}$") == "^1.2+b$"


def test_a_text_that_needs_the_run_stays_as_it_is() -> None:
    text = read(fields.TextField, "from ${{ vars.n }} to ${{ steps.up.to }}")
    assert isinstance(text, Template)
    assert text == "from ${{ vars.n }} to ${{ steps.up.to }}"
    assert text.fill(SCOPE.for_run("r", {"up": {"to": "2"}})) == "from 3 to 2"


def test_a_version_of_an_earlier_step_is_looked_at_when_it_is_known() -> None:
    version = read(fields.Version, "${{ steps.up.output }}")
    assert isinstance(version, Template)
    assert version.fill(SCOPE.for_run("r", {"up": {"output": "1.4"}})) == "1.4"
    with pytest.raises(ValueError, match="is a tag"):
        version.fill(SCOPE.for_run("r", {"up": {"output": "latest"}}))


def test_in_python_a_template_waits_as_well() -> None:
    assert isinstance(read(fields.TextField, "${{ steps.up.output }}", None), Template)
    assert read(fields.TextField, "plain", None) == "plain"


def test_an_expression_stays_a_text() -> None:
    text = read(fields.ExpressionField, "steps.up.status == 'ok' and vars.n == 3")
    assert type(text) is str
    assert template.is_true(text, SCOPE.for_run("r", {"up": {"status": "ok"}}))


def test_a_pattern_that_may_mean_something_else_later_is_accepted() -> None:
    re.purge()
    assert TypeAdapter(fields.Pattern).validate_python("[[ab]") == "[[ab]"
