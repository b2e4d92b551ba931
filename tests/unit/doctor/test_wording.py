"""What systemd and the kernel report, in words."""

from __future__ import annotations

from runbook.doctor.wording import format_moment
from tests.unit.doctor.diagnosed import diagnose, incident
from tests.unit.fake_machine import EARLIER, INVOCATION, listen, process


def test_a_moment() -> None:
    now = 1_700_000_000.0
    assert format_moment(now - 63, now).endswith("(1min 3s ago)")
    assert format_moment(now - 86400 * 3, now)[:2] == "20"


def test_several_holders_of_a_port() -> None:
    machine = incident(n_restarts=1)
    for pid in (80, 81, 82):
        machine.processes[pid] = process(pid, invocation_id=EARLIER, started=100.0)
        listen(machine, pid, "127.0.0.1:18789")
    machine.processes[100] = process(100, invocation_id=INVOCATION)
    (line,) = diagnose(machine).kernel
    assert line.startswith("port 18789 (127.0.0.1")
    assert ", in gw.service, left over from an earlier invocation" in line
    assert line.endswith("; and 1 more")
