"""What the properties of a unit mean, without a look at anything else."""

from __future__ import annotations

import pytest

from runbook.host.facts import ActiveState, JobRef, JobVerb, LoadState, Unit, job_path, unit_path
from tests.unit.fake_machine import unit

TIMER = (("trigger_unit", "gw.timer"), ("trigger_timer_monotonic_usec", "850"))


def test_a_word_that_is_not_listed_is_kept() -> None:
    assert ActiveState("hibernating") == "hibernating"
    assert LoadState("stub") is LoadState.STUB


def test_a_job_is_identified_by_its_number() -> None:
    assert JobRef(job_path(4711), "gw.service", "start").number == 4711
    restart = unit(job=7, job_type="start").job_of(JobVerb.RESTART)
    assert restart == JobRef(job_path(7), "gw.service", JobVerb.RESTART)
    assert unit(job=7, job_type="start").job_of(JobVerb.STOP) is None
    assert unit().job_of(JobVerb.START) is None


@pytest.mark.parametrize(
    ("name", "last"),
    [
        ("dbus.socket", "dbus_2esocket"),
        ("getty@tty1.service", "getty_40tty1_2eservice"),
        ("openclaw-gateway.service", "openclaw_2dgateway_2eservice"),
        ("1st.service", "_31st_2eservice"),
        ("a_b.service", "a_5fb_2eservice"),
        (r"x\x2dy.service", "x_5cx2dy_2eservice"),
        ("größe.service", "gr_c3_b6_c3_9fe_2eservice"),
    ],
)
def test_the_path_of_a_unit(name: str, last: str) -> None:
    """As `systemd-escape` and busctl write them, and systemd's own tests of bus_label_escape()."""
    assert unit_path(name) == f"/org/freedesktop/systemd1/unit/{last}"


@pytest.mark.parametrize(
    ("state", "sub", "runs"),
    [
        (ActiveState.ACTIVE, "running", True),
        (ActiveState.DEACTIVATING, "stop-sigterm", True),
        (ActiveState.ACTIVATING, "auto-restart", False),
        (ActiveState.ACTIVATING, "auto-restart-queued", False),
        (ActiveState.FAILED, "failed", False),
    ],
)
def test_the_pause_before_a_restart_is_no_invocation(state: ActiveState, sub: str, runs: bool) -> None:
    assert unit(active_state=state, sub_state=sub).is_running is runs


def test_a_restart_without_a_pause_begins_after_the_end_before() -> None:
    """RestartMode=direct: InactiveExitTimestamp stays that of the first invocation."""
    direct = unit(inactive_exit_monotonic=100, active_exit_monotonic=200)
    assert direct.began_monotonic == 200
    assert (
        unit(inactive_exit_monotonic=100, active_exit_monotonic=200, active_state=ActiveState.FAILED).began_monotonic
        == 100
    )


@pytest.mark.parametrize(
    ("ended", "before", "trigger"),
    [(800, None, "gw.timer"), (900, None, "")],
    ids=["after the end before", "of an earlier invocation"],
)
def test_a_timer_is_named_only_if_it_came_later(ended: int, before: None, trigger: str) -> None:
    assert (
        unit(activation=TIMER, inactive_enter_monotonic=ended, active_exit_monotonic=0).find_trigger(before) == trigger
    )


def test_a_path_is_named_only_if_it_is_new() -> None:
    path = (("trigger_unit", "gw.path"),)
    assert unit(activation=path).find_trigger(()) == "gw.path"
    assert unit(activation=path).find_trigger(path) == ""
    assert unit(activation=path).find_trigger(None) == ""


def test_a_stop_may_spare_all_but_the_main_process() -> None:
    assert unit(kill_mode="control-group").stop_kills(77, 1)
    spares = unit(kill_mode="process")
    assert (spares.stop_kills(100, 1), spares.stop_kills(77, 100), spares.stop_kills(77, 1)) == (True, True, False)


@pytest.mark.parametrize(
    ("mode", "sends_kill", "main", "worker"),
    [
        ("control-group", True, False, False),
        ("mixed", True, False, False),
        ("process", True, False, True),
        ("none", True, True, True),
        ("control-group", False, True, True),
    ],
)
def test_what_may_outlive_a_stop(mode: str, sends_kill: bool, main: bool, worker: bool) -> None:
    gw = unit(kill_mode=mode, send_sigkill=sends_kill)
    assert (gw.may_outlive_stop(100), gw.may_outlive_stop(77)) == (main, worker)


def test_a_unit_in_words() -> None:
    assert unit().describe() == "active (running), PID 100"
    assert Unit("gw.service", load_state=LoadState.NOT_FOUND).describe() == "not found"
    assert unit(active_state=ActiveState.FAILED, sub_state="failed", main_pid=0).describe() == "failed"
    assert unit(of_user=True).systemctl_command("stop") == "systemctl --user stop gw.service"
    assert unit(of_user=True).describe_not_found("gv.service") == (
        "the user manager has no unit gw.service; did you mean gv.service?"
    )
    assert "if gw@1.service is meant" in unit(type="oneshot").describe_alternative("gw@1.service")
    assert unit(type="oneshot").describe_alternative("session-1.scope") == ""
