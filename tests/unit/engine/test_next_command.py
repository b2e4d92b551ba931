"""The commands in the hint of a check: with the options of the check, and the upgrade first."""

from __future__ import annotations

from typing import Any

from runbook.engine.execution.outcome import Outcome
from runbook.engine.next_command import describe_missing_rights, describe_remediation
from runbook.host.holders import NEEDS_ROOT
from runbook.model import StepStatus, Verdict
from runbook.spec.step import Runbook, Step
from tests.unit.runs import remediate, step

FIX = remediate(step("verify-port-owner"), fix=(step("stop"), step("start")))


def book(*steps: Step[Any]) -> Runbook:
    return Runbook.model_validate({"unit": "gw.service", "port": "80", "steps": steps, "path": "x.yaml"})


def described(*steps: Step[Any], options: tuple[str, ...] = ()) -> str:
    remedy = FIX.remedy()
    assert remedy is not None
    return describe_remediation(book(*steps), remedy, options)


def test_the_fix_begins_only_if_a_check_fails() -> None:
    told = "runbook remediate --set 'note=a b' x.yaml checks again, and fixes only if a check fails: stop, start"
    assert described(FIX, options=("--set", "note=a b")) == told


def test_the_upgrade_comes_first() -> None:
    update = step("update", run="install", version="version", to="1.1.0")
    assert described(update, FIX, options=("--user",)) == (
        "runbook apply --user x.yaml carries out the upgrade; runbook remediate --user x.yaml checks again, and fixes"
        " only what runs now: stop, start"
    )


def test_a_check_without_the_rights_is_repeated_as_root() -> None:
    def found(reason: str) -> Outcome:
        return Outcome("look", "verify-port-owner", StepStatus.FAILED, Verdict.OWNER_UNKNOWN, reason)

    hidden = found(f"the process that holds port 80 cannot be found; {NEEDS_ROOT}")
    told = describe_missing_rights([hidden], book(FIX), ("--set", "version=1.4"))
    assert told == "sudo runbook check --set version=1.4 x.yaml reads every process"
    assert describe_missing_rights([found("it is a container")], book(FIX), ()) == ""
