"""What separates the two interfaces to the machine: `Host` writes, `HostView` does not."""

from __future__ import annotations

import pytest

from runbook.host.interface import Host, HostView, Waiter
from tests.unit.fake_machine import FakeMachine

WRITING = {
    "cancel_job",
    "daemon_reload",
    "enqueue_job",
    "kill_cgroup",
    "reset_failed",
    "signal_process",
    "start_command",
    "start_scope",
    "stop_command",
}


def names(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


def test_a_host_adds_exactly_what_writes() -> None:
    """A new method that writes must be in the list here, too."""
    assert names(Host) - names(HostView) == WRITING


@pytest.mark.parametrize("kind", [Host, HostView, Waiter])
def test_the_stand_in_fulfils_all_of_them(kind: type) -> None:
    assert names(kind) <= names(type("Made", (FakeMachine,), {"clock": None}))


def test_a_view_is_no_host_for_the_type_checker() -> None:
    """mypy reports the comment as unused if the call is no error."""

    def write(host: Host) -> None: ...

    view: HostView = FakeMachine()
    write(view)  # type: ignore[arg-type]
