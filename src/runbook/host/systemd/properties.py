"""Converts a unit's D-Bus properties to `facts.Unit`."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from runbook.host.exit_status import describe_exit_status
from runbook.host.facts import ActiveState, LoadState, Unit
from runbook.host.systemd.bus import Properties

_WORDS = {"monotonic": "TimestampMonotonic", "pid": "PID", "sigkill": "SIGKILL", "usec": "USec"}
_OTHER_NAMES = {
    "name": "Id",
    "inactive_exit": "InactiveExitTimestamp",
    "exec_main_start": "ExecMainStartTimestamp",
    "is_transient": "Transient",
    "stored_fds": "NFileDescriptorStore",
}


def property_name(field: str) -> str:
    """Return the property that a field of facts.Unit is named for: "exec_main_pid" is ExecMainPID."""
    return _OTHER_NAMES.get(field) or "".join(_WORDS.get(word, word.capitalize()) for word in field.split("_"))


# No unit has properties for the fields that are computed; those are set in make_unit, or keep their default.
_PROPERTIES = {field.name: property_name(field.name) for field in fields(Unit)}

# Dependencies along which a stop or a restart of another unit continues to this one.
_PROPAGATED_FROM = ("Requires", "Requisite", "BindsTo", "PartOf", "StopPropagatedFrom")

_START_COMMANDS = ("ExecCondition", "ExecStartPre", "ExecStart", "ExecStartPost")
"""Settings of commands that fail a start when they fail, in the order in which they run.

With Type=forking the main process is a child of what ExecStart= runs; with other types it is that process itself.
"""


def make_unit(properties: Properties) -> Unit:
    """Make a unit from its properties. A unit without processes lacks those of a service."""

    def is_met(kind: str) -> bool:
        # A condition that was never checked reads false, too.
        return bool(properties.get(f"{kind}Result")) or not properties.get(f"{kind}TimestampMonotonic")

    read = {field: value for field, name in _PROPERTIES.items() if (value := properties.get(name)) is not None}
    facts: dict[str, Any] = {key: tuple(value) if isinstance(value, list) else value for key, value in read.items()}
    if (both := properties.get("TimeoutUSec")) is not None:
        # A socket or a mount has one time-out for start and stop.
        facts["timeout_start_usec"] = facts["timeout_stop_usec"] = both
    for kind in ("prevent", "force"):
        statuses, signals = properties.get(f"Restart{kind.capitalize()}ExitStatus", ([], []))
        facts[f"restart_{kind}_statuses"], facts[f"restart_{kind}_signals"] = tuple(statuses), tuple(signals)
    facts |= {
        "load_state": LoadState(properties.get("LoadState", "")),
        "load_error": properties.get("LoadError", ("", ""))[1],
        "active_state": ActiveState(properties.get("ActiveState", "")),
        "invocation_id": bytes(properties.get("InvocationID", [])).hex(),
        "job": properties.get("Job", (0, "/"))[0],
        "condition_result": is_met("Condition"),
        "assert_result": is_met("Assert"),
        "propagated_from": tuple(name for kind in _PROPAGATED_FROM for name in properties.get(kind, [])),
        "activation": tuple(map(tuple, properties.get("ActivationDetails", []))),
        "reload_monotonic": max((started for _, _, _, _, started, *_ in properties.get("ExecReload", [])), default=0),
        "control_exit_monotonic": _find_control_exit(properties),
        "start_arguments": tuple(word for _, words, *_ in properties.get("ExecStart", []) for word in words),
        "unmet_conditions": tuple(_find_unmet(properties)),
        "failed_command": _find_failed_command(properties),
    }
    return Unit(**facts)


def _find_control_exit(properties: Properties) -> int:
    """Return when the last command exited after which systemd waits for PIDFile=; 0 if none has.

    A daemon-reload clears these times.
    """
    settings = ("ExecStart", "ExecStartPost") if properties.get("Type") == "forking" else ("ExecStartPost",)
    commands = (command for setting in settings for command in properties.get(setting, []))
    return max((exited for _, _, _, _, _, _, exited, *_ in commands), default=0)


def _find_unmet(properties: Properties) -> Iterator[str]:
    """List conditions that were checked and not met, as in the unit file: "ConditionPathExists=/etc/gw"."""
    for name in ("Conditions", "Asserts"):
        for kind, trigger, negated, value, state in properties.get(name, []):
            if state < 0:
                yield f"{kind}={'|' if trigger else ''}{'!' if negated else ''}{value}"


def _find_failed_command(properties: Properties) -> str:
    """Return the command beside the main one that failed first in this invocation: "ExecStartPre=/bin/sh ended with …".

    systemd forgets these results with each start. Empty if the main process exited while the command ran: the command's
    failure is then a consequence.
    """
    main_exit = properties.get("ExecMainExitTimestampMonotonic", 0)
    forks = properties.get("Type") == "forking"
    for setting in _START_COMMANDS if forks else (name for name in _START_COMMANDS if name != "ExecStart"):
        for path, _argv, ignored, _, started, _, exited, _pid, code, status in properties.get(setting, []):
            failed = not ignored and exited and (code != 1 or status)
            if failed and not started <= main_exit < exited:
                how = describe_exit_status(status) if code == 1 else f"was killed by signal {status}"
                return f"{setting}={path} {how}"
    return ""
