"""The connection to the bus, when its other end is slow, sends errors, or is gone."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook import errors
from runbook.host.facts import JobVerb, unit_path
from runbook.host.loop import Loop
from runbook.host.systemd import bus as bus_module
from runbook.host.systemd import manager as systemd_module
from runbook.host.systemd.manager import SystemdManager
from runbook.model import Deadline

from .private_bus import PATIENCE, PROMPT, PrivateBus


@pytest.fixture
def short(monkeypatch: pytest.MonkeyPatch) -> float:
    """Shorten the default time-out of connections and calls, and return it."""
    monkeypatch.setattr(bus_module, "CALL_TIMEOUT", 0.5)
    return 0.5


def restart(systemd: SystemdManager, unit: str, timeout: float = 5) -> None:
    systemd.call_manager("RestartUnit", "(ss)", unit, "replace", what=f"restart {unit}", timeout=timeout)


def test_a_call_that_is_not_answered_ends_at_its_time_out(systemd: SystemdManager) -> None:
    began = time.monotonic()
    with pytest.raises(errors.BusTimeout) as caught:
        restart(systemd, "hang.service", timeout=0.2)
    assert 0.2 <= time.monotonic() - began < PROMPT
    assert caught.value.message == "cannot restart hang.service: it did not answer in time"


def test_the_connection_is_usable_after_a_time_out(systemd: SystemdManager) -> None:
    with pytest.raises(errors.BusTimeout):
        restart(systemd, "hang.service", timeout=0.05)
    assert systemd.unit("web.service").active_state == "active"


@pytest.mark.parametrize(
    ("unit", "kind"),
    [
        ("denied.service", errors.AccessDenied),
        # The error that a user without privileges gets if polkit or its agent does not run.
        ("ask.service", errors.AccessDenied),
        ("absent.service", errors.NoSuchUnit),
        ("masked.service", errors.UnitMasked),
        ("busy.service", errors.BusTimeout),
        ("manual.service", errors.HostError),
    ],
)
def test_each_dbus_error_has_its_own_exception(
    systemd: SystemdManager, unit: str, kind: type[errors.HostError]
) -> None:
    with pytest.raises(errors.HostError) as caught:
        restart(systemd, unit)
    assert type(caught.value) is kind
    assert caught.value.dbus_error
    if kind is not errors.BusTimeout:
        # The message is that of systemd, in any language, without the prefix that GLib adds.
        assert caught.value.message == f"cannot restart {unit}: Ça ne va pas."


def test_a_text_that_dbus_cannot_carry_is_an_error_with_a_message(systemd: SystemdManager) -> None:
    with pytest.raises(errors.HostError, match="cannot restart it: "):
        systemd.call_manager("RestartUnit", "(ss)", "not utf-8: \udcff", "replace", what="restart it")


def test_a_dbus_daemon_that_does_not_answer_is_unavailable(bus: PrivateBus, loop: Loop, short: float) -> None:
    os.kill(bus.daemon, signal.SIGSTOP)
    began = time.monotonic()
    with pytest.raises(errors.BusUnavailable, match="does not answer"):
        SystemdManager("system", loop)
    assert time.monotonic() - began < short + 1


def test_a_missing_bus_is_unavailable(loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus")
    with pytest.raises(errors.BusUnavailable) as caught:
        SystemdManager("system", loop)
    assert "there is no bus at /nowhere/bus" in caught.value.message
    assert caught.value.hint
    assert caught.value.exit_status == errors.EXIT_NOT_BEGUN


def test_a_bus_that_starts_before_systemd_is_waited_for(bus: PrivateBus, loop: Loop) -> None:
    """A user's bus starts with its first client, and the user's manager connects to it later."""
    bus.order("leave")
    loop.call_later(0.2, lambda: bus.order("return"))
    systemd = SystemdManager("system", loop)
    assert systemd.unit("web.service").active_state == "active"
    systemd.close()


def test_a_bus_without_systemd_is_unavailable(bus: PrivateBus, loop: Loop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(systemd_module, "MANAGER_WAIT", 0.2)
    bus.kill_systemd()
    with pytest.raises(errors.BusUnavailable, match="no systemd is on the bus"):
        SystemdManager("system", loop)


def test_a_bus_that_exits_during_a_call_raises(
    systemd: SystemdManager, bus: PrivateBus, loop: Loop, short: float
) -> None:
    """GLib's shared connections would kill the program with SIGTERM; a private connection raises."""
    loop.call_later(0.1, bus.kill_daemon)
    with pytest.raises(errors.BusLost) as caught:
        restart(systemd, "hang.service")
    assert caught.value.message == "cannot restart hang.service: the connection broke"
    # The bus does not come back, so a call that only reads gives up at its time-out, too.
    with pytest.raises(errors.BusLost, match=r"cannot read web\.service: nothing answers at"):
        systemd.call_manager(
            "GetUnit", "(s)", "web.service", what="read web.service", repeat_if_lost=True, timeout=short
        )


def test_a_call_that_changes_something_is_not_repeated(systemd: SystemdManager, bus: PrivateBus) -> None:
    """If systemd leaves the bus before it answers, as when it re-executes, the call may have taken effect."""
    with pytest.raises(errors.BusLost):
        restart(systemd, "vanish.service")
    bus.kill_systemd()
    assert bus.calls.count("RestartUnit vanish.service replace") == 1


def test_a_call_that_only_reads_is_repeated_when_systemd_is_back(
    systemd: SystemdManager, bus: PrivateBus, loop: Loop
) -> None:
    bus.order("leave")
    with pytest.raises(errors.BusLost):
        restart(systemd, "quick.service")
    loop.call_later(0.2, lambda: bus.order("return"))
    assert systemd.unit("web.service").active_state == "active"


def read_all(systemd: SystemdManager, *names: str) -> list[str]:
    deadline = Deadline.after(systemd.bus._loop.clock, PATIENCE)
    found = systemd.bus.list_properties(map(unit_path, names), what="read the units", deadline=deadline)
    return [one.get("Id") for one in found]


def test_many_objects_are_read_in_their_order(systemd: SystemdManager) -> None:
    names = ["web.service", "quick.service", "hang.service"] * bus_module.MAX_AT_ONCE
    assert read_all(systemd, *names) == names


def test_many_objects_are_read_when_systemd_is_back(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    bus.order("leave")
    loop.call_later(0.2, lambda: bus.order("return"))
    assert read_all(systemd, "web.service", "quick.service") == ["web.service", "quick.service"]


def test_a_call_of_many_that_is_not_answered_ends_at_the_deadline(systemd: SystemdManager, bus: PrivateBus) -> None:
    os.kill(bus.daemon, signal.SIGSTOP)
    deadline = Deadline.after(systemd.bus._loop.clock, 0.2)
    with pytest.raises(errors.BusTimeout, match="cannot read the units: it did not answer in time"):
        list(systemd.bus.list_properties([unit_path("web.service")] * 2, what="read the units", deadline=deadline))
    os.kill(bus.daemon, signal.SIGCONT)


def test_a_restart_of_the_bus_leads_to_a_new_connection(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    assert systemd.unit("web.service").n_restarts == 0
    _restart_bus(bus)
    assert systemd.unit("web.service").active_state == "active"
    assert bus.calls.count("Subscribe") == 2
    # Signals arrive as before.
    bus.order("changed web.service 1")
    assert loop.run_until(lambda: "web.service" in loop._news, PATIENCE)
    assert systemd.unit("web.service").n_restarts == 1


def test_a_new_call_is_sent_on_the_new_connection(systemd: SystemdManager, bus: PrivateBus, loop: Loop) -> None:
    _restart_bus(bus)
    # The program knows that the connection is closed, and no call is in flight whose outcome would be unknown.
    assert loop.run_until(systemd.bus._connection.is_closed, PATIENCE)
    assert systemd.enqueue_job(JobVerb.RESTART, "web.service").path
    assert bus.calls.count("RestartUnit web.service replace") == 1


def _restart_bus(bus: PrivateBus) -> None:
    bus.kill_daemon()
    bus.kill_systemd()
    bus.start_daemon()
    bus.start_systemd()


PROGRAM = """
import sys
from runbook.errors import Interrupted
from runbook.host.systemd.transient import TransientCommands
from runbook.host.facts import JobVerb
from runbook.host.loop import Loop
from runbook.host.systemd.manager import SystemdManager
from runbook.host.queries import Command
from runbook.model import Deadline, Wake

loop = Loop(look=lambda port: frozenset(), pidfd=lambda process: None)
try:
    systemd = SystemdManager("system", loop)
    print("there", flush=True)
    {body}
except Interrupted as error:
    print("interrupted", error.signum, flush=True)
"""

CALL = 'systemd.enqueue_job(JobVerb.RESTART, "hang.service")'
WAIT = 'print("waiting", flush=True); loop.wait(Wake(within=60), Deadline.after(loop.clock, 60))'
BEGIN = 'print(systemd.enqueue_job(JobVerb.RESTART, "late.service").path); systemd.unit("web.service")'

COMMAND = 'TransientCommands(systemd, loop).start("hang", Command(("true",), output="/tmp/hang.out"))'


@pytest.fixture
def program(bus: PrivateBus) -> Iterator[list[subprocess.Popen[str]]]:
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        process.kill()
        process.communicate()


def start(program: list[subprocess.Popen[str]], body: str) -> subprocess.Popen[str]:
    argv = [sys.executable, "-c", PROGRAM.format(body=body)]
    process = subprocess.Popen(argv, stdout=subprocess.PIPE, text=True)
    program.append(process)
    return process


def output_after(process: subprocess.Popen[str], signum: signal.Signals) -> tuple[str, float]:
    began = time.monotonic()
    process.send_signal(signum)
    output = process.communicate(timeout=PATIENCE)[0]
    return output, time.monotonic() - began


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_ends_a_call_that_hangs(
    bus: PrivateBus, program: list[subprocess.Popen[str]], signum: signal.Signals
) -> None:
    process = start(program, CALL)
    bus.wait_for("RestartUnit hang.service replace")
    output, seconds = output_after(process, signum)
    assert output == f"there\ninterrupted {signum.value}\n"
    assert seconds < PROMPT


def test_a_signal_ends_a_wait(bus: PrivateBus, program: list[subprocess.Popen[str]]) -> None:
    process = start(program, WAIT)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["there\n", "waiting\n"]
    output, seconds = output_after(process, signal.SIGTERM)
    assert output == "interrupted 15\n"
    assert seconds < PROMPT


def test_a_signal_ends_a_connection_that_hangs(bus: PrivateBus, program: list[subprocess.Popen[str]]) -> None:
    os.kill(bus.daemon, signal.SIGSTOP)
    process = start(program, 'print("no")')
    # As soon as its socket exists, it hangs in the authentication.
    deadline = time.monotonic() + PATIENCE
    while not _has_socket(process.pid):
        assert time.monotonic() < deadline
    output, seconds = output_after(process, signal.SIGTERM)
    assert output == "interrupted 15\n"
    assert seconds < PROMPT


def test_a_signal_during_a_request_waits_for_the_answer(bus: PrivateBus, program: list[subprocess.Popen[str]]) -> None:
    """The answer is waited for briefly, as without it the job could not be stopped."""
    process = start(program, BEGIN)
    bus.wait_for("RestartUnit late.service replace")
    output, seconds = output_after(process, signal.SIGTERM)
    assert output == "there\n/org/freedesktop/systemd1/job/1\ninterrupted 15\n"
    assert seconds < PROMPT


def test_a_signal_stops_a_command_that_may_have_begun(bus: PrivateBus, program: list[subprocess.Popen[str]]) -> None:
    """systemd does not answer the start in time. It handles the stop after the start, so the stop takes effect."""
    process = start(program, COMMAND)
    bus.wait_for("StartTransientUnit runbook-hang.service fail")
    output, seconds = output_after(process, signal.SIGTERM)
    assert output == "there\ninterrupted 15\n"
    assert seconds < PROMPT
    bus.wait_for("StopUnit runbook-hang.service replace")


def test_a_lost_terminal_does_not_end_the_program(bus: PrivateBus, program: list[subprocess.Popen[str]]) -> None:
    process = start(program, WAIT)
    assert process.stdout is not None
    assert [process.stdout.readline() for _ in range(2)] == ["there\n", "waiting\n"]
    process.send_signal(signal.SIGHUP)
    output, _ = output_after(process, signal.SIGTERM)
    assert output == "interrupted 15\n"


def _has_socket(pid: int) -> bool:
    # Two sockets are the pair with which the loop wakes itself.
    return sum(fd.is_socket() for fd in Path(f"/proc/{pid}/fd").iterdir()) > 2
