"""What a command of a failed run started beside the services of its manager."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.engine.left_running import find_left_running, find_uncertain_services
from runbook.engine.rollback_units import NewFiles
from runbook.host.facts import ActiveState
from tests.unit.fake_machine import EPOCH, FakeMachine, process, unit

WINDOW = (EPOCH + 900.0, EPOCH + 910.0)
USERS = "/user.slice/user-1000.slice/user@1000.service"
SESSION = "/user.slice/user-1000.slice/session-4.scope"
MANAGER = process(9, cgroup=f"{USERS}/init.scope", started=10.0, user="kim", name="systemd")


def found(cgroup: str, *others: Any, started: float = 905.0, of_user: bool = False, **facts: Any) -> list[str]:
    units = {
        "job.service": unit("job.service", is_transient=True),
        "timed.service": unit("timed.service", is_transient=True, triggered_by=("timed.timer",)),
        "gw.service": unit(),
    }
    one = process(70, **{"cgroup": cgroup, "started": started, "user": "kim", **facts})
    on = FakeMachine(units=units, processes={each.pid: each for each in (MANAGER, one, *others)})
    return [f"{name}: {left.remedy}" for name, left in find_left_running(on, of_user, [WINDOW]).items()]


@pytest.mark.parametrize(
    ("cgroup", "remedy"),
    [
        (f"{USERS}/app.slice/help.service", "help.service of user kim: systemctl --user -M kim@ restart help.service"),
        (f"{USERS}/app.slice/app-editor.scope", ""),
        (f"{USERS}/app.slice/dbus-:1.2-org.a11y.service", ""),
        ("/system.slice/job.service", "job.service: systemctl stop job.service"),
        ("/system.slice/timed.service", ""),
        ("/system.slice/gw.service", ""),
        ("/system.slice/daemon.scope", "daemon.scope: systemctl stop daemon.scope"),
        ("/system.slice/runbook-1-run.scope", ""),
        (f"/system.slice/docker-{'a1' * 32}.scope", ""),
        (SESSION, "session-4.scope: systemctl stop session-4.scope"),
        ("/init.scope", ""),
        ("/", ""),
    ],
)
def test_where_a_process_started(cgroup: str, remedy: str) -> None:
    (said,) = found(cgroup) or [""]
    assert said.partition(",")[0] == remedy


@pytest.mark.parametrize(
    ("facts", "count"),
    [({}, 1), ({"started": 899.9}, 0), ({"started": 899.99}, 1), ({"started": 910.1}, 0), ({"dead": True}, 0)],
)
def test_only_what_started_while_a_command_ran_and_still_runs_counts(facts: dict[str, Any], count: int) -> None:
    assert len(found("/system.slice/daemon.scope", **facts)) == count


def test_a_login_may_start_anything() -> None:
    assert found(SESSION, process(71, cgroup=SESSION, name="sshd-session", started=1.0)) == []
    assert found(SESSION, process(71, cgroup=SESSION, name="bash", started=1.0, has_terminal=True)) == []


def test_a_manager_that_has_just_started_brings_all_its_services() -> None:
    assert found(f"{USERS}/help.service", process(9, cgroup=f"{USERS}/init.scope", started=904.0)) == []


def test_a_users_run_looks_at_its_own_manager() -> None:
    assert found(f"{USERS}/app.slice/job.service", of_user=True) != []
    assert found("/system.slice/job.service", of_user=True) == []


def uncertain(started: float, *, restarted: tuple[str, ...] = (), **changes: Any) -> list[str]:
    worker = unit("worker.service", main_pid=71, **changes)
    one = process(71, cgroup="/system.slice/worker.service", started=started)
    on = FakeMachine(units={"worker.service": worker}, processes={71: one})
    new = NewFiles(installed_at=EPOCH + 900.0, restored_at=EPOCH + 950.0)
    judgements = [{}, {"uncertain-services": ["worker.service"]}]
    return [left.remedy for left in find_uncertain_services(on, judgements, restarted, new).values()]


def test_a_service_that_an_unknown_process_started_may_run_the_new_version() -> None:
    assert uncertain(905.0) == ["systemctl restart worker.service"]


def test_it_does_not_if_it_was_restarted_since_or_is_down() -> None:
    assert uncertain(951.0) == []
    assert uncertain(905.0, restarted=("worker.service",)) == []
    assert uncertain(905.0, active_state=ActiveState.INACTIVE) == []
