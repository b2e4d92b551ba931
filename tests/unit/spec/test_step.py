"""The contract of a step type: what follows from its class, and the defaults."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar

import pytest
from pydantic import Field

from runbook.actions.job_step import JobStepState
from runbook.model import Verdict, Wake, not_yet
from runbook.spec.fields import UnitName
from runbook.spec.readers import FieldError
from runbook.spec.runbook import Runbook
from runbook.spec.state import RunState, StepState
from runbook.spec.step import ReplacesVersion, RollbackRole, Step, must_be_written
from runbook.steps import registry
from runbook.template.namespace import TemplateNamespace
from tests.unit.runs import remediate, step

RUN = RunState("run-1", Path("/srv"))


class FindOut(Step[JobStepState]):
    unit: UnitName = Field(description="The unit.")


class FindOutMore(FindOut):
    failure_verdict: ClassVar[Verdict] = Verdict.OWNER_UNKNOWN


def test_the_name_and_the_state_follow_from_the_class() -> None:
    assert (FindOut.type_name, FindOut.state_type) == ("find-out", JobStepState)
    assert (FindOutMore.type_name, FindOutMore.state_type) == ("find-out-more", JobStepState)
    assert Step[Any].state_type is StepState


@pytest.mark.parametrize("kind", list(registry()))
def test_each_type_has_a_state_of_its_own_class(kind: str) -> None:
    cls = registry()[kind]
    assert cls.type_name == kind
    assert isinstance(cls.state_type(RUN), StepState)


def test_a_type_without_apply_only_reads() -> None:
    assert not FindOut.can_change()
    assert {kind for kind, cls in registry().items() if not cls.can_change()} == {
        "verify-port-owner",
        "verify-version",
        "wait-ready",
    }
    assert step("run", run="true", **{"read-only": True}).only_reads()
    assert not step("run", run="true").only_reads()
    assert not remediate(step("verify-port-owner"), fix=(step("verify-port-owner"),)).only_reads()


def test_a_unit_without_a_default_is_required_but_the_top_of_the_file_may_have_it() -> None:
    assert FindOut.model_fields["unit"].is_required()
    assert not must_be_written(FindOut, "unit")
    assert must_be_written(registry()["update"], "run")
    assert not must_be_written(registry()["update"], "timeout")


def test_a_key_without_a_value_is_refused_in_a_file_only() -> None:
    with pytest.raises(ValueError, match="is empty; give it a value or leave it out"):
        FindOut.model_validate({"unit": None}, context=TemplateNamespace())
    assert FindOut.model_validate({"unit": "gw", "name": None}).name is None
    assert issubclass(FieldError, ValueError)


def test_each_role_in_a_rollback_has_one_type() -> None:
    book = Runbook.model_validate({"steps": [step("restart")], "types": registry()})
    assert {role.name: book.type_for(role).type_name for role in RollbackRole} == {
        "CLEAR_LIMIT": "reset-failed",
        "STOP": "stop",
        "START": "start",
        "RESTART": "restart",
        "RELOAD": "reload",
        "PROVE_HEALTH": "wait-ready",
        "PROVE_OWNER": "verify-port-owner",
        "PROVE_VERSION": "verify-version",
    }


def test_only_an_update_replaces_a_version() -> None:
    assert [kind for kind, cls in registry().items() if issubclass(cls, ReplacesVersion)] == ["update"]
    fields = {"run": "x ${{ to }}", "version": "x --version"}
    assert getattr(step("update", to="1.2", **fields), "known_to", None) == "1.2"
    assert getattr(step("update", to="${{ steps.a.output }}", **fields), "known_to", None) == ""


def test_the_end_of_the_time_limit_says_what_was_waited_for() -> None:
    made = FindOut.model_validate({"unit": "gw"})
    last = not_yet(Verdict.JOB_DONE, "waiting for it", Wake(), pid=1)
    late = made.judge_timeout(None, made.new_state(RUN), last)  # type: ignore[arg-type]
    assert (late.verdict, late.reason) == (Verdict.TIMED_OUT, "not finished in time: waiting for it")
    assert late.evidence == {"pid": 1}
    assert made.time_limit(None) == 30.0  # type: ignore[arg-type]


def test_a_recorded_state_is_made_again() -> None:
    made = step("restart")
    state = made.new_state(RUN)
    state.invocation = "a" * 32
    again = made.new_state(RUN, state.dump())
    assert (again.invocation, again.id, again.run) == ("a" * 32, "restart", RUN)
