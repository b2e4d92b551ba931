"""Jobs and signals, in the orders in which they can come."""

from __future__ import annotations

import time

import pytest

from runbook.errors import HostError
from runbook.host.facts import JobRef, JobResult, JobVerb
from runbook.host.loop import Loop
from runbook.host.requesters import JobRequest, Requester
from runbook.host.systemd import manager as systemd_module
from runbook.host.systemd.bus import Properties
from runbook.host.systemd.manager import SystemdManager
from runbook.host.systemd.requester_scan import RequesterScan, UnitNames
from runbook.model import Deadline, Wake

from .private_bus import PATIENCE, PrivateBus

WEB = Wake(units=frozenset({"web.service"}), within=PATIENCE)


def wait(loop: Loop, wake: Wake = WEB) -> float:
    """Wait, and give the seconds that it took."""
    began = time.monotonic()
    loop.wait(wake, Deadline.after(loop.clock, PATIENCE))
    return time.monotonic() - began


def test_the_end_of_a_job_may_be_heard_before_its_beginning_is_answered(systemd: SystemdManager) -> None:
    ref = systemd.enqueue_job(JobVerb.RESTART, "quick.service")
    assert systemd.job(ref) is JobResult.DONE


def test_a_job_ends_while_it_is_waited_for(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    ref = systemd.enqueue_job(JobVerb.RESTART, "web.service")
    assert systemd.job(ref) is None
    loop.call_later(0.05, lambda: bus.order("finish web.service failed"))
    assert wait(loop) < PATIENCE / 2
    assert systemd.job(ref) is JobResult.FAILED


def test_somebody_elses_job_takes_the_place_of_ours(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    ref = systemd.enqueue_job(JobVerb.START, "web.service")
    bus.order("finish web.service canceled")
    wait(loop)
    assert systemd.job(ref) is JobResult.CANCELED


def test_a_result_that_nobody_knows_yet_is_kept_as_it_is(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    ref = systemd.enqueue_job(JobVerb.START, "web.service")
    bus.order("finish web.service thawed")
    wait(loop)
    assert systemd.job(ref) == "thawed"


def test_another_job_of_the_unit_is_not_taken_for_ours(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    first = systemd.enqueue_job(JobVerb.START, "web.service")
    bus.order("finish web.service done")
    wait(loop)
    second = systemd.enqueue_job(JobVerb.STOP, "web.service")
    assert (systemd.job(first), systemd.job(second)) == (JobResult.DONE, None)


def test_a_job_that_ended_while_the_bus_was_gone(systemd: SystemdManager, bus: PrivateBus) -> None:
    ref = systemd.enqueue_job(JobVerb.RESTART, "web.service")
    bus.kill_daemon()
    bus.kill_systemd()
    bus.start_daemon()
    bus.start_systemd()
    systemd.unit("web.service")
    assert systemd.job(ref) is JobResult.GONE


def test_a_job_of_an_earlier_process_is_jobs_for(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    theirs = systemd.enqueue_job(JobVerb.RESTART, "web.service")
    ended = JobRef("/org/freedesktop/systemd1/job/4711", "web.service", "start")
    systemd._last_heard.clear()
    assert systemd.job(theirs) is None
    assert systemd.job(ended) is JobResult.GONE
    bus.order("finish web.service done")
    wait(loop)
    assert systemd.job(theirs) is JobResult.DONE


def test_the_number_of_a_job_of_an_earlier_boot(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    """It is somebody else's now, while that one runs and when it has ended."""
    theirs = systemd.enqueue_job(JobVerb.RESTART, "web.service")
    running = JobRef(theirs.path, "quick.service", "start")
    systemd._last_heard.clear()
    assert systemd.job(running) is JobResult.GONE
    second = systemd.enqueue_job(JobVerb.STOP, "web.service")
    bus.order("finish web.service done")
    wait(loop)
    ended = JobRef(second.path, "quick.service", "start")
    assert (systemd.job(second), systemd.job(ended)) == (JobResult.DONE, JobResult.GONE)


def test_systemd_is_jobs_after_a_while_of_silence(
    systemd: SystemdManager, bus: PrivateBus, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(systemd_module, "JOB_QUIET_SECONDS", PATIENCE)
    ref = systemd.enqueue_job(JobVerb.RESTART, "web.service")
    for _ in range(3):
        systemd.job(ref)
    assert not any(call.startswith("GetJob") for call in bus.calls)
    monkeypatch.setattr(systemd_module, "JOB_QUIET_SECONDS", 0.0)
    assert systemd.job(ref) is None
    assert [call for call in bus.calls if call.startswith("GetJob")] == ["GetJob 1"]


def test_a_signal_between_the_look_and_the_wait_is_not_missed(
    systemd: SystemdManager, bus: PrivateBus, loop: Loop
) -> None:
    systemd.unit("web.service")
    bus.order("changed web.service 1")
    # Some other call serves the main context meanwhile, and so hears it before the wait begins.
    systemd.read_loaded_state("quick.service")
    assert wait(loop) < PATIENCE / 2
    assert systemd.unit("web.service").n_restarts == 1


def test_news_that_a_look_has_seen_wake_nobody(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    systemd.unit("web.service")
    bus.order("changed web.service 1")
    assert systemd.unit("web.service").n_restarts == 1
    assert wait(loop, Wake(WEB.units, within=0.2)) >= 0.2


def test_news_of_other_units_wake_nobody(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    for unit in ("web.service", "quick.service"):
        systemd.unit(unit)
    loop.call_later(0.05, lambda: bus.order("changed quick.service 5"))
    assert wait(loop, Wake(WEB.units, within=0.2)) >= 0.2


def test_many_signals_are_one_reason_to_look(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    systemd.unit("web.service")
    bus.order("changed web.service 200")
    wakes = 0
    while systemd.unit("web.service").n_restarts < 200:
        wait(loop)
        wakes += 1
    assert wakes < 20
    # None is left over: whatever came was before the last look.
    assert wait(loop, Wake(WEB.units, within=0.1)) >= 0.1


def test_a_lost_bus_wakes_whoever_waits(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    systemd.unit("web.service")
    loop.call_later(0.05, bus.kill_daemon)
    assert wait(loop) < PATIENCE / 2


def test_the_first_word_to_systemd_comes_after_listening(systemd: SystemdManager, bus: PrivateBus) -> None:
    assert bus.calls == ["Subscribe"]


def test_reset_failed_of_a_unit_that_is_not_loaded(systemd: SystemdManager, bus: PrivateBus) -> None:
    systemd.reset_failed("absent.service")
    assert bus.calls[-1] == "ResetFailedUnit absent.service"


def test_a_unit_without_a_name_is_none(systemd: SystemdManager) -> None:
    """To systemd the empty name is the caller's own unit."""
    with pytest.raises(HostError, match="without a name"):
        systemd.enqueue_job(JobVerb.STOP, "")
    with pytest.raises(HostError, match="without a name"):
        systemd.unit("")


def test_a_look_may_be_recent_until_a_change_is_announced(
    systemd: SystemdManager, bus: PrivateBus, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    looks: list[str] = []
    plain = systemd.bus.properties

    def counted(path: str, *, what: str) -> Properties:
        looks.append(path)
        return plain(path, what=what)

    monkeypatch.setattr(systemd.bus, "properties", counted)
    first = systemd.unit("web.service", max_age=PATIENCE)
    assert systemd.unit("web.service", max_age=PATIENCE) is first
    assert len(looks) == 1
    systemd.unit("web.service")
    systemd.unit("web.service", max_age=1e-9)
    assert len(looks) == 3
    bus.order("changed web.service 1")
    wait(loop)
    systemd.unit("web.service", max_age=PATIENCE)
    assert len(looks) == 4


def test_no_look_is_recent_on_a_new_connection(systemd: SystemdManager, bus: PrivateBus) -> None:
    first = systemd.unit("web.service")
    bus.kill_daemon()
    bus.start_daemon()
    bus.kill_systemd()
    bus.start_systemd()
    systemd.read_loaded_state("web.service")
    assert systemd.unit("web.service", max_age=PATIENCE) is not first


# -- who asked for what this program did not ask for


@pytest.fixture
def looks(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, bool]]:
    """Give the looks at all processes, each with the unit, its job, and whether that was announced."""
    seen: list[tuple[str, int, bool]] = []

    def look(callers: RequesterScan, unit: str, job: int, _spelled: UnitNames, *, began: bool) -> None:
        seen.append((unit.rpartition("/")[2], job, began))
        requester = Requester(70, ("systemctl", "stop", "web"), "root")
        callers._jobs.setdefault(unit, []).append(JobRequest(job, (requester,)))

    monkeypatch.setattr(RequesterScan, "scan", look)
    return seen


def test_nobody_is_looked_for_while_nobody_acts(
    systemd: SystemdManager, bus: PrivateBus, loop: Loop, looks: list[tuple[str, int, bool]]
) -> None:
    """This program's own jobs, each announced before it is answered, and those of units that nobody watches."""
    systemd.unit("web.service")
    for unit in ("web.service", "quick.service", "late.service"):
        systemd.enqueue_job(JobVerb.RESTART, unit)
    bus.order("begin hang.service")
    bus.order("finish web.service done")
    wait(loop)
    assert systemd.unit("web.service").job_requests == ()
    assert looks == []


def test_a_strangers_job_is_looked_into_once_as_it_begins(
    systemd: SystemdManager, bus: PrivateBus, loop: Loop, looks: list[tuple[str, int, bool]]
) -> None:
    systemd.unit("web.service")
    bus.order("begin web.service")
    bus.order("changed web.service 1")
    wait(loop)
    assert looks == [("web_2eservice", 1, True)]
    assert [one.job for one in systemd.unit("web.service").job_requests] == [1]
    assert len(looks) == 1


def test_a_strangers_job_in_the_middle_of_a_request(
    systemd: SystemdManager, bus: PrivateBus, loop: Loop, looks: list[tuple[str, int, bool]]
) -> None:
    """It is told from this program's own by the answer, and belongs to what came after that was asked for."""
    systemd.unit("late.service")
    loop.call_later(0.05, lambda: bus.order("begin late.service"))
    systemd.enqueue_job(JobVerb.START, "late.service")
    assert looks == [("late_2eservice", 2, True)]
    assert [one.job for one in systemd.unit("late.service").job_requests] == [2]


def test_a_strangers_job_that_is_older_than_ones_own(
    systemd: SystemdManager, bus: PrivateBus, loop: Loop, looks: list[tuple[str, int, bool]]
) -> None:
    """It is announced in the middle of the request, which took its place. A later one counts."""
    systemd.unit("late.service")
    systemd.enqueue_job(JobVerb.START, "late.service")  # The next one is asked for with a single call.
    bus.order("begin late.service")
    loop.call_later(0.05, lambda: bus.order("begin late.service"))
    assert systemd.enqueue_job(JobVerb.START, "late.service").number == 3
    assert looks == [("late_2eservice", 4, True)]
    assert [one.job for one in systemd.unit("late.service").job_requests] == [4]


def test_what_was_jobs_before_ends_with_a_job_of_ones_own(
    systemd: SystemdManager, bus: PrivateBus, loop: Loop, looks: list[tuple[str, int, bool]]
) -> None:
    systemd.unit("web.service")
    bus.order("begin web.service")
    bus.order("changed web.service 1")
    wait(loop)
    systemd.enqueue_job(JobVerb.START, "web.service")
    assert systemd.unit("web.service").job_requests == ()
    assert len(looks) == 1


def test_a_recent_look_does_not_hide_a_strangers_job(
    systemd: SystemdManager, bus: PrivateBus, loop: Loop, looks: list[tuple[str, int, bool]]
) -> None:
    systemd.unit("web.service")
    bus.order("begin web.service")
    assert loop.run_until(lambda: bool(looks), PATIENCE)
    assert [one.job for one in systemd.unit("web.service", max_age=60).job_requests] == [1]
