"""Expressions: their values, and the refusal of everything that is not allowed."""

from __future__ import annotations

from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from runbook.model import Port
from runbook.template.filters import MAX_TEXT
from runbook.template.namespace import TemplateError, TemplateNamespace
from runbook.template.text import is_true, parse_expression

SCOPE = TemplateNamespace(
    vars={"a": "x", "empty": "", "no": "no", "yes": "yes", "three": "3", "my-var": "dashed", "l": ("p", "q r")},
    env={"HOME": "/root", "EMPTY": ""},
    host="box",
    unit="gw.service",
    port=(Port(80),),
    earlier_steps={
        "update": frozenset({"status", "changed", "to"}),
        "remediate.check.wait-ready": frozenset({"status"}),
    },
    later_steps=frozenset({"stop"}),
)
RUN = SCOPE.for_run(
    "run-1",
    {"update": {"status": "ok", "changed": "false", "to": "1.2"}, "remediate.check.wait-ready": {"status": "failed"}},
)


@pytest.mark.parametrize(
    ("source", "value"),
    [
        ("vars.a", "x"),
        ("vars['a']", "x"),
        ("vars.my-var", "dashed"),
        ("vars['my-var']", "dashed"),
        ("vars.a ~ '-' ~ unit ~ port", "x-gw.service80"),
        ("env.HOME", "/root"),
        ("env.NOPE | default('d')", "d"),
        ("env.HOME | default('d')", "/root"),
        ("env.EMPTY | default('d')", ""),
        ("env.EMPTY | default('d', true)", "d"),
        ("host | upper", "BOX"),
        ("' x ' | trim", "x"),
        ("vars.a | replace('x', 'yy')", "yy"),
        ("vars.l | join(',')", "p,q r"),
        ("vars.l | first", "p"),
        ("vars.l[1]", "q r"),
        ("vars.l | last", "q r"),
        ("'a.b' | split('.') | last", "b"),
        ("'yes' if vars.no else 'nope'", "nope"),
        ("run.id", "run-1"),
        ("steps.update.to", "1.2"),
        ("steps.remediate.check.wait-ready.status", "failed"),
        ("steps['remediate.check.wait-ready'].status", "failed"),
        ("'}}'", "}}"),
        ("'vars.a'", "vars.a"),
        ("vars.a|upper", "X"),
    ],
)
def test_an_expression_has_a_value(source: str, value: str) -> None:
    assert parse_expression(source).value(RUN) == value


@pytest.mark.parametrize(
    ("source", "true"),
    [
        ("vars.yes", True),
        ("vars.no", False),
        ("vars.empty", False),
        ("not vars.no", True),
        ("vars.no or vars.yes", True),
        ("vars.no and vars.yes", False),
        ("steps.update.changed", False),
        ("not steps.update.changed", True),
        ("steps.update.changed == false", True),
        ("steps.update.changed == 'false'", True),
        ("vars.three == 3", True),
        ("vars.three != 3", False),
        ("vars.three == '3'", True),
        ("vars.yes == true", True),
        ("'q r' in vars.l", True),
        ("'q' in vars.l", False),
        ("vars.a in ['x', 'y']", True),
        ("vars.a not in ('x', 'y')", False),
        ("env.NOPE is defined", False),
        ("env.HOME is defined and env.HOME == '/root'", True),
        ("env.NOPE is not defined", True),
        ("'gw' in unit", True),
        ("vars.l", True),
        ("true", True),
        ("false", False),
        ("none", False),
        ("steps.stop.status == ''", True),
    ],
)
def test_an_expression_is_true_or_false_by_its_meaning(source: str, true: bool) -> None:
    assert is_true(source, RUN) is true


@pytest.mark.parametrize(
    "source",
    [
        "''.__class__.__mro__",
        "vars.a.__class__",
        "vars['__class__'].x",
        "(vars.a).__class__",
        "vars.a['__class__']",
        "vars.a | attr('__class__')",
        "cycler.__init__.__globals__",
        "self",
        "loop",
        "range(3)",
        "dict(a=1)",
        "vars.items()",
        "vars.get('a')",
        "env.copy",
        "'x'.upper()",
        "(vars.a | upper)()",
        "'%s' % vars.a",
        "'x' * 10",
        "2 ** 99",
        "1 + 1",
        "-vars.three",
        "vars.l[0:1]",
        "vars.l[vars.three]",
        "{'a': 1}",
        "vars.a < 'y'",
        "vars.a | format('y')",
        "vars.a | map('upper')",
        "vars.a | default",
        "vars.a | default(x='y')",
        "vars.a | replace(*vars.l)",
        "vars.a | raw | raw",
        "vars.a is sameas vars.a",
        "vars.a is eq('x')",
        "_0",
        "__import__",
        "vars.a vars.a",
        "vars.a }} {{ vars.a",
        "{% if 1 %}",
        "{# c #}",
        "vars.a |",
        "vars",
        "steps",
        "steps.status",
        "steps.update",
        "run",
        "unit.x",
        "to",
        "from",
        "vars.nope",
        "vars.a # comment",
        "vars.a; vars.a",
        "lambda: 1",
        "vars.a = 1",
        "1e999999",
        "1.5",
        "",
        "x" * 2000,
        "(" * 300 + "vars.a" + ")" * 300,
        "not " * 100 + "vars.a",
        "vars.a and " * 80 + "vars.a",
    ],
)
def test_everything_else_is_refused(source: str) -> None:
    with pytest.raises(TemplateError):
        parse_expression(source).value(SCOPE)


def test_no_chain_of_filters_fills_the_memory() -> None:
    source = "'a'" + " | replace('a', 'aaaaaaaaaa')" * 30
    with pytest.raises(TemplateError, match=f"more than {MAX_TEXT}"):
        parse_expression(source).value(SCOPE)


def test_a_value_that_is_not_known_yet_is_none() -> None:
    assert parse_expression("steps.update.to ~ vars.a").value(SCOPE) is None
    assert parse_expression("run.id").value(SCOPE) is None
    with pytest.raises(TemplateError, match=r"cannot evaluate `steps\.update\.changed` yet"):
        is_true("steps.update.changed", SCOPE)


def test_names_are_checked_before_they_are_known() -> None:
    for source, why in {
        "steps.updat.to": "did you mean `update`",
        "steps.update.output": "has no `output`; it has `status`, `changed` and `to`",
        "steps.stop.status": "does not come before",
    }.items():
        with pytest.raises(TemplateError, match=why):
            parse_expression(source).value(SCOPE)


def test_in_a_plan_results_of_steps_are_not_known() -> None:
    plan = SCOPE.for_run(None, {"update": {"to": "2"}}, partial=True)
    assert parse_expression("steps.update.to").value(plan) == "2"
    assert parse_expression("steps.remediate.check.wait-ready.status").value(plan) is None


def test_a_missing_value_is_reported_although_another_part_tests_for_it() -> None:
    with pytest.raises(TemplateError, match="environment variable `NOPE` is not set"):
        parse_expression("env.NOPE is defined or env.NOPE == 'x'").value(SCOPE)


@given(st.text(alphabet="varsenv.a_|()[]{}'\"\\ ~=!<>+-*%0123456789,:", max_size=60))
def test_any_text_is_evaluated_or_refused(source: str) -> None:
    with suppress(TemplateError):
        parse_expression(source).value(RUN)


def test_an_error_in_a_constant_is_an_error_of_the_file() -> None:
    with pytest.raises(TemplateError, match=r"cannot evaluate `\[\]\[0\] ~ 'a'`"):
        parse_expression("[][0] ~ 'a'").value(TemplateNamespace())
