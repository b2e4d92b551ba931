"""Which UDP sockets receive multicast: real sockets, read through a copy of their descriptor."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator

import pytest

from runbook.host.holders import Listener
from runbook.host.kernel import multicast

GROUP, GROUP6 = "239.1.2.3", "ff05::1:3"


@pytest.fixture(params=[socket.AF_INET, socket.AF_INET6])
def sock(request: pytest.FixtureRequest) -> Iterator[socket.socket]:
    with socket.socket(request.param, socket.SOCK_DGRAM) as made:
        yield made


def join(sock: socket.socket) -> None:
    if sock.family == socket.AF_INET:
        membership = socket.inet_aton(GROUP) + socket.inet_aton("127.0.0.1")
        sock.setsockopt(socket.IPPROTO_IP, socket.IP_ADD_MEMBERSHIP, membership)
    else:
        index = socket.if_nametoindex("lo").to_bytes(4, "little")
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_JOIN_GROUP, socket.inet_pton(sock.family, GROUP6) + index)


def bound(sock: socket.socket) -> Listener:
    sock.bind(("", 0))
    address, number = sock.getsockname()[:2]
    return Listener("udp", address, number, os.fstat(sock.fileno()).st_ino)


@pytest.mark.parametrize("joined", [False, True])
def test_a_socket_that_has_joined_a_group(sock: socket.socket, joined: bool) -> None:
    with socket.socket(sock.family, socket.SOCK_DGRAM) as other:
        join(other)  # The membership of another socket does not count.
        if joined:
            join(sock)
        assert multicast.is_multicast(bound(sock), [os.getpid()]) is joined


@pytest.mark.parametrize("option", [None, socket.SO_REUSEADDR, socket.SO_REUSEPORT])
def test_a_socket_shares_its_port_by_either_option(sock: socket.socket, option: int | None) -> None:
    if option is not None:
        sock.setsockopt(socket.SOL_SOCKET, option, 1)
    join(sock)
    assert multicast.is_multicast(bound(sock), [os.getpid()], reusable=True) is (option is not None)


@pytest.mark.parametrize(("address", "number"), [("224.0.0.251", 9), ("ff02::fb", 9), ("0.0.0.0", 5353), ("::", 1900)])
def test_an_address_or_a_port_of_multicast_needs_no_process(address: str, number: int) -> None:
    listener = Listener("udp", address, number, 1)
    assert multicast.is_multicast(listener, [])
    assert not multicast.is_multicast(listener, [], reusable=True)


def test_a_socket_that_cannot_be_read_is_not_multicast() -> None:
    assert not multicast.is_multicast(Listener("udp", "0.0.0.0", 9, 1), [os.getpid(), 2**22])
