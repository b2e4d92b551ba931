"""The names of units and ports, as people write them on a command line and in a runbook."""

from __future__ import annotations

import ipaddress
import re
from difflib import get_close_matches

from runbook.model import Port
from runbook.util.wording import shorten

TYPE_SIMILARITY = 0.8
"""How alike (difflib's ratio) the end of a name and a type of units are, where that type is meant."""

UNIT_NAME_MAX = 255
"""Characters of a unit's name (systemd.unit(5); UNIT_NAME_MAX)."""

UNIT_TYPES = (
    "service", "socket", "target", "device", "mount", "automount", "swap", "timer", "path", "slice", "scope",
)  # fmt: skip


def parse_unit_name(text: str) -> str:
    """Give the full name of a unit: `gw` is `gw.service`. Raises ValueError for what cannot be one.

    The rules are those of systemd.unit(5); a name that systemctl would have to escape first is refused.
    """
    if not text:
        raise ValueError("a unit's name is missing; write a name such as gw.service")
    if "/" in text:
        last = text.rstrip("/").rpartition("/")[2]
        meant = f"; write its name, `{last}`" if last.endswith(tuple(f".{t}" for t in UNIT_TYPES)) else ""
        raise ValueError(f"`{shorten(text)}` is a path, not the name of a unit{meant}")
    strange = re.search(r"[^A-Za-z0-9:_.\\@-]", text)
    name = text if text.endswith(tuple(f".{kind}" for kind in UNIT_TYPES)) else f"{text}.service"
    stem, _, kind = name.rpartition(".")
    why = ""
    types = get_close_matches(text.rpartition(".")[2], UNIT_TYPES, n=1, cutoff=TYPE_SIMILARITY) if "." in text else []
    if types and name != text:
        right = f"{text.rpartition('.')[0]}.{types[0]}"
        raise ValueError(f"`{shorten(text)}` ends in no type of a unit; did you mean `{shorten(right)}`?")
    if strange:
        why = f"{_character(strange[0])} cannot stand in one"
    elif len(name) > UNIT_NAME_MAX:
        why = f"it is longer than {UNIT_NAME_MAX} characters"
    elif not stem or stem.startswith("@"):
        why = f"nothing stands before `{text[:1]}`"
    if why:
        raise ValueError(f"`{shorten(text)}` is no name of a unit: {why}")
    if stem.endswith("@") and stem.count("@") == 1:
        raise ValueError(f"`{shorten(text)}` is a template; name one of its instances, `{stem}NAME.{kind}`")
    return name


def parse_port(text: str) -> Port:
    """Read a port: `18789`, `udp:53`, `127.0.0.1:8080`, `[::1]:8080`, `udp:[::1]:53`. Raises ValueError."""
    protocol, rest = "tcp", text.strip()
    if match := re.match(r"(tcp|udp):(.*)", rest, re.IGNORECASE | re.DOTALL):
        protocol, rest = match[1].lower(), match[2]
    address, colon, number = rest.rpartition(":")
    how = "write 18789, udp:53, 127.0.0.1:8080 or [::1]:8080"
    if "," in text:
        how = f"write a list: [{', '.join(shorten(part.strip()) for part in text.split(','))}]"
    if not re.fullmatch(r"\d+", number, re.ASCII):
        raise ValueError(f"cannot read port `{shorten(text)}`; {how}")
    if len(number) > 5 or not 1 <= int(number) <= 65535:  # noqa: PLR2004
        raise ValueError(f"port `{shorten(text)}` is out of range; ports go from 1 to 65535")
    if not colon:
        return Port(int(number), protocol)
    bracketed = re.fullmatch(r"\[(.*)\]", address)
    try:
        ip = ipaddress.ip_address(bracketed[1] if bracketed else address)
    except ValueError:
        ip = None
    if ip is None or (ip.version == 6) != bool(bracketed) or "%" in str(ip):  # noqa: PLR2004
        raise ValueError(f"cannot read port `{shorten(text)}`: `{shorten(address)}` is no IP address; {how}")
    return Port(int(number), protocol, str(ip))


def _character(character: str) -> str:
    if character == " ":
        return "a space"
    return f"`{character}`" if character.isprintable() else f"U+{ord(character):04X}"
