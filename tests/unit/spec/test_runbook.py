"""A runbook: its steps and units, and what is left of it for `runbook remediate`."""

from __future__ import annotations

import pytest

from runbook.document import parse
from runbook.spec.runbook import Runbook
from runbook.spec.step import Step
from runbook.template.namespace import TemplateError
from runbook.template.text import parse_expression
from tests.unit.runs import remediate, step


def test_a_runbook_names_each_unit_once() -> None:
    steps = [remediate(step("wait-ready"), fix=(step("stop", unit="db.service"),)), step("restart", unit="db.service")]
    book = Runbook.model_validate({"unit": "gw", "steps": steps, "path": "/srv/gw.yaml"})
    assert book.unit_names() == ("gw.service", "db.service")
    assert [one.type_name for one in book.walk()] == ["remediate", "wait-ready", "stop", "restart"]
    assert (book.title, Step.model_fields["on_failure"].alias) == ("gw.yaml", "on-failure")


def test_the_remediations_of_a_runbook_alone() -> None:
    made = parse(
        """
unit: gw
port: 80
steps:
  - update: {run: "x ${{ to }}", version: x, to: 2.0}
  - restart
  - remediate:
      when: steps.update.changed
      check: [verify-version: {run: x, expect: "${{ steps.update.to }}"}]
      fix: [start]
rollback: auto
always: [stop, remediate: {check: [verify-port-owner], fix: [start]}]
"""
    )
    kept = made.keep_remediations()
    assert [(one.id, one.when) for one in kept.steps] == [("remediate", None), ("always.remediate", None)]
    assert (kept.always, kept.rollback) == ((), "off")
    namespace = kept.namespace.for_run("run-1", {})
    assert parse_expression("steps.update.to").value(namespace) == "2.0"
    assert parse_expression("steps.update.changed").value(namespace) == "false"
    with pytest.raises(TemplateError, match="this run does not carry out step `update`"):
        parse_expression("steps.update.from").value(namespace)
    assert parse("unit: gw\nsteps: [restart]\n").keep_remediations().steps == ()
