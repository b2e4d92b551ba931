"""Where the steps are, before they are checked: their types, ids and the errors of their form."""

from __future__ import annotations

from runbook.document.nodes import Problems, compose
from runbook.document.outline import StepNode, assign_ids, find_nested_keys, find_steps
from runbook.steps import registry


def outline(text: str) -> tuple[list[StepNode], list[str]]:
    """Return the steps of a list, with their ids, and the errors."""
    problems: Problems = []
    found = find_steps(compose(text, problems), "steps", registry(), problems)
    assign_ids({"": found}, problems)
    return found, [sentence for _, sentence in problems]


def test_a_bare_name_and_a_mapping_are_steps() -> None:
    (bare, empty, full), problems = outline("- restart\n- restart:\n- restart: {timeout: 5s}\n")
    assert [bare.cls.type_name, empty.cls.type_name, full.cls.type_name] == ["restart"] * 3
    assert [one.body.to_plain() for one in (bare, empty)] == [{}, {}]
    assert full.body.to_plain()
    assert problems == []


def test_what_is_not_a_step_is_left_out_and_the_rest_is_found() -> None:
    found, problems = outline("- {}\n- nope\n- restart\n")
    assert [step.cls.type_name for step in found] == ["restart"]
    assert len(problems) == 2


def test_a_written_id_is_never_generated_for_another_step() -> None:
    found, problems = outline("- restart\n- restart\n- stop: {id: restart}\n")
    assert [step.id for step in found] == ["restart-2", "restart-3", "restart"]
    assert problems == []


def test_ids_of_nested_steps_begin_with_the_outer_id() -> None:
    (outer,), _ = outline("- remediate: {id: fix, check: [wait-ready], fix: [stop, start]}\n")
    assert [step.id for step in outer.walk()] == ["fix", "fix.check.wait-ready", "fix.fix.stop", "fix.fix.start"]


def test_a_check_accepts_only_steps_that_read() -> None:
    assert {key: mark.read_only for key, mark in find_nested_keys(registry()["remediate"]).items()} == {
        "check": True,
        "fix": False,
    }
