"""Jobs that are refused before they are requested. tests/cases has more of them, by step."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.actions.job_refusal import find_job_refusal
from runbook.host.facts import ActiveState, JobVerb, LoadState
from runbook.model import Verdict
from tests.unit.fake_machine import FakeMachine, unit

DOWN: dict[str, Any] = {"active_state": ActiveState.INACTIVE, "sub_state": "dead", "main_pid": 0}
START, STOP, RESTART, RELOAD = JobVerb.START, JobVerb.STOP, JobVerb.RESTART, JobVerb.RELOAD
WRONG = "systemd cannot load gw.service: a setting in its file is wrong"


@pytest.mark.parametrize(
    ("verb", "facts", "reason"),
    [
        (START, {**DOWN, "load_state": LoadState.BAD_SETTING}, WRONG),
        (
            STOP,
            {"load_state": LoadState.BAD_SETTING},
            f"{WRONG}: it still runs, and once it stops, it cannot be started",
        ),
        # The restart itself reloads.
        (RESTART, {"load_state": LoadState.BAD_SETTING, "need_daemon_reload": True}, None),
        (
            RELOAD,
            {"load_state": LoadState.BAD_SETTING, "need_daemon_reload": True},
            f"{WRONG}: it still runs, and once",
        ),
        (
            START,
            {**DOWN, "load_state": LoadState.ERROR, "load_error": "Permission denied"},
            "gw.service: Permission den",
        ),
        (START, {**DOWN, "load_state": LoadState.ERROR}, "gw.service: its file cannot be read"),
        (RESTART, {"refuse_manual_stop": True}, "its file has RefuseManualStop=yes"),
        (START, DOWN, None),
    ],
)
def test_a_job_that_is_refused(verb: JobVerb, facts: dict[str, Any], reason: str | None) -> None:
    finding = find_job_refusal(FakeMachine(), unit(**facts), verb)
    if reason is None:
        assert finding is None
    else:
        assert finding is not None
        assert (finding.verdict, reason in finding.reason) == (Verdict.JOB_FAILED, True), finding.reason
