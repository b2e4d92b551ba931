"""A program that stands for systemd1 on a private bus, and does on demand what the real one does seldom.

What it does with a job depends on the unit's name. Its behaviours were observed on systemd 252 and 257.
It prints each call that it receives to standard output. It reads orders from standard input, one a line, and
prints `ok` when one is carried out:

    finish UNIT RESULT   end the unit's job, and send JobRemoved
    begin UNIT           begin a job of another requester, and send JobNew
    changed UNIT TIMES   send PropertiesChanged, so many times at once; NRestarts counts them
    leave                release the bus name, as systemd does while it re-executes
    return               take the name again
    mark                 do nothing; its `ok` comes after all that was printed before
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable
from typing import Any

from gi.repository import Gio, GLib

NAME = "org.freedesktop.systemd1"
ROOT = "/org/freedesktop/systemd1"
MANAGER = f"{NAME}.Manager"

UNITS = (
    "web.service",  # its jobs last until the order `finish`
    "quick.service",  # its jobs end before the method returns: JobRemoved overtakes the reply
    "hang.service",  # its jobs are never answered; nor are those of the transient unit runbook-hang.service
    "late.service",  # its jobs are answered after 0.1 s
    "vanish.service",  # systemd leaves the bus before it answers; so for the transient unit runbook-vanish.service
)

ERRORS = {
    "denied.service": "org.freedesktop.DBus.Error.AccessDenied",
    "ask.service": "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired",
    "absent.service": f"{NAME}.NoSuchUnit",
    "masked.service": f"{NAME}.UnitMasked",
    "manual.service": f"{NAME}.OnlyByDependency",
    "busy.service": "org.freedesktop.DBus.Error.Timeout",
}

INTERFACES = """
<node>
  <interface name="org.freedesktop.systemd1.Manager">
    <method name="Subscribe"/>
    <method name="Reload"/>
    <method name="LoadUnit"><arg type="s"/><arg type="o" direction="out"/></method>
    <method name="GetUnit"><arg type="s"/><arg type="o" direction="out"/></method>
    <method name="RefUnit"><arg type="s"/></method>
    <method name="ResetFailedUnit"><arg type="s"/></method>
    <method name="StartUnit"><arg type="s"/><arg type="s"/><arg type="o" direction="out"/></method>
    <method name="StopUnit"><arg type="s"/><arg type="s"/><arg type="o" direction="out"/></method>
    <method name="RestartUnit"><arg type="s"/><arg type="s"/><arg type="o" direction="out"/></method>
    <method name="GetJob"><arg type="u"/><arg type="o" direction="out"/></method>
    <method name="CancelJob"><arg type="u"/></method>
    <method name="StartTransientUnit">
      <arg type="s"/><arg type="s"/><arg type="a(sv)"/><arg type="a(sa(sv))"/><arg type="o" direction="out"/>
    </method>
  </interface>
  <interface name="org.freedesktop.DBus.Properties">
    <method name="Get"><arg type="s"/><arg type="s"/><arg type="v" direction="out"/></method>
    <method name="GetAll"><arg type="s"/><arg type="a{sv}" direction="out"/></method>
  </interface>
</node>
"""


def path_of(unit: str) -> str:
    return f"{ROOT}/unit/{unit.replace('.', '_2e').replace('-', '_2d')}"


class FakeSystemd:
    """The manager object, and one object for each unit."""

    def __init__(self, address: str) -> None:
        flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT | Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
        self.connection = Gio.DBusConnection.new_for_address_sync(address, flags, None, None)
        self.jobs: dict[str, int] = {}
        self.objects: dict[int, int] = {}
        self.restarts = dict.fromkeys(UNITS, 0)
        self.last_job = 0
        manager, self.properties = Gio.DBusNodeInfo.new_for_xml(INTERFACES).interfaces
        self.connection.register_object(ROOT, manager, self.on_manager, None, None)
        for unit in (*UNITS, *ERRORS):
            self.connection.register_object(path_of(unit), self.properties, self.on_properties, None, None)
        self.bus("RequestName", "(su)", NAME, 4)

    def bus(self, method: str, signature: str, *values: Any) -> None:
        body = GLib.Variant(signature, values)
        self.connection.call_sync("org.freedesktop.DBus", "/", "org.freedesktop.DBus", method, body, None, 0, 5000)

    def on_manager(self, *call: Any) -> None:
        _connection, _sender, _path, _interface, method, parameters, invocation = call
        arguments = parameters.unpack()
        # The properties of a transient unit would make the line too long.
        say(method, *(str(word) for word in arguments[:2]))
        if method in ("Subscribe", "Reload", "RefUnit", "CancelJob"):
            invocation.return_value(None)
        elif method == "GetUnit" and arguments[0].startswith("runbook-"):
            invocation.return_dbus_error(f"{NAME}.NoSuchUnit", "Not loaded.")
        elif method in ("LoadUnit", "GetUnit"):
            invocation.return_value(GLib.Variant("(o)", (path_of(arguments[0]),)))
        elif method == "GetJob":
            if arguments[0] in self.jobs.values():
                invocation.return_value(GLib.Variant("(o)", (job_path(arguments[0]),)))
            else:
                invocation.return_dbus_error(f"{NAME}.NoSuchJob", "Job does not exist.")
        elif arguments[0] in ERRORS:
            invocation.return_dbus_error(ERRORS[arguments[0]], "Ça ne va pas.")
        elif method == "ResetFailedUnit":
            invocation.return_value(None)
        else:
            self.begin(arguments[0], invocation)

    def begin(self, unit: str, invocation: Any) -> None:
        self.last_job += 1
        number = self.jobs[unit] = self.last_job
        self.objects[number] = self.connection.register_object(
            job_path(number), self.properties, self.on_job, None, None
        )

        self.announce(unit, number)  # The real systemd sends JobNew before it answers, too.

        def answer() -> None:
            invocation.return_value(GLib.Variant("(o)", (job_path(number),)))

        if unit == "quick.service":
            self.finish(unit, "done")
            answer()
        elif unit in ("hang.service", "runbook-hang.service"):
            self.hung = invocation  # Kept: PyGObject answers an invocation that is dropped.
        elif unit == "late.service":
            GLib.timeout_add(100, answer)
        elif unit in ("vanish.service", "runbook-vanish.service"):
            os._exit(0)
        else:
            answer()

    def announce(self, unit: str, number: int) -> None:
        body = GLib.Variant("(uos)", (number, job_path(number), unit))
        self.connection.emit_signal(None, ROOT, MANAGER, "JobNew", body)

    def begin_for_another_requester(self, unit: str) -> None:
        self.last_job += 1
        self.announce(unit, self.last_job)

    def finish(self, unit: str, result: str) -> None:
        number = self.jobs.pop(unit)
        self.connection.unregister_object(self.objects.pop(number))
        body = GLib.Variant("(uoss)", (number, job_path(number), unit, result))
        self.connection.emit_signal(None, ROOT, MANAGER, "JobRemoved", body)

    def on_job(self, *call: Any) -> None:
        _connection, _sender, path, _interface, _method, _parameters, invocation = call
        [unit] = [unit for unit, number in self.jobs.items() if job_path(number) == path]
        invocation.return_value(GLib.Variant("(v)", (GLib.Variant("(so)", (unit, path_of(unit))),)))

    def on_properties(self, *call: Any) -> None:
        _connection, _sender, path, _interface, method, parameters, invocation = call
        [unit] = [unit for unit in (*UNITS, *ERRORS) if path_of(unit) == path]
        say(method, unit)
        values = {
            "Id": GLib.Variant("s", unit),
            "LoadState": GLib.Variant("s", "loaded"),
            "ActiveState": GLib.Variant("s", "active"),
            "NRestarts": GLib.Variant("u", self.restarts.get(unit, 0)),
        }
        if method == "GetAll":
            invocation.return_value(GLib.Variant("(a{sv})", (values,)))
        else:
            invocation.return_value(GLib.Variant("(v)", (values[parameters.unpack()[1]],)))

    def changed(self, unit: str, times: str) -> None:
        for _ in range(int(times)):
            self.restarts[unit] += 1
            body = GLib.Variant("(sa{sv}as)", (f"{NAME}.Unit", {}, []))
            self.connection.emit_signal(
                None, path_of(unit), "org.freedesktop.DBus.Properties", "PropertiesChanged", body
            )

    def leave(self) -> None:
        self.bus("ReleaseName", "(s)", NAME)

    def come_back(self) -> None:
        self.bus("RequestName", "(su)", NAME, 4)

    def carry_out(self, line: str) -> None:
        order, *words = line.split()
        orders: dict[str, Callable[..., None]] = {
            "finish": self.finish,
            "begin": self.begin_for_another_requester,
            "changed": self.changed,
            "leave": self.leave,
            "return": self.come_back,
            "mark": lambda: None,
        }
        orders[order](*words)
        self.connection.flush_sync(None)
        say("ok")


def job_path(number: int) -> str:
    return f"{ROOT}/job/{number}"


def say(*words: str) -> None:
    print(*words, flush=True)


def main() -> None:
    fake = FakeSystemd(sys.argv[1])
    loop = GLib.MainLoop()

    def on_input(*_: Any) -> bool:
        # The test waits for each order, so one read returns one whole line.
        data = os.read(0, 4096).decode()
        if data:
            fake.carry_out(data)
        else:
            loop.quit()
        return bool(data)

    GLib.unix_fd_add_full(GLib.PRIORITY_DEFAULT, 0, GLib.IOCondition.IN | GLib.IOCondition.HUP, on_input)
    say("ready")
    loop.run()


if __name__ == "__main__":
    main()
