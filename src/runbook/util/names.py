"""Unit names and ports, as an operator writes them on a command line and in a runbook."""

from __future__ import annotations

import ipaddress
import re
from difflib import get_close_matches

from runbook.model import Port
from runbook.util.wording import shorten

TYPE_SIMILARITY = 0.8  # similarity (difflib's ratio) from which the end of a name is taken for a misspelt unit type
UNIT_NAME_MAX = 255  # characters of a unit name (systemd.unit(5); UNIT_NAME_MAX)

UNIT_TYPES = (
    "service", "socket", "target", "device", "mount", "automount", "swap", "timer", "path", "slice", "scope",
)  # fmt: skip
_SUFFIXES = tuple(f".{kind}" for kind in UNIT_TYPES)


def parse_unit_name(text: str) -> str:
    """Return the full name of a unit: `gw` is `gw.service`. Raises ValueError with a sentence for the operator.

    The rules are those of systemd.unit(5). A name that systemctl would escape first is refused.
    """
    shown = f"`{shorten(text)}`"
    if not text:
        raise ValueError("the unit name is empty; write a name such as gw.service")
    if "/" in text:
        last = text.rstrip("/").rpartition("/")[2]
        meant = f"; write `{last}`" if last.endswith(_SUFFIXES) else ""
        raise ValueError(f"{shown} is a path, not a unit name{meant}")
    name = text if text.endswith(_SUFFIXES) else f"{text}.service"
    start, dot, end = text.rpartition(".")
    # `web.sevice` would be a valid name, of the unit `web.sevice.service`. It is never what was meant.
    if name != text and dot and (types := get_close_matches(end, UNIT_TYPES, n=1, cutoff=TYPE_SIMILARITY)):
        raise ValueError(f"{shown} does not end in a unit type; did you mean `{shorten(start)}.{types[0]}`?")
    stem, _, kind = name.rpartition(".")
    if strange := re.search(r"[^A-Za-z0-9:_.\\@-]", text):
        raise ValueError(f"{shown} is not a unit name: it contains {_describe_character(strange[0])}")
    if len(name) > UNIT_NAME_MAX:
        raise ValueError(f"{shown} is not a unit name: it is longer than {UNIT_NAME_MAX} characters")
    if not stem or stem.startswith("@"):
        raise ValueError(f"{shown} is not a unit name: there is nothing before `{text[:1]}`")
    if stem.endswith("@") and stem.count("@") == 1:
        raise ValueError(f"{shown} is a template unit; write one of its instances, `{stem}NAME.{kind}`")
    return name


def parse_port(text: str) -> Port:
    """Return a port: `18789`, `udp:53`, `127.0.0.1:8080`, `[::1]:8080`, `udp:[::1]:53`. Raises ValueError."""
    protocol, rest = "tcp", text.strip()
    if match := re.match(r"(tcp|udp):(.*)", rest, re.IGNORECASE | re.DOTALL):
        protocol, rest = match[1].lower(), match[2]
    address, colon, number = rest.rpartition(":")
    how = _suggest_port(text.strip(), protocol, rest)
    if not re.fullmatch(r"\d+", number, re.ASCII):
        raise ValueError(f"cannot read port `{shorten(text)}`; {how}")
    if len(number) > 5 or not 1 <= int(number) <= 65535:  # noqa: PLR2004
        raise ValueError(f"port `{shorten(text)}` is out of range; write a number from 1 to 65535")
    if not colon:
        return Port(int(number), protocol)
    bracketed = re.fullmatch(r"\[(.*)\]", address)
    ip = _parse_address(bracketed[1] if bracketed else address)
    # A zone, as in fe80::1%eth0, is the name of an interface, which can change.
    if ip is None or "%" in str(ip):
        why = "" if "every address" in how else f": `{shorten(address)}` is not an IP address"
        raise ValueError(f"cannot read port `{shorten(text)}`{why}; {how}")
    if (ip.version == 6) != bool(bracketed):  # noqa: PLR2004
        why = "an IPv4 address has no brackets" if bracketed else "an IPv6 address must be in brackets"
        meant = _quote(Port(int(number), protocol, str(ip)))
        raise ValueError(f"cannot read port `{shorten(text)}`: {why}; write {meant}")
    return Port(int(number), protocol, str(ip))


def _parse_address(text: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        return ipaddress.ip_address(text)
    except ValueError:
        return None


def _suggest_port(text: str, protocol: str, rest: str) -> str:
    """Return what to write in the place of a port that cannot be read."""
    if "," in text:
        return f"write a list: [{', '.join(shorten(part.strip()) for part in text.split(','))}]"
    if every := re.fullmatch(r"(?:\*|\[\*\])?:(\d{1,5})", rest, re.ASCII):
        return f"write {Port(int(every[1]), protocol)}, which means every address"
    if named := re.fullmatch(r"(\d{1,5})/(tcp|udp)", rest, re.ASCII):
        return f"write {Port(int(named[1]), named[2])}"
    ip = _parse_address(rest.strip("[]"))
    if ip is not None and "%" not in rest:
        return f"write the address with a port: {_quote(Port(8080, protocol, str(ip)))}"
    return f"write 18789, udp:53, 127.0.0.1:8080 or {_quote(Port(8080, 'tcp', '::1'))}"


def _quote(port: Port) -> str:
    """Return a port as a file needs it: YAML would read `[` as the beginning of a list."""
    return f'"{port}"' if "[" in str(port) else str(port)


def _describe_character(character: str) -> str:
    if character == " ":
        return "a space"
    return f"`{character}`" if character.isprintable() else f"U+{ord(character):04X}"
