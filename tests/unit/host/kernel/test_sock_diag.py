"""Real sockets of this machine on ports that the kernel picks, and recorded answers of the kernel.

A port that the kernel gave out for one address may be taken for another: where a test needs a port of both
families for itself, `free_port` finds one.
"""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from runbook.errors import HostError, LookLimitExceeded
from runbook.host.holders import Listener, SocketState
from runbook.host.kernel import sock_diag
from runbook.host.kernel.look_limit import LookLimit
from runbook.host.kernel.sock_diag import (
    ANY_PORT,
    SocketTable,
    list_netns_listeners,
    read_ephemeral_ports,
)
from runbook.model import Port

from .family import list_listeners

V4, V6 = socket.AF_INET, socket.AF_INET6
Open = Callable[..., socket.socket]


def inode(of: socket.socket) -> int:
    return os.fstat(of.fileno()).st_ino


def number(of: socket.socket) -> int:
    port = of.getsockname()[1]
    assert isinstance(port, int)
    return port


@pytest.fixture
def opened() -> Iterator[Open]:
    """Open sockets that listen (or, for UDP, are bound); they are closed at the end."""
    with contextlib.ExitStack() as stack:

        def open_socket(
            address: str,
            port: int = 0,
            *,
            udp: bool = False,
            v6only: bool = False,
            shared: bool = False,
            protocol: int = 0,
        ) -> socket.socket:
            family = V6 if ":" in address else V4
            new = stack.enter_context(socket.socket(family, socket.SOCK_DGRAM if udp else socket.SOCK_STREAM, protocol))
            if family == V6:
                new.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, v6only)
            if shared:
                new.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
            new.bind((address, port))
            if not udp:
                new.listen()
            return new

        yield open_socket


@pytest.fixture
def free_port() -> int:
    """A port that was free a moment ago, on any address."""
    with socket.socket(V6) as probe:
        probe.bind(("::", 0))
        return number(probe)


def test_a_v4_listener_is_described_whole(opened: Open) -> None:
    mine = opened("127.0.0.1")
    (found,) = list_listeners(Port(number(mine)))
    assert (found.protocol, found.address, found.number) == ("tcp", "127.0.0.1", number(mine))
    assert (found.inode, found.uid, found.only_v6) == (inode(mine), os.geteuid(), False)
    cookie = mine.getsockopt(socket.SOL_SOCKET, 57, 8)  # SO_COOKIE
    assert found.cookie == int.from_bytes(cookie, sys.byteorder)


def test_the_cgroup_of_a_socket_is_that_of_the_process_that_made_it(opened: Open) -> None:
    own = next(
        line.split(":", 2)[2] for line in Path("/proc/self/cgroup").read_text().splitlines() if line.startswith("0:")
    )
    roots = [root for root in ("/sys/fs/cgroup", "/sys/fs/cgroup/unified") if Path(root, "cgroup.procs").exists()]
    if not roots:
        pytest.skip("no cgroup v2 is mounted here")
    (found,) = list_listeners(Port(number(opened("127.0.0.1"))))
    assert found.cgroup_id == Path(roots[0] + own).stat().st_ino


def test_a_v6_wildcard_shows_whether_it_serves_v4(opened: Open) -> None:
    dual, alone = opened("::"), opened("::", v6only=True)
    assert [(found.address, found.only_v6) for found in list_listeners(Port(number(dual)))] == [("::", False)]
    assert [(found.address, found.only_v6) for found in list_listeners(Port(number(alone)))] == [("::", True)]


def test_both_families_are_listed_on_one_port(opened: Open, free_port: int) -> None:
    four, six = opened("0.0.0.0", free_port), opened("::", free_port, v6only=True)
    assert {found.inode for found in list_listeners(Port(free_port))} == {inode(four), inode(six)}


def test_two_sockets_with_reuseport_are_both_listed(opened: Open) -> None:
    one = opened("127.0.0.1", shared=True)
    other = opened("127.0.0.1", number(one), shared=True)
    assert {found.inode for found in list_listeners(Port(number(one)))} == {inode(one), inode(other)}


def test_neither_connections_nor_bound_sockets_are_listeners(opened: Open, free_port: int) -> None:
    mine = opened("127.0.0.1", free_port)
    with socket.create_connection(("127.0.0.1", free_port)) as client, mine.accept()[0], socket.socket(V4) as bound:
        bound.bind(("127.0.0.2", free_port))
        assert [found.inode for found in list_listeners(Port(free_port))] == [inode(mine)]
        assert not list_listeners(Port(number(client)))


def test_udp_is_what_is_bound_and_not_connected(opened: Open) -> None:
    mine = opened("127.0.0.1", udp=True)
    with socket.socket(V4, socket.SOCK_DGRAM) as client:
        client.connect(("127.0.0.1", number(mine)))
        assert [found.inode for found in list_listeners(Port(number(mine), "udp"))] == [inode(mine)]
        assert not list_listeners(Port(number(client), "udp"))
    assert not [found for found in list_listeners(Port(number(mine), "tcp")) if found.inode == inode(mine)]


def test_mptcp_listens_under_the_inode_that_processes_hold(opened: Open) -> None:
    try:
        mine = opened("127.0.0.1", protocol=262)  # IPPROTO_MPTCP, which Go takes by default since 1.24
    except OSError:
        pytest.skip("no MPTCP here")
    assert [found.inode for found in list_listeners(Port(number(mine)))] == [inode(mine)]


def test_an_address_is_selected_from_the_kernel_s_answer_too(opened: Open, free_port: int) -> None:
    one, two = opened("127.0.0.1", free_port), opened("127.0.0.2", free_port)
    mapped = opened("::ffff:127.0.0.3", free_port)
    for address, holder in (("127.0.0.1", one), ("127.0.0.2", two), ("127.0.0.3", mapped)):
        assert [found.inode for found in list_listeners(Port(free_port, address=address))] == [inode(holder)]


def test_a_name_is_not_an_address() -> None:
    with pytest.raises(HostError, match="'localhost' is not an IP address"):
        list_listeners(Port(80, address="localhost"))


def test_only_the_requested_port_is_listed_among_many(opened: Open) -> None:
    many = [opened("127.0.0.1") for _ in range(200)]
    for mine in (many[0], many[100], many[-1]):
        assert [found.inode for found in list_listeners(Port(number(mine)))] == [inode(mine)]


def test_more_sockets_than_fit_into_one_answer_are_all_listed(opened: Open, free_port: int) -> None:
    many = {inode(opened(f"127.0.{i // 250}.{i % 250 + 1}", free_port)) for i in range(900)}
    found = list_listeners(Port(free_port))
    assert {listener.inode for listener in found} == many
    assert len(found) == len(many)


def test_a_table_can_be_read_repeatedly(opened: Open, free_port: int) -> None:
    with SocketTable() as table:
        assert table.list_inodes(Port(free_port)) == frozenset()
        mine = opened("127.0.0.1", free_port)
        assert table.list_inodes(Port(free_port)) == {inode(mine)}
        mine.close()
        assert table.list_inodes(Port(free_port)) == frozenset()


def test_a_read_does_not_leak_descriptors(opened: Open) -> None:
    port = Port(number(opened("127.0.0.1")))
    before = len(list(Path("/proc/self/fd").iterdir()))
    with SocketTable() as table:
        for _ in range(50):
            table.list_inodes(port)
    list_listeners(port)
    assert len(list(Path("/proc/self/fd").iterdir())) == before


# The other way: /proc/net ---------------------------------------------------------------------------------------


def without(listener: Listener) -> tuple[str, str, int, int, int]:
    return listener.protocol, listener.address, listener.number, listener.inode, listener.uid


@pytest.mark.parametrize("udp", [False, True])
def test_proc_lists_the_same_as_the_kernel(opened: Open, free_port: int, udp: bool) -> None:
    opened("127.0.0.1", free_port, udp=udp)
    opened("::1", free_port, udp=udp)
    opened("::ffff:127.0.0.9", free_port, udp=udp)
    port = Port(free_port, "udp" if udp else "tcp")
    assert {without(found) for found in list_netns_listeners(os.getpid(), port, LookLimit())} == {
        without(found) for found in list_listeners(port)
    }
    assert len(list_listeners(port)) == 3
    near = Port(free_port, port.protocol, "127.0.0.9")
    assert [found.address for found in list_netns_listeners(os.getpid(), near, LookLimit())] == ["::ffff:127.0.0.9"]


def test_a_process_that_is_gone_has_no_sockets(free_port: int) -> None:
    child = subprocess.Popen(["true"])
    child.wait()
    assert list_netns_listeners(child.pid, Port(free_port), LookLimit()) == ()


@pytest.mark.root
def test_another_network_namespace_is_read_through_a_process_in_it() -> None:
    code = (
        "import socket; s = socket.socket(); s.bind(('0.0.0.0', 0)); s.listen();"
        "print(s.getsockname()[1], flush=True); input()"
    )
    child = subprocess.Popen(
        ["unshare", "--net", sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    try:
        assert child.stdout is not None
        port = Port(int(child.stdout.readline()))
        (found,) = list_netns_listeners(child.pid, port, LookLimit())
        assert found.inode not in {listener.inode for listener in list_listeners(port)}
        assert Path(f"/proc/{child.pid}/ns/net").readlink() != Path("/proc/self/ns/net").readlink()
    finally:
        child.communicate("\n")


# A kernel that refuses --------------------------------------------------------------------------------------------


class FakeNetlink:
    """Plays datagrams back; an exception among them is raised."""

    def __init__(self, *answers: bytes | Exception) -> None:
        self.answers = list(answers)
        self.sequence = 0
        self.closed = 0

    def settimeout(self, seconds: float) -> None:
        assert seconds > 0

    def send(self, data: bytes) -> int:
        self.sequence = struct.unpack_from("=IHHII", data)[3]
        return len(data)

    def recv(self, size: int) -> bytes:
        answer = self.answers.pop(0)
        if isinstance(answer, Exception):
            raise answer
        return answer.replace(b"SEQ!", struct.pack("=I", self.sequence))

    def close(self) -> None:
        self.closed += 1


def message(kind: int, body: bytes = b"\0\0\0\0", *, flags: int = 0, sequence: bytes = b"SEQ!") -> bytes:
    return struct.pack("=IHH", 16 + len(body), kind, flags) + sequence + struct.pack("=I", 0) + body


def row(family: int, port: int, its_inode: int) -> bytes:
    address = socket.inet_pton(family, "::1" if family == V6 else "127.0.0.1").ljust(16, b"\0")
    sockid = struct.pack(">HH", port, 0) + address + bytes(16) + struct.pack("=IQ", 0, 77)
    return message(20, bytes([family, 10, 0, 0]) + sockid + struct.pack("=IIIII", 0, 0, 0, 1000, its_inode))


DONE = message(3)


@pytest.fixture
def kernel(monkeypatch: pytest.MonkeyPatch) -> Callable[..., FakeNetlink]:
    def plays(*answers: bytes | Exception) -> FakeNetlink:
        fake = FakeNetlink(*answers)
        monkeypatch.setattr(socket, "socket", lambda *_: fake)
        return fake

    return plays


def test_an_answer_in_several_parts_is_put_together(kernel: Callable[..., FakeNetlink]) -> None:
    kernel(row(V4, 80, 1) + row(V4, 80, 2), row(V4, 80, 3), DONE, row(V6, 80, 4) + DONE)
    assert [found.inode for found in list_listeners(Port(80))] == [1, 2, 3, 4]


def test_a_disturbed_dump_is_requested_again(kernel: Callable[..., FakeNetlink]) -> None:
    fake = kernel(row(V4, 80, 1), message(3, flags=0x10), row(V4, 80, 2) + DONE, DONE)
    assert [found.inode for found in list_listeners(Port(80))] == [2]
    assert fake.closed == 2


def test_a_table_that_always_changes_is_an_error(kernel: Callable[..., FakeNetlink]) -> None:
    kernel(*[message(3, flags=0x10)] * 100)
    with pytest.raises(HostError, match="they change faster than they can be read"):
        list_listeners(Port(80))


def test_a_full_buffer_is_tried_again(kernel: Callable[..., FakeNetlink]) -> None:
    kernel(OSError(errno.ENOBUFS, "full"), row(V4, 80, 1) + DONE, DONE)
    assert [found.inode for found in list_listeners(Port(80))] == [1]


def test_what_belongs_to_another_request_is_skipped(kernel: Callable[..., FakeNetlink]) -> None:
    stale = row(V4, 80, 9).replace(b"SEQ!", b"old!")
    kernel(stale + row(V4, 80, 1) + DONE, DONE)
    assert [found.inode for found in list_listeners(Port(80))] == [1]


@pytest.mark.parametrize(
    "refusal",
    [
        pytest.param(message(2, struct.pack("=i", -errno.ENOENT)), id="module-missing"),
        pytest.param(message(3, struct.pack("=i", -errno.EOPNOTSUPP)), id="failed-at-the-end"),
        pytest.param(PermissionError(errno.EPERM, "no"), id="sandbox"),
        pytest.param(TimeoutError(), id="silence"),
    ],
)
def test_without_sock_diag_proc_is_read_and_the_kernel_is_not_asked_again(
    opened: Open, kernel: Callable[..., FakeNetlink], refusal: bytes | Exception
) -> None:
    mine = opened("127.0.0.1")
    fake = kernel(refusal)
    with SocketTable() as table:
        for _ in range(2):
            assert [found.inode for found in table.list_listeners(Port(number(mine)))] == [inode(mine)]
    assert fake.answers == []


def test_more_sockets_than_can_be_judged_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """Any user can open as many as that: each address of 127.0.0.0/8 is his."""
    monkeypatch.setattr(sock_diag, "MAX_SOCKETS", 3)
    with contextlib.ExitStack() as opened, SocketTable() as table:
        first = opened.enter_context(socket.create_server(("127.0.1.1", 0)))
        port = Port(first.getsockname()[1])
        for number in (2, 3):
            opened.enter_context(socket.create_server((f"127.0.1.{number}", port.number)))
        assert len(table.list_listeners(port)) == len(table.list_inodes(port)) == 3
        opened.enter_context(socket.create_server(("127.0.1.4", port.number)))
        for read in (table.list_listeners, table.list_inodes):
            with pytest.raises(LookLimitExceeded, match=f"more than 3 sockets listen on port {port}"):
                read(port)
        with pytest.raises(LookLimitExceeded):
            list_netns_listeners(os.getpid(), port, LookLimit())
        first.close()
        assert len(table.list_listeners(port)) == 3


def test_sockets_that_have_a_port_and_do_not_listen(opened: Open, free_port: int) -> None:
    """A connection's own port, a socket that is only bound, and a connection that was closed."""
    server = opened("127.0.0.1")
    target = ("127.0.0.1", number(server))
    with socket.socket() as client, socket.socket() as bound, SocketTable() as table:
        client.bind(("127.0.0.1", 0))
        client.connect(target)
        mine = client.getsockname()[1]
        (use,) = table.list_uses(Port(mine))
        assert (use.state, use.peer) == (SocketState.CONNECTED, f"127.0.0.1:{target[1]}")
        assert use.socket.inode == inode(client)
        bound.bind(("127.0.0.1", free_port))
        assert [one.state for one in table.list_uses(Port(free_port))] == [SocketState.BOUND]
        assert table.list_uses(Port(free_port, address="127.0.0.2")) == ()
        accepted, _ = server.accept()
        client.close()
        accepted.close()
        assert [(one.state, one.socket.inode) for one in table.list_uses(Port(mine))] == [(SocketState.CLOSING, 0)]


@pytest.mark.parametrize("protocol", ["tcp", "udp"])
def test_the_listeners_on_all_ports(protocol: str) -> None:
    kind = socket.SOCK_STREAM if protocol == "tcp" else socket.SOCK_DGRAM
    with socket.socket(type=kind) as one, socket.socket(socket.AF_INET6, kind) as other, SocketTable() as table:
        for mine, address in ((one, "127.0.0.1"), (other, "::1")):
            mine.bind((address, 0))
            if protocol == "tcp":
                mine.listen()
        wanted = {(inode(mine), mine.getsockname()[1]) for mine in (one, other)}
        every = Port(ANY_PORT, protocol)
        for found in (table.list_listeners(every), list_netns_listeners(os.getpid(), every, LookLimit())):
            assert {(listener.inode, listener.number) for listener in found} >= wanted
        only_one = table.list_listeners(every, {inode(one)})
        assert [listener.number for listener in only_one] == [one.getsockname()[1]]


def test_an_accepted_connection_prevents_no_bind() -> None:
    outside = (number for number in range(20000, 30000) if number not in read_ephemeral_ports() and _is_free(number))
    with SocketTable() as table:
        # Connections of an earlier run may still be in TIME_WAIT.
        below = next(number for number in outside if not table.list_uses(Port(number)))
    with socket.create_server(("127.0.0.1", below)) as server, SocketTable() as table:
        with socket.create_connection(server.getsockname()), server.accept()[0]:
            assert table.list_uses(Port(below)) == ()
        assert {one.state for one in table.list_uses(Port(below))} <= {SocketState.CLOSING}


def _is_free(number: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", number)) != 0


def test_a_udp_socket_that_is_connected(free_port: int) -> None:
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as client, SocketTable() as table:
        client.bind(("127.0.0.1", free_port))
        assert table.list_uses(Port(free_port, "udp")) == ()
        client.connect(("127.0.0.1", 9))
        assert [one.state for one in table.list_uses(Port(free_port, "udp"))] == [SocketState.CONNECTED]
