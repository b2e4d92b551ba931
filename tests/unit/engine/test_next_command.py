"""The commands in the hint of a check: with the options of the check, and the upgrade first."""

from __future__ import annotations

from typing import Any

from runbook.engine.execution.outcome import Outcome
from runbook.engine.next_command import describe_fix, describe_missing_rights, describe_remediation
from runbook.host.holders import NEEDS_ROOT
from runbook.model import StepStatus, Verdict
from runbook.spec.runbook import Runbook
from runbook.spec.step import Step
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


FIX_COMMAND = "runbook restart --fix gw.service"


def fixed(verdict: Verdict, *holders: dict[str, Any], state: str = "failed") -> str:
    ports = [{"port": "80", "holders": holders}, {"port": "81", "holders": holders[:1]}]
    failed = Outcome("x", "wait-ready", StepStatus.FAILED, verdict, "", evidence={"ports": ports, "ActiveState": state})
    return describe_fix(failed, FIX_COMMAND, book(FIX))


def test_a_fix_that_kills() -> None:
    orphan, leftover = {"pid": 74, "role": "orphan"}, {"pid": 75, "role": "leftover"}
    told = f"{FIX_COMMAND} stops gw.service, kills PID 74, 75 on port 80, 81, and starts it again"
    assert fixed(Verdict.ORPHAN_HOLDS_PORT, orphan, leftover, {"pid": 100, "role": "current"}) == told
    spared = {**orphan, "spared": "it is sshd"}
    assert fixed(Verdict.PORT_SHARED, leftover, spared) == "PID 74 would not be killed: it is sshd"


def test_a_fix_that_clears_the_start_limit() -> None:
    told = f"find out why it was started so often; {FIX_COMMAND} clears the start limit and starts it again"
    assert fixed(Verdict.START_LIMIT_HIT) == told
    assert fixed(Verdict.START_LIMIT_HIT, state="active") == ""


def test_what_no_fix_helps_against() -> None:
    other = {"pid": 300, "role": "other-unit"}
    assert fixed(Verdict.OTHER_UNIT_HOLDS_PORT, other) == fixed(Verdict.UNIT_FAILED) == ""
