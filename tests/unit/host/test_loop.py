"""The one place where the program waits. Threads make the changes that it must notice by itself."""

from __future__ import annotations

import contextlib
import os
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Callable, Iterator

import pytest

from runbook.errors import HostError, Interrupted
from runbook.host.kernel import processes, signals
from runbook.host.kernel.sock_diag import SocketTable
from runbook.host.loop import ANY_TOPIC, INTERRUPTED_LOOK, SOCKET_POLL, Loop
from runbook.model import Deadline, Port, ProcessId, Wake

from .conftest import PATIENCE, PROMPT

PORT = Port(80)


class Sockets:
    """The sockets that a read of a port returns, for a test to change."""

    def __init__(self) -> None:
        self.now: frozenset[int] = frozenset()

    def look(self, _port: Port) -> frozenset[int]:
        return self.now


@pytest.fixture
def sockets() -> Sockets:
    return Sockets()


@pytest.fixture
def loop(sockets: Sockets) -> Iterator[Loop]:
    made = Loop(look=sockets.look, pidfd=signals.open_pidfd)
    yield made
    made.close()


@pytest.fixture
def child() -> Iterator[subprocess.Popen[bytes]]:
    with subprocess.Popen(["sleep", "60"]) as process:
        yield process
        process.kill()


def wait(loop: Loop, wake: Wake) -> float:
    """Wait, and return the seconds that it took."""
    began = time.monotonic()
    loop.wait(wake, Deadline.after(loop.clock, PATIENCE))
    return time.monotonic() - began


@contextlib.contextmanager
def soon(change: Callable[[], object]) -> Iterator[None]:
    """Change something in a thread during the wait. Nothing else wakes the loop."""
    timer = threading.Timer(0.05, change)
    timer.start()
    yield
    timer.join()


def test_it_ends_by_itself(loop: Loop) -> None:
    assert 0.05 <= wait(loop, Wake(within=0.05)) < PROMPT


def test_the_deadline_comes_first(loop: Loop) -> None:
    began = time.monotonic()
    loop.wait(Wake(within=60), Deadline.after(loop.clock, 0.05))
    assert 0.05 <= time.monotonic() - began < PROMPT


def test_no_time_is_left(loop: Loop) -> None:
    began = time.monotonic()
    loop.wait(Wake(within=60), Deadline.after(loop.clock, -1))
    assert time.monotonic() - began < PROMPT


def test_sockets_change_while_it_waits(loop: Loop, sockets: Sockets) -> None:
    with soon(lambda: setattr(sockets, "now", frozenset({7}))):
        assert wait(loop, Wake(ports=frozenset({PORT}), within=PATIENCE)) < PROMPT
        assert sockets.now


def test_sockets_changed_since_a_check_saw_them(loop: Loop, sockets: Sockets) -> None:
    """The change comes between the read by the check and the wait, so no read in the wait itself shows a change."""
    loop.record_sockets(PORT, frozenset())
    sockets.now = frozenset({7})
    assert wait(loop, Wake(ports=frozenset({PORT}), within=PATIENCE)) < PROMPT


def test_a_change_is_reported_once(loop: Loop, sockets: Sockets) -> None:
    loop.record_sockets(PORT, frozenset())
    sockets.now = frozenset({7})
    wait(loop, Wake(ports=frozenset({PORT}), within=PATIENCE))
    assert wait(loop, Wake(ports=frozenset({PORT}), within=0.05)) >= 0.05


def test_another_listener_with_the_same_number_of_sockets_is_a_change(loop: Loop, sockets: Sockets) -> None:
    sockets.now = frozenset({7})
    loop.record_sockets(PORT, sockets.now)
    sockets.now = frozenset({8})
    assert wait(loop, Wake(ports=frozenset({PORT}), within=PATIENCE)) < PROMPT


def test_real_sockets() -> None:
    with SocketTable() as table, socket.create_server(("127.0.0.1", 0), backlog=1) as first:
        port = Port(first.getsockname()[1])
        loop = Loop(look=table.list_inodes, pidfd=signals.open_pidfd)
        try:
            wake = Wake(ports=frozenset({port}), within=PATIENCE)
            loop.record_sockets(port, table.list_inodes(port))
            with soon(first.close):
                assert wait(loop, wake) < 1
                assert first.fileno() < 0
            second = socket.socket()
            second.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            second.bind(("127.0.0.1", port.number))
            with soon(second.listen):
                assert wait(loop, wake) < 1
                assert second.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN)
            second.close()
        finally:
            loop.close()


def test_a_process_ends_while_it_waits(loop: Loop, child: subprocess.Popen[bytes]) -> None:
    with soon(child.kill):
        assert wait(loop, Wake(processes=_ids(child), within=PATIENCE)) < PROMPT
        assert child.poll() == -signal.SIGKILL


def test_a_process_that_has_exited_is_reported_once(loop: Loop, child: subprocess.Popen[bytes]) -> None:
    """It exited between the check and the wait. A step that continues to name it must not loop without a pause."""
    ids = _ids(child)
    child.kill()
    child.wait()
    assert wait(loop, Wake(processes=ids, within=PATIENCE)) < PROMPT
    assert wait(loop, Wake(processes=ids, within=0.05)) >= 0.05


def test_a_process_that_has_the_pid_of_another(loop: Loop, child: subprocess.Popen[bytes]) -> None:
    assert wait(loop, Wake(processes=frozenset({ProcessId(child.pid, 1)}), within=PATIENCE)) < PROMPT


def test_a_process_that_cannot_be_watched(sockets: Sockets) -> None:
    def no_descriptor(_process: ProcessId) -> int | None:
        raise HostError("cannot watch it: too many open files")

    loop = Loop(look=sockets.look, pidfd=no_descriptor)
    try:
        assert wait(loop, Wake(processes=frozenset({ProcessId(1, 1)}), within=0.05)) >= 0.05
    finally:
        loop.close()


def test_news_from_another_thread(loop: Loop) -> None:
    told: list[bool] = []

    def tell() -> None:
        told.append(True)
        loop.notify()

    with soon(tell):
        assert wait(loop, Wake(within=PATIENCE)) < PROMPT
        assert told


def test_topics_are_kept_for_the_wait_that_names_them(loop: Loop) -> None:
    loop.notify({"web.service"})
    assert wait(loop, Wake(units=frozenset({"db.service"}), within=0.05)) >= 0.05
    assert wait(loop, Wake(units=frozenset({"web.service"}), within=PATIENCE)) < PROMPT
    assert wait(loop, Wake(units=frozenset({"web.service"}), within=0.05)) >= 0.05


def test_news_that_were_looked_at_are_none(loop: Loop) -> None:
    loop.notify({"web.service"})
    loop.discard({"web.service"})
    assert wait(loop, Wake(units=frozenset({"web.service"}), within=0.05)) >= 0.05


def test_what_has_come_in_meanwhile_counts(loop: Loop) -> None:
    """A source that is ready and not dispatched yet, as a bus signal that was not read yet."""
    loop.call_later(0, lambda: loop.notify({ANY_TOPIC}))
    time.sleep(2 * SOCKET_POLL)
    assert wait(loop, Wake(within=PATIENCE)) < PROMPT


@pytest.mark.parametrize("signum", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_that_another_thread_gets(loop: Loop, signum: signal.Signals) -> None:
    """The kernel may deliver it to any thread. That does not interrupt poll(2) in the thread that waits."""

    def take_it() -> None:
        time.sleep(0.05)
        signal.pthread_kill(threading.get_ident(), signum)

    thread = threading.Thread(target=take_it)
    thread.start()
    began = time.monotonic()
    with pytest.raises(Interrupted) as caught:
        wait(loop, Wake(within=PATIENCE))
    thread.join()
    assert time.monotonic() - began < PROMPT
    assert caught.value.exit_status == 128 + signum
    assert loop.interrupted == signum


def test_an_interruption_is_raised_once(loop: Loop) -> None:
    """Cleanup can then use the same calls."""
    os.kill(os.getpid(), signal.SIGTERM)
    os.kill(os.getpid(), signal.SIGINT)
    with pytest.raises(Interrupted, match="SIGTERM"):
        loop.raise_if_interrupted()
    assert wait(loop, Wake(within=0.01)) < 1


def test_a_signal_before_the_wait(loop: Loop) -> None:
    os.kill(os.getpid(), signal.SIGTERM)
    loop.notify()
    with pytest.raises(Interrupted):
        wait(loop, Wake(within=PATIENCE))


def test_a_signal_lets_what_was_begun_settle(loop: Loop) -> None:
    answers: list[str] = []
    loop.call_later(0.05, lambda: os.kill(os.getpid(), signal.SIGTERM))
    loop.call_later(0.1, lambda: answers.append("job 1"))
    assert loop.run_until(lambda: bool(answers), PATIENCE, await_answer=True)
    with pytest.raises(Interrupted):
        loop.raise_if_interrupted()


def test_but_not_for_long(loop: Loop) -> None:
    loop.call_later(0.05, lambda: os.kill(os.getpid(), signal.SIGTERM))
    began = time.monotonic()
    with pytest.raises(Interrupted):
        loop.run_until(lambda: False, PATIENCE, await_answer=True)
    assert 0.5 <= time.monotonic() - began < PROMPT


def test_the_signals_are_given_back(sockets: Sockets) -> None:
    numbers = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
    before = [signal.getsignal(number) for number in numbers]
    loop = Loop(look=sockets.look, pidfd=signals.open_pidfd)
    assert [signal.getsignal(number) for number in numbers] != before
    loop.close()
    assert [signal.getsignal(number) for number in numbers] == before
    assert signal.set_wakeup_fd(-1) == -1


def test_children_do_not_inherit_that_a_lost_terminal_is_ignored(loop: Loop) -> None:
    status = subprocess.run(["cat", "/proc/self/status"], capture_output=True, text=True, check=True).stdout
    [ignored] = [line.split()[1] for line in status.splitlines() if line.startswith("SigIgn:")]
    assert not int(ignored, 16) & 1 << signal.SIGHUP - 1


def _ids(child: subprocess.Popen[bytes]) -> frozenset[ProcessId]:
    identity = processes.read_id(child.pid)
    assert identity is not None
    return frozenset({identity})


def test_a_look_ends_with_an_interruption(loop: Loop) -> None:
    """Afterwards, the state is read for the final message, in the little time that is left."""
    limit = loop.limit_look()
    assert not limit.is_over
    os.kill(os.getpid(), signal.SIGTERM)
    assert limit.is_over
    with pytest.raises(Interrupted):
        loop.raise_if_interrupted()
    last = loop.limit_look()
    assert not last.is_over
    time.sleep(INTERRUPTED_LOOK)
    assert last.is_over
    assert loop.limit_look().is_over


def test_sockets_that_cannot_be_read_do_not_end_a_wait(
    loop: Loop, sockets: Sockets, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_port: Port) -> frozenset[int]:
        raise HostError("too many")

    monkeypatch.setattr(loop, "_look", refuse)
    assert 0.1 < wait(loop, Wake(ports=frozenset({PORT}), within=0.1)) < PROMPT
