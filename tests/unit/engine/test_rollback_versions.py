"""Checks that name the new version, rewritten for the previous one."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.engine.rollback_versions import map_previous_versions, rewrite_step
from runbook.spec.step import Step
from runbook.template.namespace import TemplateNamespace
from runbook.template.text import Template, fill
from tests.unit.runs import step

SCOPE = TemplateNamespace(
    vars={"new": "1.1.0", "count": "2"}, results={"app": {"to": "1.1.0"}, "seven": {"to": "2"}}, run_id="1.1.0"
)
SHUT = "1.0 $(touch PWN)"


def told(check: Step[Any], **versions: str) -> Step[Any]:
    """Return a check with its templates filled, as it is carried out."""
    changed, _ = rewrite_step(check, versions or {"1.1.0": "1.0.0"}, type(check).model_fields)
    return fill(changed, SCOPE)


def test_checks_look_for_the_previous_version() -> None:
    probes = [
        {"http": {"url": "http://127.0.0.1/", "body": r"app 1\.1\.0"}},
        {"journal": {"pattern": "ready: ${{ run.id }}"}},
    ]
    ready: Any = told(step("wait-ready", probes=probes, name="1.1.0 is ready"))
    assert ready.name == "1.0.0 is ready"
    assert (ready.probes[0].http.body, ready.probes[1].journal.pattern) == (r"app 1\.0\.0", r"ready: 1\.0\.0")
    prints: Any = told(step("run", run="app --version", **{"expect-output": "1.1.0", "read-only": True}))
    assert prints.expect_output == r"1\.0\.0"


@pytest.mark.parametrize("expect", ["1.1.0", "${{ steps.app.to }}"])
def test_the_version_that_is_wanted_is_the_earlier_one(expect: str) -> None:
    check: Any = told(step("verify-version", run="ask", expect=expect))
    assert check.expect == "1.0.0"


def test_what_a_template_puts_into_a_script_is_changed_before_it_is_quoted() -> None:
    check = step("run", run="check --expect ${{ vars.new }} --at '${{ steps.app.to }}'", **{"read-only": True})
    shown: Any = told(check, **{"1.1.0": SHUT})
    assert shown.run == f"check --expect '{SHUT}' --at '{SHUT}'"


@pytest.mark.parametrize("run", ["check ${{ vars.new | raw }}", ["sh", "-c", "check ${{ vars.new }}"]])
def test_where_nothing_quotes_it_only_a_plain_word_takes_its_place(run: str | list[str]) -> None:
    check = step("run", run=run, **{"read-only": True})
    for old, there in ((SHUT, "1.1.0"), ("1.0~rc1", "1.0~rc1")):
        shown: Any = told(check, **{"1.1.0": old})
        assert (shown.run if isinstance(run, str) else shown.run[-1]) == f"check {there}"


def test_digits_that_stand_for_something_else_are_left_alone() -> None:
    probes = [{"http": {"url": "http://127.0.0.1/api/v2.0/", "headers": {"Depth": "2"}}}]
    ready: Any = told(step("wait-ready", probes=probes), **{"2.0": "1.9", "2": "1"})
    assert (ready.probes[0].http.url, ready.probes[0].http.headers) == ("http://127.0.0.1/api/v2.0/", {"Depth": "2"})
    run = ["check", "2", "${{ vars.count }}", "${{ steps.seven.to }}"]
    check: Any = told(step("run", run=run, env={"COUNT": "2"}, **{"read-only": True}), **{"2": "1"})
    assert (check.run, check.env) == (("check", "2", "2", "1"), {"COUNT": "2"})


def test_a_new_version_that_stays_is_named() -> None:
    check = step("run", run="check --expect 1.1.0", cwd="/srv", **{"read-only": True})
    same, kept = rewrite_step(check, {"1.1.0": SHUT}, type(check).model_fields)
    assert (same, kept) == (check, {"run": "1.1.0"})


def test_of_two_versions_before_neither_is_meant() -> None:
    updates: list[dict[str, Any]] = [
        {"from": "1", "to": "2"},
        {"from": "0", "to": "2"},
        {"from": "5", "to": "6"},
        {"from": None, "to": "7"},
    ]
    assert map_previous_versions(updates) == ({"6": "5"}, {"2"})


def test_a_text_that_is_not_whole_yet_is_changed_when_it_is() -> None:
    later, _ = rewrite_step(step("wait-ready", name="app ${{ run.id }}"), {"1.1.0": "1.0.0"}, ("name",))
    assert isinstance(later.name, Template)
    assert later.name.fill(SCOPE) == "app 1.0.0"
