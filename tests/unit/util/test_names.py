"""Unit names and ports."""

from __future__ import annotations

import pytest

from runbook.model import Port
from runbook.util.names import parse_port, parse_unit_name


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("gw", "gw.service"),
        ("gw.service", "gw.service"),
        ("gw.socket", "gw.socket"),
        ("gw.v2", "gw.v2.service"),
        ("getty@tty1", "getty@tty1.service"),
        ("a@b.service", "a@b.service"),
        (r"dev-disk\x2d1.mount", r"dev-disk\x2d1.mount"),
        ("x" * 247, "x" * 247 + ".service"),
    ],
)
def test_a_unit_has_its_full_name(text: str, name: str) -> None:
    assert parse_unit_name(text) == name
    assert parse_unit_name(name) == name


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "the unit name is empty"),
        ("/etc/systemd/system/gw.service", "is a path, not a unit name; write `gw.service`"),
        ("../gw", "is a path"),
        ("my gw", "it contains a space"),
        ("gw\n", r"it contains U\+000A"),
        ("gw*", r"it contains `\*`"),
        ("gwé", "it contains `é`"),
        (".service", "there is nothing before"),
        ("@x.service", "there is nothing before"),
        ("getty@.service", "is a template unit; write one of its instances, `getty@NAME.service`"),
        ("getty@", "is a template unit"),
        ("x" * 248, "longer than 255"),
    ],
)
def test_an_invalid_unit_name_is_refused_with_a_reason(text: str, why: str) -> None:
    with pytest.raises(ValueError, match=why):
        parse_unit_name(text)


@pytest.mark.parametrize(
    ("text", "port"),
    [
        ("18789", Port(18789)),
        ("1", Port(1)),
        ("65535", Port(65535)),
        ("tcp:80", Port(80)),
        ("udp:53", Port(53, "udp")),
        ("127.0.0.1:8080", Port(8080, "tcp", "127.0.0.1")),
        ("[::1]:8080", Port(8080, "tcp", "::1")),
        ("[0:0::1]:8080", Port(8080, "tcp", "::1")),
        ("udp:[::1]:53", Port(53, "udp", "::1")),
    ],
)
def test_a_port_is_read(text: str, port: Port) -> None:
    assert parse_port(text) == port
    assert parse_port(str(port)) == port or port.protocol == "udp"


@pytest.mark.parametrize("text", ["0", "65536", "99999999999999999999999", "127.0.0.1:0"])
def test_a_port_out_of_range_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="out of range; write a number from 1 to 65535"):
        parse_port(text)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "http",
        "-1",
        "8_0",
        "٨٠",
        "80.0",
        "localhost:80",
        "[::1%lo]:80",
        "sctp:80",
    ],
)
def test_an_invalid_port_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"cannot read port .*write 18789"):
        parse_port(text)


@pytest.mark.parametrize(
    ("text", "instead"),
    [
        ("::1:80", 'an IPv6 address must be in brackets; write "[::1]:80"'),
        ("udp:::1:53", 'write "udp:[::1]:53"'),
        ("[127.0.0.1]:80", "an IPv4 address has no brackets; write 127.0.0.1:80"),
        (":80", "cannot read port `:80`; write 80, which means every address"),
        ("*:80", "write 80, which means every address"),
        ("udp:*:53", "write udp:53, which means every address"),
        ("80/tcp", "write 80"),
        ("53/udp", "write udp:53"),
        ("127.0.0.1", "write the address with a port: 127.0.0.1:8080"),
        ("[::1]", 'write the address with a port: "[::1]:8080"'),
        ("80, 81", "write a list: [80, 81]"),
    ],
)
def test_what_to_write_in_the_place_of_an_invalid_port(text: str, instead: str) -> None:
    with pytest.raises(ValueError, match="port") as error:
        parse_port(text)
    assert str(error.value).endswith(instead)
