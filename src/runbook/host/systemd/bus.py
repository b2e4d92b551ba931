"""One private connection to a bus, with a time-out for every call; the only importer of pydbus.

Gio makes the connection, and pydbus's Bus holds it. Its proxies are not used: they introspect, and wait for ever.
Neither is `pydbus.SystemBus()`: its connection is shared, and ends the program with SIGTERM if dbus-daemon exits.

D-Bus errors become the program's own here, by their names: their texts are localised.
"""

from __future__ import annotations

import contextlib
import os
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import Any

import pydbus.bus
from gi.repository import Gio, GLib

from runbook.errors import AccessDenied, BusLost, BusTimeout, HostError, NoSuchUnit, UnitMasked
from runbook.host.loop import Loop
from runbook.host.systemd.addresses import Endpoint
from runbook.model import Deadline

CALL_TIMEOUT = 10.0  # seconds that a call may take, unless it passes another time-out
INTERRUPTED_TIMEOUT = 0.3  # seconds for a call after SIGTERM: the request takes effect even without its answer
SEND_ONLY_TIMEOUT = 0.02  # seconds for each further call after SIGTERM, once one was not answered in time
RECONNECT_INTERVAL = 0.05  # seconds between two attempts to reach a bus that is being restarted
MAX_AT_ONCE = 32  # calls that wait for their answers; dbus-daemon allows 128 of a connection
FLUSH_TIMEOUT = 0.2  # seconds that sending a message without an answer may take
PING_TRIES, PING_TIMEOUT = 20, 0.1  # how often, and for how many seconds each, systemd's own socket is pinged

PROPERTIES = "org.freedesktop.DBus.Properties"

_ERRORS: dict[str, type[HostError]] = {
    "org.freedesktop.DBus.Error.AccessDenied": AccessDenied,
    "org.freedesktop.DBus.Error.AuthFailed": AccessDenied,
    # For a user who is not root, if polkit or its agent is missing.
    "org.freedesktop.DBus.Error.InteractiveAuthorizationRequired": AccessDenied,
    "org.freedesktop.systemd1.NoSuchUnit": NoSuchUnit,
    "org.freedesktop.systemd1.UnitMasked": UnitMasked,
    "org.freedesktop.DBus.Error.Timeout": BusTimeout,
    "org.freedesktop.DBus.Error.TimedOut": BusTimeout,
    # The service left the bus before it answered, as systemd does while it re-executes itself.
    "org.freedesktop.DBus.Error.NoReply": BusLost,
    "org.freedesktop.DBus.Error.Disconnected": BusLost,
    "org.freedesktop.DBus.Error.ServiceUnknown": BusLost,
    "org.freedesktop.DBus.Error.NameHasNoOwner": BusLost,
}

_LOCAL_ERRORS: dict[Any, type[HostError]] = {
    Gio.IOErrorEnum.TIMED_OUT: BusTimeout,
    Gio.IOErrorEnum.CLOSED: BusLost,
    Gio.IOErrorEnum.CONNECTION_CLOSED: BusLost,
    Gio.IOErrorEnum.NOT_CONNECTED: BusLost,
}

_CAUSES: dict[type[HostError], str] = {BusTimeout: "it did not answer in time", BusLost: "the connection broke"}

SignalHandler = Callable[[str, Any], None]  # takes the path and the arguments, a GVariant tuple, of a signal


class Properties:
    """The properties of an object, as received; only those that are read are unpacked.

    A service has about 300 of them, and to unpack all takes longer than to fetch them.
    """

    def __init__(self, values: Any) -> None:
        self._values = GLib.VariantDict.new(values)

    def get(self, name: str, default: Any = None) -> Any:
        """Return one property as a plain value, or `default` if the object has none of that name."""
        value = self._values.lookup_value(name, None)
        return default if value is None else value.unpack()


class Bus:
    """A connection to one service on one bus, which is opened again if it was closed.

    `service` is the well-known name: the unique one changes when systemd re-executes itself. `renewed` is called after
    a new connection has replaced a lost one; the subscriptions are made by then.
    """

    def __init__(
        self,
        loop: Loop,
        endpoints: tuple[Endpoint, ...],
        service: str,
        *,
        renewed: Callable[[], None],
        timeout: float | None = None,
    ) -> None:
        self._loop = loop
        self._endpoints = endpoints
        self._service = service
        self._renewed = renewed
        self._subscriptions: list[tuple[str | None, str, str, SignalHandler, str | None]] = []  # those of subscribe()
        self.connections = 0  # how many connections were opened: signals between two of them are lost
        self._connection: Any = None
        self.peer = False  # True if it is connected to the service itself: then clients have no names, nor references
        self._destination: str | None = None  # the name of the service on the bus; None if `peer`
        self._stale = False  # True until `renewed` has succeeded on a new connection
        self._unresponsive = False  # True if a call after SIGTERM was not answered in time
        self._watched: tuple[int, int] | None = None  # the main context's source, and a duplicate of the socket
        self._connect(timeout or CALL_TIMEOUT)

    def close(self) -> None:
        """Close the connection. The service then releases what it held for it."""
        self._unwatch()
        if self._connection is not None and not self._connection.is_closed():
            self._connection.close(None, None)
        self._subscriptions.clear()

    def call(
        self,
        path: str,
        interface: str,
        method: str,
        arguments: tuple[str, tuple[Any, ...]] | None = None,
        *,
        what: str,
        timeout: float = CALL_TIMEOUT,
        repeat_if_lost: bool = False,
        await_answer: bool = False,
    ) -> Any:
        """Call a method and return its answer, a GVariant tuple, while serving the main context.

        `arguments` are a D-Bus signature and its values. `what` completes "cannot …" in a message. `repeat_if_lost`
        is for calls that only read: if the connection broke, the call is repeated on a new one. `await_answer` is for
        calls that start something: their answer is awaited for a moment even after SIGINT or SIGTERM.

        Raises AccessDenied, NoSuchUnit, UnitMasked, BusTimeout, BusLost, HostError, Interrupted.
        """
        if self._loop.interrupted:
            timeout = min(timeout, SEND_ONLY_TIMEOUT if self._unresponsive else INTERRUPTED_TIMEOUT)
        deadline = Deadline.after(self._loop.clock, timeout)
        parameters = _make_parameters(arguments, what)
        while True:
            try:
                self._ensure_connected(deadline, what)
                target = (self._destination, path, interface, method, parameters)
                return self._ask(target, what, deadline.remaining, await_answer=await_answer)
            except BusTimeout:
                self._unresponsive = bool(self._loop.interrupted)
                raise
            except BusLost:
                # systemd may be absent from the bus for a moment: it re-executes itself, or the bus is new.
                if not repeat_if_lost or deadline.remaining <= RECONNECT_INTERVAL:
                    raise
                self._loop.sleep(RECONNECT_INTERVAL)

    def properties(self, path: str, *, what: str, timeout: float = CALL_TIMEOUT) -> Properties:
        """Return all properties of an object, of all its interfaces."""
        answer = self.call(path, PROPERTIES, "GetAll", ("(s)", ("",)), what=what, timeout=timeout, repeat_if_lost=True)
        return Properties(answer.get_child_value(0))

    def list_properties(self, paths: Iterable[str], *, what: str, deadline: Deadline) -> Iterator[Properties]:
        """Yield all properties of several objects, without those that are gone. MAX_AT_ONCE are requested at once.

        If each answer was awaited before the next request, both programs would wait for each other each time.
        """
        left = list(paths)
        while left:
            some, left = left[:MAX_AT_ONCE], left[MAX_AT_ONCE:]
            self._ensure_connected(deadline, what)
            parameters = GLib.Variant("(s)", ("",))
            targets = [(self._destination, path, PROPERTIES, "GetAll", parameters) for path in some]
            for path, finish in zip(some, self._ask_all(targets, what, deadline.remaining), strict=True):
                with contextlib.suppress(NoSuchUnit):
                    try:
                        yield Properties(finish().get_child_value(0))
                    except BusLost:
                        yield self.properties(path, what=what, timeout=deadline.remaining)

    def read(self, path: str, interface: str, name: str, *, what: str, timeout: float = CALL_TIMEOUT) -> Any:
        """Return one property of an object, as a plain value."""
        arguments = ("(ss)", (interface, name))
        answer = self.call(path, PROPERTIES, "Get", arguments, what=what, timeout=timeout, repeat_if_lost=True)
        return answer.unpack()[0]

    def send(self, path: str, interface: str, method: str, arguments: tuple[str, tuple[Any, ...]]) -> None:
        """Call a method and do not wait for its answer: for cleanup if time is short.

        The message has been sent when this returns, unless the bus accepts nothing for FLUSH_TIMEOUT seconds.
        """
        if self._connection.is_closed():
            return
        message = Gio.DBusMessage.new_method_call(self._destination, path, interface, method)
        message.set_body(GLib.Variant(*arguments))
        message.set_flags(Gio.DBusMessageFlags.NO_REPLY_EXPECTED | Gio.DBusMessageFlags.NO_AUTO_START)
        try:
            self._connection.send_message(message, Gio.DBusSendMessageFlags.NONE)
        except GLib.Error as error:
            raise _translate_error(error, f"send {method}") from None
        results: list[Any] = []
        self._connection.flush(None, lambda _source, result: results.append(result))
        self._loop.run_until(lambda: bool(results), FLUSH_TIMEOUT, await_answer=True)

    def subscribe(
        self, path: str | None, interface: str, member: str, handler: SignalHandler, first: str | None = None
    ) -> None:
        """Call `handler` in the main context with the path and the arguments of each such signal.

        Without a path those of all objects count; with `first` only those whose first argument it is. The match rule
        reaches the bus before any later call.
        """
        self._subscriptions.append((path, interface, member, handler, first))
        self._listen(path, interface, member, handler, first)

    def _listen(self, path: str | None, interface: str, member: str, handler: SignalHandler, first: str | None) -> None:
        def call_handler(_connection: Any, _sender: Any, path: str, _interface: Any, _member: Any, values: Any) -> None:
            handler(path, values)

        match = (self._destination, interface, member, path, first)
        self._connection.signal_subscribe(*match, Gio.DBusSignalFlags.NONE, call_handler)

    def _ask(self, target: tuple[Any, ...], what: str, left: float, *, await_answer: bool) -> Any:
        (finish,) = self._ask_all([target], what, left, await_answer=await_answer)
        return finish()

    def _ask_all(
        self, targets: Sequence[tuple[Any, ...]], what: str, left: float, *, await_answer: bool = False
    ) -> list[Callable[[], Any]]:
        """Send calls, and wait for all answers; return a function for each that returns it, or raises its error."""
        answers: dict[int, Any] = {}
        cancellable = Gio.Cancellable()
        connection = self._connection
        self._loop.raise_if_interrupted()
        milliseconds = max(1, round(left * 1000))  # For GDBus, 0 means at once and a negative number its own default.
        options = (None, Gio.DBusCallFlags.NO_AUTO_START, milliseconds, cancellable)
        for number, target in enumerate(targets):
            connection.call(*target, *options, lambda _source, result, number: answers.update({number: result}), number)
        try:
            # GDBus ends the call at its time-out; one second more lets its error arrive.
            self._loop.run_until(lambda: len(answers) == len(targets), left + 1, await_answer=await_answer)
        finally:
            if len(answers) < len(targets):
                cancellable.cancel()
        if len(answers) < len(targets):
            raise BusTimeout(f"cannot {what}: {_CAUSES[BusTimeout]}")
        return [partial(_finish_call, connection, answers[number], what) for number in range(len(targets))]

    def _ensure_connected(self, deadline: Deadline, what: str) -> None:
        """Open a new connection if the bus closed this one. It is stale until `renewed` has read what was missed."""
        if self._connection.is_closed():
            self._reconnect(deadline, what)
            self._stale = True
        if self._stale:
            self._stale = False  # The calls of `renewed` come here, too.
            try:
                self._renewed()
            except BaseException:
                self._stale = True
                raise
            self._loop.notify()

    def _reconnect(self, deadline: Deadline, what: str) -> None:
        """Open a new connection and subscribe again."""
        while True:
            try:
                self._connect(deadline.remaining)
                break
            except BusLost as error:
                if deadline.remaining <= RECONNECT_INTERVAL:
                    raise BusLost(f"cannot {what}: {error.message}") from None
                self._loop.sleep(RECONNECT_INTERVAL)
        for subscription in self._subscriptions:
            self._listen(*subscription)

    def _connect(self, seconds: float) -> None:
        refusals = []
        for endpoint in self._endpoints:
            try:
                self._connection = self._open(endpoint, seconds)
                self.connections += 1
            except GLib.Error as error:
                refusals.append(_describe_refusal(error, endpoint))
            else:
                self.peer = endpoint.peer
                self._destination = None if endpoint.peer else self._service
                self._connection.set_exit_on_close(False)
                return self._watch()
        raise BusLost(refusals[0])

    def _watch(self) -> None:
        """Wake every wait when the connection ends: by its socket, not by its signal `closed` (see _connection_to)."""
        self._unwatch()
        watched = os.dup(self._connection.get_stream().get_socket().get_fd())

        def closed(*_: object) -> bool:
            self._unwatch()
            self._loop.notify()
            return False

        source = GLib.unix_fd_add_full(GLib.PRIORITY_DEFAULT, watched, GLib.IOCondition.HUP, closed)
        self._watched = (source, watched)

    def _unwatch(self) -> None:
        watched, self._watched = self._watched, None
        if watched is not None:
            GLib.source_remove(watched[0])
            os.close(watched[1])

    def _open(self, endpoint: Endpoint, seconds: float) -> Any:
        """Connect in a thread: a daemon that accepts and never answers would otherwise delay SIGTERM for ever."""
        outcomes: list[Any] = []  # one connection or error

        def connect() -> None:
            try:
                outcomes.append(_connection_to(endpoint))
            except GLib.Error as error:
                outcomes.append(error)
            self._loop.notify(())

        threading.Thread(target=connect, name="connect", daemon=True).start()
        if not self._loop.run_until(lambda: bool(outcomes), seconds):
            raise BusLost("the bus accepts a connection, but does not answer")
        if isinstance(outcomes[0], GLib.Error):
            raise outcomes[0]
        return outcomes[0]


def variant(signature: str, value: Any) -> Any:
    """Make a value of a given D-Bus type, as a dictionary of properties needs it."""
    return GLib.Variant(signature, value)


def _make_parameters(arguments: tuple[str, tuple[Any, ...]] | None, what: str) -> Any:
    try:
        return GLib.Variant(*arguments) if arguments else None
    except (TypeError, ValueError, OverflowError) as error:
        # A file name or a variable that is not UTF-8, which a D-Bus message cannot contain.
        raise HostError(f"cannot {what}: {error}") from None


def _connection_to(endpoint: Endpoint) -> Any:
    """Connect. Never attach a Python object to the connection: no attribute, no handler of one of its signals.

    PyGObject would then be notified of its references (toggle references): GDBus's own thread takes the interpreter's
    lock at each message, with GDBus's message_bus_lock held. The end of an older connection takes the two locks in the
    opposite order, and both wait for ever. Seen within a few restarts of dbus-daemon, after `pydbus.connect()`, which
    sets an attribute.
    """
    flags = Gio.DBusConnectionFlags.AUTHENTICATION_CLIENT
    if not endpoint.peer:
        flags |= Gio.DBusConnectionFlags.MESSAGE_BUS_CONNECTION
        return pydbus.bus.Bus(Gio.DBusConnection.new_for_address_sync(endpoint.address, flags, None, None)).con
    connection = Gio.DBusConnection.new_for_address_sync(endpoint.address, flags, None, None)
    ping = (None, "/", "org.freedesktop.DBus.Peer", "Ping", None, None, Gio.DBusCallFlags.NONE)
    # If the first message arrives together with the last line of the authentication, systemd reads it, but handles it
    # only when more arrives: one in ten first calls was never answered (252, 257). The next ping wakes it.
    for left in reversed(range(PING_TRIES)):
        try:
            connection.call_sync(*ping, round(PING_TIMEOUT * 1000), None)
            break
        except GLib.Error:
            if not left:
                raise
    return connection


def _finish_call(connection: Any, answer: Any, what: str) -> Any:
    """Return the answer of a call, or raise its error."""
    try:
        return connection.call_finish(answer)
    except GLib.Error as error:
        raise _translate_error(error, what) from None


def _translate_error(error: Any, what: str) -> HostError:
    """Convert one of GLib's errors to the program's own, by the name of the D-Bus error."""
    name = Gio.DBusError.get_remote_error(error) or ""
    kind = (_ERRORS.get(name) if name else _by_code(error, _LOCAL_ERRORS)) or HostError
    cause = _CAUSES.get(kind) or error.message.removeprefix(f"GDBus.Error:{name}: ")
    hint = "run it as root: sudo runbook …" if kind is AccessDenied and os.geteuid() != 0 else ""
    return kind(f"cannot {what}: {cause}", hint=hint, dbus_error=name)


def _describe_refusal(error: Any, endpoint: Endpoint) -> str:
    """Return why there is no connection."""
    place = endpoint.address.removeprefix("unix:path=")
    words = {
        Gio.IOErrorEnum.NOT_FOUND: f"there is no bus at {place}",
        Gio.IOErrorEnum.CONNECTION_REFUSED: f"nothing answers at {place}",
        Gio.IOErrorEnum.PERMISSION_DENIED: f"no permission to use {place}",
    }
    return _by_code(error, words) or str(error.message)


def _by_code(error: Any, table: Mapping[Any, Any]) -> Any:
    """Return a table's entry for the code of an error of GLib's own; None if the table has none."""
    return next((value for code, value in table.items() if error.matches(Gio.io_error_quark(), code)), None)
