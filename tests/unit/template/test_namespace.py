"""The values of names: while a file is read, in a run, in a plan, in a step."""

from __future__ import annotations

import pytest

from runbook.model import Port
from runbook.template.namespace import Reference, TemplateError, TemplateNamespace, Word

READ = TemplateNamespace(
    vars={"version": "1", "list": ("a", "b")},
    env={"HOME": "/root"},
    host="box",
    unit="gw.service",
    port=(Port(80),),
    earlier_steps={"update": frozenset({"status", "to"})},
    later_steps=frozenset({"stop"}),
)


def look_up(scope: TemplateNamespace, name: str) -> object:
    root, *path = name.split(".")
    return scope.look_up(Reference(root, tuple(path)))


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("vars.version", "1"),
        ("vars.list", ("a", "b")),
        ("env.HOME", "/root"),
        ("host", "box"),
        ("unit", "gw.service"),
        ("port", "80"),
        ("run.id", None),
        ("steps.update.to", None),
    ],
)
def test_a_name_has_a_value_or_is_not_known_yet(name: str, value: object) -> None:
    assert look_up(READ, name) == value


@pytest.mark.parametrize(
    ("name", "why"),
    [
        ("vars", "`vars` has several values; write `vars.NAME`"),
        ("vars.verison", "`vars.verison` is not defined; did you mean `vars.version`"),
        ("env.NOPE", "environment variable `NOPE` is not set"),
        ("host.name", "`host` is a single value"),
        ("run.number", "write `run.id`"),
        ("to", "`to` is only defined inside an update"),
        ("steps", "`steps` is not a value"),
        ("steps.update", "`steps.update` is a step, not a value; write `steps.update.status`"),
        ("steps.update.output", "has no `output`; it has `status` and `to`"),
        ("steps.stop.status", "step `stop` does not come before this one"),
        ("steps.nope.status", "no step has the id `nope`"),
    ],
)
def test_a_name_that_is_not_defined_is_an_error(name: str, why: str) -> None:
    with pytest.raises(TemplateError, match=why):
        look_up(READ, name)


def test_a_root_may_be_excluded() -> None:
    scope = TemplateNamespace(roots=("vars", "env"))
    with pytest.raises(TemplateError, match="`host` cannot be used here, only `vars` and `env`"):
        look_up(scope, "host")


def test_in_a_run_a_step_that_has_not_run_is_empty_and_in_a_plan_it_is_not_known() -> None:
    results = {"update": {"status": "ok", "to": "2"}, "stop": {"to": "3"}}
    run, plan = READ.for_run("r", results), READ.for_run(None, results, partial=True)
    assert [look_up(run, name) for name in ("run.id", "steps.update.to", "steps.nope.status")] == ["r", "2", ""]
    assert look_up(run, "steps.update.output") == look_up(plan, "steps.update.output") == ""
    assert look_up(plan, "steps.nope.status") is None
    assert (look_up(plan, "steps.stop.to"), look_up(plan, "steps.stop.status")) == ("3", None)


def test_a_step_s_own_unit_and_port_come_first() -> None:
    own = READ.for_step("web.service", (Port(81), Port(82)), ("to",))
    assert (look_up(own, "unit"), look_up(own, "port")) == ("web.service", ("81", "82"))
    assert look_up(own, "to") is None
    assert look_up(READ.for_step(None, None), "unit") == "gw.service"


def test_a_word_is_true_or_false_by_its_meaning() -> None:
    assert [bool(Word(text)) for text in ("", "0", "no", "Off", "FALSE", "yes", "00")] == [False] * 5 + [True] * 2
    assert Word("false") == False  # noqa: E712 - the comparison is what is tested
    assert Word("1") == 1
    assert Word("1") != 2
    assert hash(Word("a")) == hash("a")
