"""A socket that is in the queue of another: real sockets of this process."""

from __future__ import annotations

import os
import socket

import pytest

from runbook.host.kernel import in_flight
from runbook.host.kernel.in_flight import has_sockets_in_flight


def test_a_socket_that_is_in_the_queue_of_another(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runbook.host.kernel.processes.list_pids", lambda: [os.getpid(), 2**22])
    monkeypatch.setattr(in_flight, "_is_of_login_user", lambda pid: False)
    one, other = socket.socketpair(socket.AF_UNIX, socket.SOCK_DGRAM)
    with one, other:
        assert not has_sockets_in_flight()
        with socket.socket() as passed:
            socket.send_fds(one, [b"x"], [passed.fileno()])
        assert has_sockets_in_flight()


def test_what_cannot_be_found_out_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("runbook.host.kernel.processes.list_pids", lambda: [os.getpid()])
    monkeypatch.setattr(in_flight, "IN_FLIGHT_TIMEOUT", 0.0)
    monkeypatch.setattr(in_flight, "_is_of_login_user", lambda pid: False)
    assert has_sockets_in_flight()
    # The queues of a login user's processes are not read.
    monkeypatch.setattr(in_flight, "_is_of_login_user", lambda pid: True)
    assert not has_sockets_in_flight()
