"""D-Bus and GLib errors become the program's own, by their names. The connection is tested in tests/bus."""

from __future__ import annotations

import pytest
from gi.repository import Gio, GLib

from runbook.errors import AccessDenied, BusLost, BusTimeout, HostError, NoSuchUnit, UnitMasked
from runbook.host.systemd import bus
from runbook.host.systemd.addresses import Endpoint
from runbook.host.systemd.bus import Properties, variant

DBUS = "org.freedesktop.DBus.Error"
SYSTEMD = "org.freedesktop.systemd1"


def test_a_property_that_an_object_lacks_has_the_default() -> None:
    known = Properties(variant("a{sv}", {"MainPID": variant("u", 315)}))
    assert known.get("MainPID") == 315
    assert known.get("NRestarts", 7) == 7
    assert known.get("Result") is None


@pytest.mark.parametrize(
    ("name", "kind", "message"),
    [
        (f"{DBUS}.AccessDenied", AccessDenied, "cannot stop gw: text"),
        (f"{DBUS}.InteractiveAuthorizationRequired", AccessDenied, "cannot stop gw: text"),
        (f"{SYSTEMD}.NoSuchUnit", NoSuchUnit, "cannot stop gw: text"),
        (f"{SYSTEMD}.UnitMasked", UnitMasked, "cannot stop gw: text"),
        (f"{DBUS}.NoReply", BusLost, "cannot stop gw: the connection broke"),
        (f"{DBUS}.Timeout", BusTimeout, "cannot stop gw: it did not answer in time"),
        (f"{SYSTEMD}.AnyOther", HostError, "cannot stop gw: text"),
    ],
)
def test_a_dbus_error_is_translated_by_its_name(name: str, kind: type[HostError], message: str) -> None:
    error = bus._translate_error(Gio.DBusError.new_for_dbus_error(name, "text"), "stop gw")
    assert (type(error), error.message, error.dbus_error) == (kind, message, name)


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (Gio.IOErrorEnum.TIMED_OUT, BusTimeout),
        (Gio.IOErrorEnum.CLOSED, BusLost),
        (Gio.IOErrorEnum.NOT_CONNECTED, BusLost),
        (Gio.IOErrorEnum.FAILED, HostError),
    ],
)
def test_a_glib_error_is_translated_by_its_code(code: int, kind: type[HostError]) -> None:
    assert type(bus._translate_error(GLib.Error.new_literal(Gio.io_error_quark(), "text", code), "stop gw")) is kind


@pytest.mark.parametrize(
    ("code", "refusal"),
    [
        (Gio.IOErrorEnum.NOT_FOUND, "there is no bus at /run/x"),
        (Gio.IOErrorEnum.CONNECTION_REFUSED, "nothing answers at /run/x"),
        (Gio.IOErrorEnum.PERMISSION_DENIED, "no permission to use /run/x"),
        (Gio.IOErrorEnum.FAILED, "text"),
    ],
)
def test_why_there_is_no_connection(code: int, refusal: str) -> None:
    error = GLib.Error.new_literal(Gio.io_error_quark(), "text", code)
    assert bus._describe_refusal(error, Endpoint("unix:path=/run/x")) == refusal
