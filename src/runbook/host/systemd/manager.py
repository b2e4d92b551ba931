"""systemd's manager over D-Bus: units, jobs, and its own properties.

Nothing here waits for a job: the result of each JobRemoved is kept until it is read.
"""

from __future__ import annotations

import contextlib
import re
import signal
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

from runbook.errors import BusLost, BusTimeout, HostError, NoSuchUnit
from runbook.host.facts import ActiveState, JobRef, JobResult, JobVerb, Unit, job_number, job_path, unit_path
from runbook.host.kernel import processes
from runbook.host.loop import Loop
from runbook.host.requesters import JobRequest
from runbook.host.systemd.addresses import ManagerScope, find_endpoints, make_unavailable
from runbook.host.systemd.bus import CALL_TIMEOUT, PROPERTIES, RECONNECT_INTERVAL, Bus
from runbook.host.systemd.properties import make_unit
from runbook.host.systemd.requester_scan import RequesterScan, UnitNames
from runbook.model import Deadline

SERVICE = "org.freedesktop.systemd1"
MANAGER_PATH = "/org/freedesktop/systemd1"
MANAGER = "org.freedesktop.systemd1.Manager"
UNIT = "org.freedesktop.systemd1.Unit"
JOB = "org.freedesktop.systemd1.Job"

RELOAD_TIMEOUT = 90.0  # seconds for daemon-reload: its answer comes after the generators, which may take as long
JOB_QUIET_SECONDS = 1.0  # seconds without a signal about a job after which systemd is asked whether it still exists
MANAGER_WAIT = 3.0  # seconds that systemd may take to appear on a bus that is there
RESTART_PROPAGATES_STOP = 253  # the first version in which a restart stops the units of PropagatesStopTo=
MAIN_PIDS_TIMEOUT = 3.0  # seconds for the main processes of all services; 200 services take a tenth of a second
MAX_JOB_RESULTS = 1000  # how many results of jobs are kept

LIVE_STATES = tuple(state for state in ActiveState if state is not ActiveState.INACTIVE)

_NO_SUCH_JOB = ("org.freedesktop.systemd1.NoSuchJob", "org.freedesktop.DBus.Error.UnknownObject")
_ALREADY_SUBSCRIBED = "org.freedesktop.systemd1.AlreadySubscribed"


class SystemdManager:
    """The manager of one scope. Raises BusUnavailable if there is none."""

    def __init__(self, scope: ManagerScope, loop: Loop) -> None:
        self.scope = scope
        self._loop = loop
        self._paths: dict[str, str] = {}  # the path of a unit's object, by any name of the unit
        self._names: dict[str, set[str]] = {}  # the names under which each watched unit was read, by its path
        self._units: dict[str, tuple[float, Unit]] = {}  # the last read of a unit and its time, by the unit's path
        self._results: dict[str, tuple[str, JobResult]] = {}  # the unit and the result of a job, by the job's path
        self._last_heard: dict[str, float] = {}  # when a job was last announced or asked for, by the job's path
        self._referenced: set[str] = set()  # the units that stay loaded for this program
        self._own: set[str] = set()  # the paths of the jobs that this program requested
        self._ended: dict[str, set[str]] = {}  # the paths of the jobs that ended, by the unit's path
        self._requesters = RequesterScan(processes, of_user=scope == "user")
        self._unit_names: dict[str, UnitNames] = {}  # by the unit's path
        self._enqueuing = False  # True while this program requests a job
        self._new_jobs: list[tuple[str, str]] = []  # the paths of units and jobs whose requester is still to be found
        try:
            self.bus = Bus(loop, find_endpoints(scope), SERVICE, renewed=self._subscribe_again)
        except BusLost as error:
            raise make_unavailable(scope, error.message) from None
        try:
            self.bus.subscribe(MANAGER_PATH, MANAGER, "JobNew", self._job_new)
            self.bus.subscribe(MANAGER_PATH, MANAGER, "JobRemoved", self._job_removed)
            self.bus.subscribe(MANAGER_PATH, MANAGER, "Reloading", self._reloading)
            self._subscribe_first()
        except BaseException:
            self.bus.close()
            raise

    def close(self) -> None:
        """Close the connection; references to units end with it."""
        self.bus.close()

    # Units

    def unit(self, name: str, *, max_age: float = 0.0) -> Unit:
        """Read a unit, by its own name or an alias. A unit that does not exist has LoadState=not-found.

        See `HostView.unit` for `max_age`. Raises HostError for a name that no unit can have.
        """
        path = self.watch(name)
        at, known = self._units.get(path, (0.0, None))
        now = self._loop.clock.monotonic()
        if known is not None and max_age and now - at <= max_age:
            return known
        properties = self.bus.properties(path, what=f"read {name}")
        # Changes that were announced before this answer are in it: the bus keeps the order.
        self._loop.discard(self._names[path])
        # Automatic restarts are among these: systemd requests them.
        other_jobs = len(self._ended.get(path, set()) - self._own)
        unit = replace(make_unit(properties), of_user=self.scope == "user", other_jobs=other_jobs)
        if unit.propagates_stop_to and self.version >= RESTART_PROPAGATES_STOP:
            unit = replace(unit, stopped_by_restart=unit.propagates_stop_to)
        job_type = self._job_type(unit.job) if unit.job else ""
        unit = replace(unit, job_type=job_type, job_requests=self._find_requests(path, unit))
        self._units[path] = now, unit
        return unit

    def watch(self, name: str) -> str:
        """Subscribe to the changes of a unit, as a read of it does; return the path of its object."""
        if _require_name(name) not in self._paths:
            path: str = self.call_manager("LoadUnit", "(s)", name, what=f"read {name}", repeat_if_lost=True).unpack()[0]
            self._paths[name] = path
            if path not in self._names:
                self.bus.subscribe(path, PROPERTIES, "PropertiesChanged", self._changed)
            self._names.setdefault(path, set()).add(name)
        return self._paths[name]

    def read_loaded_state(self, name: str) -> ActiveState | None:
        """Return the state of a unit that is loaded; None for one that is not. Loads nothing."""
        what = f"read {name}"
        try:
            self.call_manager("GetUnit", "(s)", name, what=what, repeat_if_lost=True)
        except NoSuchUnit:
            return None
        return ActiveState(self.bus.read(unit_path(name), UNIT, "ActiveState", what=what))

    def list_unit_files(self) -> list[str]:
        """List the names of all installed unit files.

        From the folders of systemd's search path: ListUnitFiles, which also finds the state of each, takes a second.
        """
        names = set[str]()
        for folder in self.bus.read(MANAGER_PATH, MANAGER, "UnitPath", what="read the folders of the unit files"):
            with contextlib.suppress(OSError):
                names.update(path.name for path in Path(folder).iterdir())
        return sorted(names)

    def list_open_sockets(self) -> list[str]:
        """List the names of the socket units that are up."""
        return self._list_units("*.socket", ActiveState.ACTIVE)

    def list_services(self) -> list[str]:
        """List the names of the services that are not inactive."""
        return self._list_units("*.service", *LIVE_STATES)

    def _list_units(self, pattern: str, *states: ActiveState, timeout: float = CALL_TIMEOUT) -> list[str]:
        options: dict[str, Any] = {"what": f"list the units {pattern}", "timeout": timeout, "repeat_if_lost": True}
        wanted = ([str(state) for state in states], [pattern])
        (found,) = self.call_manager("ListUnitsByPatterns", "(asas)", *wanted, **options)
        return [unit[0] for unit in found]

    def list_main_pids(self) -> dict[int, str] | None:
        """List the main processes of all services that are up, by PID; None if systemd does not report all in time."""
        deadline, pids = Deadline.after(self._loop.clock, MAIN_PIDS_TIMEOUT), dict[int, str]()
        try:
            for name in self._list_units("*.service", *LIVE_STATES, timeout=deadline.remaining):
                if deadline.expired:
                    return None
                with contextlib.suppress(NoSuchUnit):
                    options: dict[str, Any] = {"what": f"read {name}", "timeout": deadline.remaining}
                    pids[self.bus.read(unit_path(name), f"{SERVICE}.Service", "MainPID", **options)] = name
        except HostError:
            return None
        return pids

    def find_unit_of_invocation(self, invocation: str) -> Unit | None:
        """Return the unit whose current invocation this is; None if it is over, or another manager's."""
        what = f"find invocation {invocation}"
        try:
            path = self.call_manager(
                "GetUnitByInvocationID", "(ay)", bytes.fromhex(invocation), what=what, repeat_if_lost=True
            )
        except HostError as error:
            if isinstance(error, BusLost | BusTimeout):
                raise
            return None
        return make_unit(self.bus.properties(path.unpack()[0], what=what))

    @cached_property
    def version(self) -> int:
        """The version of systemd, without what a distribution adds to it; 0 if it has no number."""
        found = re.search(r"\d+", self.bus.read(MANAGER_PATH, MANAGER, "Version", what="read systemd's version"))
        return int(found[0]) if found else 0

    def manager_environment(self) -> dict[str, str]:
        """Return the environment with which the manager starts commands; PATH is in it."""
        words = self.bus.read(MANAGER_PATH, MANAGER, "Environment", what="read the manager's environment")
        return dict(word.split("=", 1) for word in words)

    def daemon_reload(self) -> None:
        """Make systemd read its unit files again; the answer comes when that is done."""
        self.call_manager("Reload", what="reload systemd's unit files", timeout=RELOAD_TIMEOUT)
        # An alias may name another unit now.
        self._paths.clear()

    def reset_failed(self, name: str) -> None:
        """Clear the failed state and the start-limit counter. A unit that is not loaded has neither."""
        with contextlib.suppress(NoSuchUnit):
            self.call_manager("ResetFailedUnit", "(s)", name, what=f"reset the failed state of {name}")

    def kill_cgroup(self, name: str) -> None:
        """Send SIGKILL to every process in a unit's cgroup at once (cgroup.kill), so that no fork escapes it."""
        self.call_manager("KillUnit", "(ssi)", name, "all", int(signal.SIGKILL), what=f"kill the processes of {name}")

    # Jobs

    def enqueue_job(self, verb: JobVerb, name: str) -> JobRef:
        """Request a job in mode `replace`. Its result is recorded even if it comes before the answer."""
        what = f"{verb} {_require_name(name)}"
        self._ref(name)
        self._enqueuing = True
        try:
            answer = self.call_manager(
                f"{verb.capitalize()}Unit", "(ss)", name, "replace", what=what, await_answer=True
            )
            self._requesters.forget(self._paths.get(name, unit_path(name)))
            job = self.make_job_ref(answer, name, verb)
            self._new_jobs = [one for one in self._new_jobs if not self._is_older(one, job)]
            return job
        finally:
            self._enqueuing = False
            self._scan_new_jobs()

    def make_job_ref(self, answer: Any, name: str, verb: str, output: str = "") -> JobRef:
        """Make the reference of a job that a method's answer names."""
        path = answer.unpack()[0]
        self._last_heard[path] = self._loop.clock.monotonic()
        self._own.add(path)
        if output:
            self.mark_own_unit(name)
        return JobRef(path, name, verb, output)

    def mark_own_unit(self, name: str) -> None:
        """Mark a unit in which a command of this run is running: what the command requests is the run's own doing."""
        self._requesters.own_units.add(name)

    def has_job_ended(self, ref: JobRef) -> bool:
        """True if the end of a job was announced."""
        return ref.path in self._results

    def job(self, ref: JobRef) -> JobResult | None:
        """Return how a job ended, or None while it is queued or running.

        Its end is announced once. If there was no signal about it for a while, or the connection was replaced since it
        began, systemd is asked whether the job still exists.
        """
        if ref.path in self._results:
            name, result = self._results[ref.path]
            return result if self._is_of(ref, name) else JobResult.GONE
        now = self._loop.clock.monotonic()
        if now - self._last_heard.get(ref.path, 0.0) < JOB_QUIET_SECONDS:
            return None
        self._last_heard[ref.path] = now
        if not self._has_job(ref):
            # A JobRemoved would have come before this answer: the job ended while no connection was there.
            return self._results.setdefault(ref.path, (ref.unit, JobResult.GONE))[1]
        return None

    def cancel_job(self, ref: JobRef) -> None:
        """Cancel a job; do nothing if it has ended."""
        with self._unless_gone():
            self.call_manager("CancelJob", "(u)", ref.number, what=f"cancel the {ref.verb} of {ref.unit}")

    def _job_type(self, number: int) -> str:
        """Return what a job does: "restart" until its first half is over, then "start". Empty if it has ended."""
        with self._unless_gone():
            return str(self.bus.read(job_path(number), JOB, "JobType", what=f"read job {number}"))
        return ""

    def _find_requests(self, path: str, unit: Unit) -> tuple[JobRequest, ...]:
        """Return the jobs that this program did not request; a job whose beginning was missed is looked into once."""
        names = frozenset((unit.name, *unit.names, *self._names[path]))
        self._unit_names[path] = UnitNames(names, frozenset(unit.propagated_from))
        if unit.job:
            self._scan_requester(path, job_path(unit.job), began=False)
        return self._requesters.requests(path)

    def _scan_requester(self, unit: str, job: str, *, began: bool) -> None:
        number = job_number(job)
        if job not in self._own and not self._requesters.has_scanned(unit, number):
            names = self._unit_names.get(unit) or UnitNames(frozenset(self._names[unit]))
            self._requesters.scan(unit, number, names, began=began)

    def _scan_new_jobs(self) -> None:
        """Find the requesters of jobs that began while this program requested one itself."""
        while self._new_jobs:
            self._scan_requester(*self._new_jobs.pop(0), began=True)

    def _is_older(self, announced: tuple[str, str], own: JobRef) -> bool:
        """True if a job of a unit began before the one that this program requested, which replaced it."""
        unit, job = announced
        return unit == self._paths.get(own.unit, unit_path(own.unit)) and job_number(job) < own.number

    def _has_job(self, ref: JobRef) -> bool:
        with self._unless_gone():
            what = f"find the job of {ref.unit}"
            self.call_manager("GetJob", "(u)", ref.number, what=what, repeat_if_lost=True)
            return self._is_of(ref, self.bus.read(ref.path, JOB, "Unit", what=what)[0])
        return False

    def _is_of(self, ref: JobRef, name: str) -> bool:
        """True if a job of this unit can be the one: its number may be of an earlier boot, and reused."""
        return name == ref.unit or self.watch(ref.unit) == unit_path(name)

    @contextlib.contextmanager
    def _unless_gone(self) -> Iterator[None]:
        try:
            yield
        except HostError as error:
            if error.dbus_error not in _NO_SUCH_JOB:
                raise

    # How it is done

    def call_manager(self, method: str, signature: str = "", *values: Any, **options: Any) -> Any:
        """Call a method of the manager; see `Bus.call` for the options."""
        arguments = (signature, values) if signature else None
        return self.bus.call(MANAGER_PATH, MANAGER, method, arguments, **options)

    def _ref(self, name: str) -> None:
        """Keep a unit loaded as long as this program runs.

        A unit that a Condition skips is unloaded at once, and its ConditionResult is lost (252).
        """
        if name not in self._referenced:
            with contextlib.suppress(HostError):  # Without permission the request of the job reports that.
                self.call_manager("RefUnit", "(s)", name, what=f"keep {name} loaded")
                self._referenced.add(name)

    def _subscribe_first(self) -> None:
        """Subscribe for the first time.

        A bus that starts with its first client, as a user's does, is there a moment before the manager.
        """
        deadline = Deadline.after(self._loop.clock, MANAGER_WAIT)
        while True:
            try:
                return self._subscribe()
            except BusTimeout:
                raise make_unavailable(self.scope, "it does not answer") from None
            except BusLost:
                if deadline.expired:
                    raise make_unavailable(self.scope, "no systemd is on the bus") from None
                self._loop.run_until(lambda: False, RECONNECT_INTERVAL)

    def _subscribe(self) -> None:
        try:
            self.call_manager("Subscribe", what="subscribe to systemd's signals")
        except HostError as error:
            if error.dbus_error != _ALREADY_SUBSCRIBED:
                raise

    def _subscribe_again(self) -> None:
        """Subscribe on a new connection: signals in between are lost, and so are references."""
        self._last_heard.clear()
        self._referenced.clear()
        self._units.clear()
        self._subscribe()

    def _changed(self, path: str, _arguments: Any) -> None:
        self._units.pop(path, None)
        self._loop.notify(self._names[path])

    def _reloading(self, _path: str, _arguments: Any) -> None:
        self._paths.clear()
        self._units.clear()
        self._loop.notify()

    def _job_new(self, _path: str, arguments: Any) -> None:
        _id, job, name = arguments.unpack()
        unit = unit_path(name)
        if unit not in self._names:
            # A command of this run may act on units that the runbook does not name. A rollback asks who did.
            if not self._requesters.own_units or name in self._requesters.own_units:
                return
            self._unit_names.setdefault(unit, UnitNames(frozenset({name})))
        self._units.pop(unit, None)
        # Now, because the requester may exit in a few milliseconds. But while this program requests a job itself, only
        # the answer shows which job is its own.
        self._new_jobs.append((unit, job))
        if not self._enqueuing:
            self._scan_new_jobs()

    def _job_removed(self, _path: str, arguments: Any) -> None:
        _id, path, name, result = arguments.unpack()
        self._results[path] = (name, JobResult(result))
        if (unit := unit_path(name)) in self._names:
            self._ended.setdefault(unit, set()).add(path)
        # The signal comes for every job of the manager, and only the answer shows which one is this program's.
        while len(self._results) > MAX_JOB_RESULTS:
            del self._results[next(iter(self._results))]
        # Not under the unit's name: a read of the unit in between would discard the topic, and does not show the job.
        self._loop.notify()


def _require_name(name: str) -> str:
    # For systemd the empty name means the unit of the caller.
    if not name:
        raise HostError("cannot act on a unit without a name")
    return name
