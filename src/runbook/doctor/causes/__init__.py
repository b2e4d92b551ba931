"""Why a unit came into its state: one function for each cause, which yields it only if its evidence is there.

port_holders.py  another process has a port of the unit
leftovers.py     processes of an earlier invocation are left in its cgroup
starting.py      a start cannot complete, or is not carried out
restarts.py      it is started again and again, or not any more
running.py       what runs is frozen, or does not fit its file, its program or its settings
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from runbook.doctor.causes import leftovers, port_holders, restarts, running, starting
from runbook.doctor.facts import UnitFacts
from runbook.doctor.findings import Cause

CAUSES: tuple[Callable[[UnitFacts], Iterator[Cause]], ...] = (
    port_holders.find_orphans,
    port_holders.find_sessions,
    port_holders.find_two_managers,
    port_holders.find_other_owners,
    leftovers.find_leftovers,
    starting.find_not_executed,
    starting.find_missing_environment,
    starting.find_failed_requirement,
    starting.find_unmet_condition,
    starting.find_mask,
    starting.find_not_notified,
    starting.find_no_fork,
    starting.find_daemonized,
    restarts.find_watchdog,
    restarts.find_requested_stop,
    restarts.find_quiet_failure,
    restarts.find_endless_loop,
    restarts.find_start_limit,
    restarts.find_other_starters,
    running.find_standstill,
    running.find_changed_file,
    running.find_old_code,
    running.find_unused_ports,
    running.find_taken_ports,
)
"""In the order in which they are reported: what holds the port before what follows from that."""


def find_causes(facts: UnitFacts) -> tuple[Cause, ...]:
    """Return all causes of which there is evidence."""
    return tuple(cause for find in CAUSES for cause in find(facts))
