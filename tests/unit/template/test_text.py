"""Texts with templates: parsed, filled in two passes; a value is never read as a template again."""

from __future__ import annotations

from contextlib import suppress
from dataclasses import replace
from typing import ClassVar

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import Field

from runbook.model import Port
from runbook.spec.fields import CommandField, Environment, Pattern, TextField, Version
from runbook.spec.state import StepState
from runbook.spec.step import FileModel, Step, StepList
from runbook.template.namespace import TemplateError, TemplateNamespace
from runbook.template.text import Template, fill, fill_own, parse_text

SCOPE = TemplateNamespace(vars={"v": "2.0", "evil": "${{ vars.v }}; $(rm -rf /)"}, unit="gw.service", port=(Port(80),))
RUN = SCOPE.for_run("run-1", {"ask": {"output": "it's ${{ vars.v }}"}})


class Inner(FileModel):
    """A mapping within a step."""

    url: TextField


class Bring(Step[StepState]):
    """A step like an update."""

    kind: ClassVar[str] = "bring"
    template_vars: ClassVar[tuple[str, ...]] = ("from", "to")

    run: CommandField
    to: Version = "1.0"
    body: Pattern = "x"
    env: Environment = Field(default_factory=dict)
    probes: tuple[Inner, ...] = ()
    unit: TextField | None = None


class Hold(Step[StepState]):
    """A step that holds others."""

    kind: ClassVar[str] = "hold"

    inner: StepList


def test_a_text_without_templates_is_unchanged() -> None:
    for text in ("", "plain", "$ { { }}", "{{ x }}", "${ x }", "}}"):
        assert parse_text(text) is text


def test_only_the_text_between_the_marks_is_evaluated() -> None:
    template = parse_text("a ${{ vars.v }} {{ b }} ${{vars.v}}c $HOME ${X}")
    assert isinstance(template, Template)
    assert template.fill(SCOPE) == "a 2.0 {{ b }} 2.0c $HOME ${X}"


def test_a_mark_can_be_inserted_as_a_value() -> None:
    template = parse_text("a ${{ '${{' }} b ${{ '}}' }}")
    assert isinstance(template, Template)
    assert template.fill(SCOPE) == "a ${{ b }}"


def test_a_step_without_templates_is_returned_unchanged() -> None:
    step = Bring(run="true")
    assert fill(step, RUN) is step


def test_a_step_is_filled_in_all_its_parts() -> None:
    step = Bring.model_validate(
        {
            "run": "npm i x@${{ to }} ${{ steps.ask.output }}",
            "to": "${{ vars.v }}",
            "body": "^${{ steps.ask.output }}$",
            "env": {"A": "${{ run.id }}", "B": "b"},
            "probes": [{"url": "http://127.0.0.1:${{ port }}/${{ run.id }}"}],
        }
    )
    filled = fill(step, RUN)
    assert type(filled) is Bring
    assert filled.run == "npm i x@2.0 'it'\"'\"'s ${{ vars.v }}'"
    assert not isinstance(filled.run, Template)
    assert filled.to == "2.0"
    assert filled.body == r"^it's\ \$\{\{\ vars\.v\ \}\}$"
    assert filled.env == {"A": "run-1", "B": "b"}
    assert filled.probes[0].url == "http://127.0.0.1:80/run-1"
    assert step.run == "npm i x@${{ to }} ${{ steps.ask.output }}", "the step itself stays as it was"
    assert fill(filled, RUN) is filled, "what was put in is not read as a template again"


def test_a_value_never_becomes_a_template_or_code_of_the_shell() -> None:
    filled = fill(Bring(run="echo ${{ vars.evil }}"), RUN)
    assert filled.run == "echo '${{ vars.evil }}'".replace("${{ vars.evil }}", SCOPE.vars["evil"])  # type: ignore[arg-type]
    assert fill(filled, RUN) is filled


def test_the_steps_own_unit_and_port_come_first() -> None:
    step = Bring(run="echo ${{ unit }}", unit="other.service")
    assert fill(step, RUN).run == "echo other.service"


def test_an_undone_update_fills_its_command_with_the_earlier_version() -> None:
    step = Bring(run="npm i x@${{ to }}", to="2.0")
    assert fill(step.model_copy(update={"to": "1.9"}), RUN).run == "npm i x@1.9"


def test_from_is_filled_by_the_step_itself() -> None:
    step = fill(Bring(run="migrate ${{ from }} ${{ to }} ${{ vars.v ~ from }}", to="2.0"), RUN)
    assert step.run == "migrate ${{ from }} 2.0 ${{ vars.v ~ from }}"
    assert fill_own(step, **{"from": "1 9"}).run == "migrate '1 9' 2.0 '2.01 9'"
    assert fill_own(step, **{"from": "1.9"}).run == "migrate 1.9 2.0 2.01.9"
    plain = Bring(run="plain")
    assert fill_own(plain, **{"from": "1"}) is plain


def test_a_field_without_templates_is_not_counted_as_set() -> None:
    filled = fill(Bring.model_validate({"run": "echo ${{ run.id }}", "probes": [{"url": "${{ run.id }}"}]}), RUN)
    assert filled.model_fields_set == {"run", "probes"}
    assert filled.probes[0].model_fields_set == {"url"}


def test_nested_steps_are_not_filled() -> None:
    outer = Hold(inner=(Bring(run="echo ${{ run.id }}"),))
    assert fill(outer, RUN) is outer


def test_a_plan_keeps_templates_that_are_not_known() -> None:
    step = Bring(run="echo ${{ vars.v }} ${{ steps.later.output }}")
    filled = fill(step, SCOPE.for_run(None, {}, partial=True))
    assert filled.run == "echo 2.0 ${{ steps.later.output }}"
    assert isinstance(filled.run, Template)
    assert fill(filled, SCOPE.for_run("r", {"later": {"output": "x"}})).run == "echo 2.0 x"


def test_a_value_that_a_field_refuses_is_reported_with_its_key() -> None:
    step = Bring(run="true", body="(${{ vars.p | raw }}")
    with pytest.raises(TemplateError, match="is not a valid regular expression"):
        fill(step, replace(RUN, vars={"p": "("}))
    with pytest.raises(TemplateError, match="`run`: is empty"):
        fill(Bring(run="${{ vars.e | raw }}"), replace(RUN, vars={"e": ""}))
    with pytest.raises(TemplateError, match="`run`: is empty"):
        fill_own(fill(Bring(run="${{ from | raw }}"), RUN), **{"from": ""})
    with pytest.raises(TemplateError, match="`to`: `latest` is a tag"):
        fill(Bring.model_validate({"run": "x", "to": "${{ vars.p }}"}), replace(RUN, vars={"p": "latest"}))
    with pytest.raises(TemplateError, match="contains a NUL"):
        fill(Bring(run="x ${{ vars.e }}"), replace(RUN, vars={"e": "\0"}))
    with pytest.raises(TemplateError, match="cannot be encoded as UTF-8"):
        fill(Bring(run="x ${{ '\\ud800' }}"), RUN)
    with pytest.raises(TemplateError, match="is a list; choose one"):
        fill(Bring(run=("x", "${{ vars.e }}")), replace(RUN, vars={"e": ("a", "b")}))


def test_a_deep_copy_keeps_its_templates() -> None:
    step = Bring(run="echo ${{ run.id }}").model_copy(deep=True)
    assert fill(step, RUN).run == "echo run-1"


@given(st.text(alphabet="${} '\"\\ab.|vars", max_size=80))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    with suppress(TemplateError):
        assert isinstance(parse_text(text), Template) == ("${{" in text)


def test_unclosed_quotes_are_refused_quickly() -> None:
    with pytest.raises(TemplateError, match="is not closed"):
        parse_text("${{ " + "'\"" * 50_000)
