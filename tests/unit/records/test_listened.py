"""On which addresses a unit listened in earlier runs."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.model import Port
from runbook.records.listened import find_listened, list_listened_ports
from tests.unit.recorded import BEGAN, STARTED, begun, ended, finished, wrote

pytestmark = pytest.mark.usefixtures("home")


def seen(*sockets: Any, role: str = "current", unit: str = "web.service") -> tuple[str, dict[str, Any]]:
    holder = {"role": role, "unit": unit, "sockets": list(sockets)}
    return finished("wait-ready", evidence={"ports": [{"port": "80", "holders": [holder]}]})


def test_the_latest_run_that_found_the_unit_listening() -> None:
    wrote(begun(BEGAN), STARTED, seen("0.0.0.0:80"), ended())
    wrote(
        begun(BEGAN + 60), STARTED, seen("10.0.0.7:80"), seen("127.0.0.1:80", "[::1%lo]:80", "10.0.0.8:8080"), ended()
    )
    wrote(begun(BEGAN + 120), STARTED, ended())
    assert find_listened("system", "web.service", Port(80)) == ("127.0.0.1", "::1")
    assert find_listened("user", "web.service", Port(80)) == ()
    assert find_listened("system", "web.service", Port(80, "udp")) == ()


@pytest.mark.parametrize(
    "event",
    [
        seen("127.0.0.1:80", role="orphan"),
        seen("127.0.0.1:80", unit="other.service"),
        seen(7, "not an address:80"),
        finished("wait-ready", evidence="of another version"),
        finished("wait-ready", evidence={"ports": [7, {"holders": "of another version"}]}),
    ],
)
def test_what_is_not_a_socket_of_the_unit(event: tuple[str, dict[str, Any]]) -> None:
    wrote(begun(BEGAN), STARTED, event, ended())
    assert find_listened("system", "web.service", Port(80)) == ()


def test_a_udp_socket() -> None:
    wrote(begun(BEGAN), STARTED, seen("udp:127.0.0.1:80", "0.0.0.0:80"), ended())
    assert find_listened("system", "web.service", Port(80, "udp")) == ("127.0.0.1",)


def test_the_ports_of_the_latest_run_that_found_any() -> None:
    wrote(begun(BEGAN), STARTED, seen("0.0.0.0:80"), ended())
    wrote(begun(BEGAN + 60), STARTED, seen("udp:[::1%lo]:53", "10.0.0.7:81"), seen("[::1]:81"), ended())
    wrote(begun(BEGAN + 120), STARTED, seen("127.0.0.1:90", role="orphan"), ended())
    assert list_listened_ports("system", "web.service") == (Port(81), Port(53, "udp"))
    assert list_listened_ports("user", "web.service") == list_listened_ports("system", "other.service") == ()
