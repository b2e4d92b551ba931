"""Why a unit is started again and again, or not any more."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from runbook.host.facts import ActiveState
from runbook.host.queries import Answer, PreviousExit, StartEvent, StartEventKind
from runbook.host.requesters import JobRequest, Requester
from tests.unit.doctor.diagnosed import FAILED, causes, diagnose, gw, healthy, only
from tests.unit.fake_machine import EPOCH, INVOCATION, FakeMachine, unit


def started(machine: FakeMachine, *before: float, restarts: int = 0, reset: float | None = None) -> FakeMachine:
    """Let the journal have starts of some ages in seconds: the last ones are restarts by systemd."""
    kinds = [StartEventKind.START] * (len(before) - restarts) + [StartEventKind.RESTART] * restarts
    moments = [*zip(before, kinds, strict=True), *([(reset, StartEventKind.RESET)] if reset is not None else [])]
    events = tuple(StartEvent(EPOCH + machine.clock.time - age, kind) for age, kind in moments)
    machine.answers["starts of gw.service"] = [Answer(True, "", events)]
    return machine


def test_a_reached_start_limit() -> None:
    down = FakeMachine({"gw.service": unit(**FAILED)})
    assert causes(down) == ["the start limit (5 starts in 1min) is reached: systemd refuses to start gw.service"]
    assert causes(FakeMachine({"gw.service": unit(**FAILED, restart="no")})) == []


def test_a_start_limit_that_is_nearly_used_up() -> None:
    machine = started(healthy(n_restarts=3, exec_main_start_monotonic=990_000_000), 40, 30, 20, 10, restarts=3)
    assert causes(machine) == [
        "4 starts counted, and the start limit is 5 starts in 1min: one more is left for the next 20s, unless another "
        "program has cleared the counter since"
    ]
    machine = started(healthy(n_restarts=1, exec_main_start_monotonic=990_000_000), 20, 10)
    assert causes(machine) == []


def looping(**changes: Any) -> FakeMachine:
    return healthy(n_restarts=3, exec_main_start_monotonic=999_000_000, inactive_exit_monotonic=999_000_000, **changes)


def test_a_loop_that_no_start_limit_ends() -> None:
    found = only(looping(start_limit_interval_usec=0), "it has no start limit, so systemd restarts it without end")
    assert found.drop_in is not None
    assert found.drop_in.text == "[Unit]\nStartLimitIntervalSec=1h\nStartLimitBurst=10\n"
    assert only(looping(restart_usec=13_000_000), "with RestartSec=13s and the time that it runs, the start limit")
    assert causes(looping()) == []


def test_more_restarts_than_the_limit_show_that_it_is_never_reached() -> None:
    machine = looping()
    machine.units["gw.service"] = replace(gw(machine), n_restarts=6)
    only(machine, "the start limit (5 starts in 1min) is never reached, so systemd restarts it without end: 6 times")
    machine.units["gw.service"] = replace(gw(machine), n_restarts=5)
    assert "without end" not in str(causes(machine))


def test_a_loop_that_is_over() -> None:
    machine = looping(start_limit_interval_usec=0)
    machine.clock.time += 60
    assert causes(machine) == []


def test_an_exit_after_which_systemd_does_not_restart_it() -> None:
    down = FakeMachine({"gw.service": unit(**FAILED, restart_prevent_statuses=(78,))})
    assert causes(down) == [
        "RestartPreventExitStatus= names the exit of the main process (78), so systemd does not restart it"
    ]


def test_a_watchdog() -> None:
    watched: dict[str, Any] = {"watchdog_usec": 5_000_000, "result": "watchdog"}
    down = FakeMachine({"gw.service": unit(**{**FAILED, **watched, "restart": "no", "n_restarts": 0})})
    found = only(down, "it sends no keep-alive ping within the 5s of WatchdogSec=")
    assert found.prevention == ""  # Once it may have hung.
    machine = looping(watchdog_usec=5_000_000)
    exit_ = PreviousExit("watchdog", True, "ExecStart", "dumped", 6)
    machine.answers[f"exit before {INVOCATION} of gw.service"] = [Answer(True, "", exit_)]
    found = only(machine, "it sends no keep-alive ping")
    # Nothing shows which of the two it is.
    assert found.drop_in is None
    assert found.prevention == "if it never sends any, write WatchdogSec=0; if it hangs, that would hide it"


def test_a_job_of_another_requester() -> None:
    request = JobRequest(7, (Requester(412, ("systemctl", "stop", "gw"), "root"),))
    machine = healthy(job=7, job_type="stop", job_requests=(request,))
    assert "a stop of it is in progress, which something else (PID 412 `systemctl stop gw` as root) requested" in str(
        causes(machine)
    )


def test_starts_that_were_requested() -> None:
    def down(*before: float, restarts: int, reset: float | None = None) -> str:
        machine = FakeMachine({"gw.service": unit(**{**FAILED, "n_restarts": 0})})
        return str(causes(started(machine, *before, restarts=restarts, reset=reset)))

    assert (
        "3 of its 4 starts in 1min were requested, and the others are restarts by systemd: these count for the limit, "
        "too" in down(40, 30, 20, 10, restarts=1)
    )
    # Two are worth a word only if hardly any is left.
    assert "requested" not in down(40, 30, 20, restarts=1)
    assert "2 of its 4 starts in 1min were requested" in down(40, 30, 20, 10, restarts=2)
    # systemd's own number of restarts is 0 after a reset-failed, and counts for nothing here.
    assert "requested" not in down(50, 40, 30, 20, 10, restarts=5, reset=55)


def test_a_start_limit_that_is_over() -> None:
    machine = FakeMachine({"gw.service": unit(**FAILED, state_change_monotonic=900_000_000)})
    assert causes(machine)[0].startswith("systemd gave it up at ")
    over = "that is over, and systemd accepts a start again"
    assert causes(machine)[0].endswith(f" (1min 40s ago) because of its start limit (5 starts in 1min); {over}")
    # The window opened a while before the failure, and has closed.
    machine = started(FakeMachine({"gw.service": unit(**FAILED, state_change_monotonic=950_000_000)}), 59, 30)
    assert "accepts a start again" in str(causes(machine))
    # All of them count, by the journal and by the time of the failure.
    down = FakeMachine({"gw.service": unit(**FAILED, state_change_monotonic=950_000_000)})
    machine = started(down, 55, 54, 53, 52, 51)
    assert "systemd refuses to start gw.service" in str(causes(machine))


def test_starts_since_this_program_cleared_the_counter() -> None:
    machine = started(healthy(n_restarts=0, exec_main_start_monotonic=990_000_000), 50, 40, 30, 20, 10, reset=45)
    machine.units["gw.service"] = replace(gw(machine), inactive_exit_monotonic=990_000_000, n_restarts=1)
    assert "4 starts since runbook cleared the counter at " in causes(machine)[0]
    assert ", and the start limit is 5 starts in 1min: one more is left for the next 20s" in causes(machine)[0]


def test_requested_restarts_that_reached_the_limit() -> None:
    """Nothing is wrong with the service: systemctl stopped it."""
    facts = {**FAILED, "result": "start-limit-hit", "exec_main_code": 2, "exec_main_status": 15, "n_restarts": 0}
    machine = started(FakeMachine({"gw.service": unit(**facts, state_change_monotonic=999_000_000)}), 9, 7, 5, 3, 1)
    found = diagnose(machine)
    assert found.decision.text == ""
    assert found.summary.endswith("it was stopped (SIGTERM)")
    assert (
        "all of its 5 starts in 1min were requested, and systemd restarted it never: nothing is wrong with the service "
        "itself" in str(causes(machine))
    )
    # An exit of its own is to be found out about.
    machine.units["gw.service"] = replace(gw(machine), exec_main_code=1, exec_main_status=3, result="exit-code")
    assert diagnose(machine).decision.text.startswith("find out why it exits")


def test_a_stop_that_was_requested() -> None:
    facts: dict[str, Any] = {"active_state": ActiveState.INACTIVE, "main_pid": 0, "exec_main_code": 2}
    down = FakeMachine({"gw.service": unit(**facts, exec_main_status=15)})
    only(down, "a stop of gw.service was requested: after an exit of its own, systemd would have restarted it")
    assert causes(FakeMachine({"gw.service": unit(**facts, exec_main_status=15, restart="no")})) == []
    assert causes(FakeMachine({"gw.service": unit(**{**facts, "exec_main_code": 0})})) == []
