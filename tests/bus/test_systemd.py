"""Jobs and signals of systemd, in the different orders in which they can arrive."""

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
    """Wait, and return the seconds that it took."""
    began = time.monotonic()
    loop.wait(wake, Deadline.after(loop.clock, PATIENCE))
    return time.monotonic() - began


def test_a_job_may_end_before_the_request_is_answered(systemd: SystemdManager) -> None:
    ref = systemd.enqueue_job(JobVerb.RESTART, "quick.service")
    assert systemd.job(ref) is JobResult.DONE


def test_the_end_of_a_job_ends_the_wait(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    ref = systemd.enqueue_job(JobVerb.RESTART, "web.service")
    assert systemd.job(ref) is None
    loop.call_later(0.05, lambda: bus.order("finish web.service failed"))
    assert wait(loop) < PATIENCE / 2
    assert systemd.job(ref) is JobResult.FAILED


def test_a_job_that_another_one_replaces_is_canceled(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    ref = systemd.enqueue_job(JobVerb.START, "web.service")
    bus.order("finish web.service canceled")
    wait(loop)
    assert systemd.job(ref) is JobResult.CANCELED


def test_an_unknown_job_result_is_kept_as_a_text(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    ref = systemd.enqueue_job(JobVerb.START, "web.service")
    bus.order("finish web.service thawed")
    wait(loop)
    assert systemd.job(ref) == "thawed"


def test_two_jobs_of_a_unit_are_kept_apart(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    first = systemd.enqueue_job(JobVerb.START, "web.service")
    bus.order("finish web.service done")
    wait(loop)
    second = systemd.enqueue_job(JobVerb.STOP, "web.service")
    assert (systemd.job(first), systemd.job(second)) == (JobResult.DONE, None)


def test_a_job_that_ended_without_the_bus_is_gone(systemd: SystemdManager, bus: PrivateBus) -> None:
    ref = systemd.enqueue_job(JobVerb.RESTART, "web.service")
    bus.kill_daemon()
    bus.kill_systemd()
    bus.start_daemon()
    bus.start_systemd()
    systemd.unit("web.service")
    assert systemd.job(ref) is JobResult.GONE


def test_systemd_is_queried_for_a_job_of_an_earlier_process(
    systemd: SystemdManager, bus: PrivateBus, loop: Loop
) -> None:
    theirs = systemd.enqueue_job(JobVerb.RESTART, "web.service")
    ended = JobRef("/org/freedesktop/systemd1/job/4711", "web.service", "start")
    systemd._last_heard.clear()
    assert systemd.job(theirs) is None
    assert systemd.job(ended) is JobResult.GONE
    bus.order("finish web.service done")
    wait(loop)
    assert systemd.job(theirs) is JobResult.DONE


def test_a_job_number_of_an_earlier_boot_is_not_reused(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    """The number now belongs to a job of another unit, which runs or has ended. The earlier job is gone."""
    theirs = systemd.enqueue_job(JobVerb.RESTART, "web.service")
    running = JobRef(theirs.path, "quick.service", "start")
    systemd._last_heard.clear()
    assert systemd.job(running) is JobResult.GONE
    second = systemd.enqueue_job(JobVerb.STOP, "web.service")
    bus.order("finish web.service done")
    wait(loop)
    ended = JobRef(second.path, "quick.service", "start")
    assert (systemd.job(second), systemd.job(ended)) == (JobResult.DONE, JobResult.GONE)


def test_systemd_is_queried_for_a_job_only_after_a_quiet_time(
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


def test_a_signal_between_a_read_and_a_wait_is_not_missed(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    systemd.unit("web.service")
    bus.order("changed web.service 1")
    # Another call runs the main context meanwhile, and so receives the signal before the wait begins.
    systemd.read_loaded_state("quick.service")
    assert wait(loop) < PATIENCE / 2
    assert systemd.unit("web.service").n_restarts == 1


def test_a_change_that_has_been_read_does_not_end_a_wait(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    systemd.unit("web.service")
    bus.order("changed web.service 1")
    assert systemd.unit("web.service").n_restarts == 1
    assert wait(loop, Wake(WEB.units, within=0.2)) >= 0.2


def test_a_change_of_another_unit_does_not_end_a_wait(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    for unit in ("web.service", "quick.service"):
        systemd.unit(unit)
    loop.call_later(0.05, lambda: bus.order("changed quick.service 5"))
    assert wait(loop, Wake(WEB.units, within=0.2)) >= 0.2


def test_many_signals_end_a_wait_once(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    systemd.unit("web.service")
    bus.order("changed web.service 200")
    wakes = 0
    while systemd.unit("web.service").n_restarts < 200:
        wait(loop)
        wakes += 1
    assert wakes < 20
    # No signal is left over: all of them came before the last read.
    assert wait(loop, Wake(WEB.units, within=0.1)) >= 0.1


def test_a_lost_bus_ends_a_wait(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    systemd.unit("web.service")
    loop.call_later(0.05, bus.kill_daemon)
    assert wait(loop) < PATIENCE / 2


def test_the_first_call_is_subscribe(systemd: SystemdManager, bus: PrivateBus) -> None:
    assert bus.calls == ["Subscribe"]


def test_reset_failed_of_a_unit_that_is_not_loaded_succeeds(systemd: SystemdManager, bus: PrivateBus) -> None:
    systemd.reset_failed("absent.service")
    assert bus.calls[-1] == "ResetFailedUnit absent.service"


def test_an_empty_unit_name_is_refused(systemd: SystemdManager) -> None:
    """systemd would take the empty name for the caller's own unit."""
    with pytest.raises(HostError, match="without a name"):
        systemd.enqueue_job(JobVerb.STOP, "")
    with pytest.raises(HostError, match="without a name"):
        systemd.unit("")


def test_recent_properties_are_reused_until_a_change_is_announced(
    systemd: SystemdManager, bus: PrivateBus, loop: Loop, monkeypatch: pytest.MonkeyPatch
) -> None:
    reads: list[str] = []
    plain = systemd.bus.properties

    def counted(path: str, *, what: str) -> Properties:
        reads.append(path)
        return plain(path, what=what)

    monkeypatch.setattr(systemd.bus, "properties", counted)
    first = systemd.unit("web.service", max_age=PATIENCE)
    assert systemd.unit("web.service", max_age=PATIENCE) is first
    assert len(reads) == 1
    systemd.unit("web.service")
    systemd.unit("web.service", max_age=1e-9)
    assert len(reads) == 3
    bus.order("changed web.service 1")
    wait(loop)
    systemd.unit("web.service", max_age=PATIENCE)
    assert len(reads) == 4


def test_properties_are_read_again_on_a_new_connection(systemd: SystemdManager, bus: PrivateBus) -> None:
    first = systemd.unit("web.service")
    bus.kill_daemon()
    bus.start_daemon()
    bus.kill_systemd()
    bus.start_systemd()
    systemd.read_loaded_state("web.service")
    assert systemd.unit("web.service", max_age=PATIENCE) is not first


# -- requesters of jobs that this program did not request


@pytest.fixture
def scans(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str, int, bool]]:
    """Return the scans of all processes, each with the unit, its job, and whether the job was announced."""
    seen: list[tuple[str, int, bool]] = []

    def scan(callers: RequesterScan, unit: str, job: int, _spelled: UnitNames, *, began: bool) -> None:
        seen.append((unit.rpartition("/")[2], job, began))
        requester = Requester(70, ("systemctl", "stop", "web"), "root")
        callers._jobs.setdefault(unit, []).append(JobRequest(job, (requester,)))

    monkeypatch.setattr(RequesterScan, "scan", scan)
    return seen


def test_no_requester_is_searched_for_while_no_other_requester_acts(
    systemd: SystemdManager, bus: PrivateBus, loop: Loop, scans: list[tuple[str, int, bool]]
) -> None:
    """Jobs of this program, which are announced before they are answered, and jobs of units that are not watched."""
    systemd.unit("web.service")
    for unit in ("web.service", "quick.service", "late.service"):
        systemd.enqueue_job(JobVerb.RESTART, unit)
    bus.order("begin hang.service")
    bus.order("finish web.service done")
    wait(loop)
    assert systemd.unit("web.service").job_requests == ()
    assert scans == []


def test_the_requester_of_another_job_is_searched_for_once(
    systemd: SystemdManager, bus: PrivateBus, loop: Loop, scans: list[tuple[str, int, bool]]
) -> None:
    systemd.unit("web.service")
    bus.order("begin web.service")
    bus.order("changed web.service 1")
    wait(loop)
    assert scans == [("web_2eservice", 1, True)]
    assert [one.job for one in systemd.unit("web.service").job_requests] == [1]
    assert len(scans) == 1


def test_another_job_during_a_request_is_detected(
    systemd: SystemdManager, bus: PrivateBus, loop: Loop, scans: list[tuple[str, int, bool]]
) -> None:
    """The answer shows which job is this program's. The other one came after it."""
    systemd.unit("late.service")
    loop.call_later(0.05, lambda: bus.order("begin late.service"))
    systemd.enqueue_job(JobVerb.START, "late.service")
    assert scans == [("late_2eservice", 2, True)]
    assert [one.job for one in systemd.unit("late.service").job_requests] == [2]


def test_another_job_that_is_older_than_the_requested_one_is_ignored(
    systemd: SystemdManager, bus: PrivateBus, loop: Loop, scans: list[tuple[str, int, bool]]
) -> None:
    """It is announced during the request, which replaces it. A later job counts."""
    systemd.unit("late.service")
    systemd.enqueue_job(JobVerb.START, "late.service")  # The unit is known now, so the next request is a single call.
    bus.order("begin late.service")
    loop.call_later(0.05, lambda: bus.order("begin late.service"))
    assert systemd.enqueue_job(JobVerb.START, "late.service").number == 3
    assert scans == [("late_2eservice", 4, True)]
    assert [one.job for one in systemd.unit("late.service").job_requests] == [4]


def test_a_job_of_this_program_clears_the_requests_before_it(
    systemd: SystemdManager, bus: PrivateBus, loop: Loop, scans: list[tuple[str, int, bool]]
) -> None:
    systemd.unit("web.service")
    bus.order("begin web.service")
    bus.order("changed web.service 1")
    wait(loop)
    systemd.enqueue_job(JobVerb.START, "web.service")
    assert systemd.unit("web.service").job_requests == ()
    assert len(scans) == 1


def test_recent_properties_do_not_hide_another_job(
    systemd: SystemdManager, bus: PrivateBus, loop: Loop, scans: list[tuple[str, int, bool]]
) -> None:
    systemd.unit("web.service")
    bus.order("begin web.service")
    assert loop.run_until(lambda: bool(scans), PATIENCE)
    assert [one.job for one in systemd.unit("web.service", max_age=60).job_requests] == [1]
