"""Why processes of an earlier invocation are left in the unit's cgroup."""

from __future__ import annotations

from collections.abc import Iterator

from runbook.doctor.drop_in import make_drop_in
from runbook.doctor.facts import UnitFacts
from runbook.doctor.findings import Cause, DropIn, Severity
from runbook.host.ownership.describe import describe_processes


def find_leftovers(facts: UnitFacts) -> Iterator[Cause]:
    """Yield that processes of an earlier invocation are left in the unit's cgroup, and which setting spared them."""
    unit, left = facts.unit, [one for one in facts.leftovers if one.may_be_killed]
    if not left:
        return
    are = "is" if len(left) == 1 else "are"
    what = f"{describe_processes(left)} of an earlier invocation {are} still in its cgroup"
    if unit.kill_mode in ("process", "none"):
        spared = "every other process" if unit.kill_mode == "process" else "every process"
        setting, why = f"KillMode={unit.kill_mode}", f"a stop spares {spared} of the unit"
        effect, settings = "a stop kills all its processes", {"KillMode": "control-group"}
    elif not unit.send_sigkill:
        setting, why = "SendSIGKILL=no", "a stop does not kill what ignores SIGTERM"
        effect, settings = "a stop kills what ignores SIGTERM", {"SendSIGKILL": "yes"}
    else:
        yield Cause(what, f"/sys/fs/cgroup{unit.control_group}/cgroup.procs", Severity.WARNING)
        return
    has_port = any(one.sockets for one in left)
    [(key, value)] = settings.items()
    fix: tuple[DropIn | None, str] = (None, f"if a stop is to kill it, too: {key}={value} instead of {setting}")
    # Without a port it may be meant to outlive a stop; below a delegated cgroup, that is for the unit to decide.
    if has_port and not unit.delegate:
        fix = make_drop_in(facts.view, unit, "kill-mode", f"{effect}, as {describe_processes(left)}", **settings)
    severity = Severity.PROBLEM if has_port else Severity.WARNING
    yield Cause(f"{what}: with {setting} {why}", setting.partition("=")[0] + "=", severity, *fix)
