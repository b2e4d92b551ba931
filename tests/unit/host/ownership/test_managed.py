"""Each rule about a process that a live manager runs outside of its own cgroup, alone."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runbook.host.facts import ActiveState, Unit
from runbook.host.holders import Process, Role
from runbook.host.kernel.ancestry import MAX_ANCESTORS
from runbook.host.ownership.managed import (
    find_inherited_protection,
    rule_below_protected,
    rule_bus,
    rule_delegated,
    rule_job,
    rule_virtual_machine,
)
from runbook.host.ownership.ruling import RoleRuling

from .scene import MANAGER, SESSION, place, process, scene, unit

NOMAD = unit("nomad.service", main_pid=50)
AGENT = process(50, name="nomad", cgroup="/system.slice/nomad.service")
JOB = process(74, ppid=50, cgroup="/nomad.slice/share.slice/0f3c.web.scope")
USERS = "/user.slice/user-1000.slice/user@1000.service"


def job(one: Process, *others: Process, units: tuple[Unit, ...] = (NOMAD,), **of_unit: Any) -> RoleRuling | None:
    return rule_job(scene(one, *others, units=units, **of_unit), one, place(one))


def test_a_job_below_a_live_service() -> None:
    ruling = job(JOB, AGENT)
    assert ruling is not None
    assert (ruling.role, ruling.unit, ruling.stop_verb) == (Role.OTHER_UNIT, "nomad.service", "")
    assert ruling.protection == (
        "it descends from PID 50 (nomad) of nomad.service, a live service; have nomad.service stop it, "
        "or kill it by hand if it is not needed: kill 74"
    )
    # In whichever cgroup it is: of PBS, which names it like a service, in a scope of systemd's, in a login by `su`.
    for cgroup in ("/pbs_jobs.service/jobid/42", "/system.slice/run-r1.scope", SESSION):
        assert job(replace(JOB, cgroup=cgroup), AGENT) is not None


def test_a_job_below_a_service_of_a_user() -> None:
    ruling = job(JOB, replace(AGENT, user="anna", cgroup=f"{USERS}/app.slice/agent.service"))
    assert ruling is not None
    assert "PID 50 (nomad) of agent.service of the user manager of anna" in ruling.why
    assert ruling.unit == "0f3c.web.scope"


@pytest.mark.parametrize(
    "between",
    [
        {"name": "bash", "command": ("-bash",), "has_terminal": True},
        {"name": "sshd", "exe": ""},
        {"name": "systemd", "cgroup": MANAGER},
    ],
)
def test_what_was_started_in_a_login_is_no_job(between: dict[str, Any]) -> None:
    server = process(74, ppid=60, cgroup=SESSION)
    assert job(server, process(60, **{"ppid": 50, "cgroup": SESSION, **between}), AGENT) is None


def test_a_shell_that_reads_its_script_from_its_input_is_part_of_the_job() -> None:
    """As GitLab's runner starts its jobs: `su - USER <SCRIPT`. No terminal is there to type into."""
    server, shell = process(74, ppid=60, cgroup=SESSION), process(60, ppid=50, name="bash", command=("-bash",))
    ruling = job(server, replace(shell, cgroup=SESSION), AGENT)
    assert ruling is not None
    assert (ruling.role, ruling.unit) == (Role.OTHER_UNIT, "nomad.service")


def test_below_a_service_that_is_down_there_is_no_job() -> None:
    down = replace(NOMAD, active_state=ActiveState.FAILED, main_pid=0)
    in_a_scope = replace(JOB, cgroup="/system.slice/run-r1.scope")
    units = (down, unit("run-r1.scope"))
    assert job(in_a_scope, AGENT, units=units) is None
    # In a cgroup that systemd does not know, any program may be the manager; sudo and a shell are none.
    ruling = job(JOB, AGENT, units=units)
    assert ruling is not None
    assert "from PID 50 (nomad), in a cgroup that systemd does not know (/nomad.slice/share" in ruling.why
    assert job(JOB, replace(AGENT, name="sudo"), units=units) is None


def test_one_process_of_the_cgroup_with_a_manager_is_enough() -> None:
    lost, mate = process(75, cgroup="/jobs/1"), replace(JOB, cgroup="/jobs/1")
    assert job(lost, mate, AGENT) is not None
    assert job(lost, AGENT) is None
    assert job(replace(lost, cgroup="/"), replace(JOB, cgroup="/"), AGENT) is None, "all processes are below that one"


@pytest.mark.parametrize("name", ["nomad.service", "nomadd.service"])
def test_a_job_without_a_parent_is_named_by_the_topmost_cgroup(name: str) -> None:
    lost = replace(JOB, ppid=1)
    ruling = job(lost, units=(unit(name),))
    assert ruling is not None
    assert ruling.unit == name
    assert job(lost, units=(unit(name, active_state=ActiveState.FAILED),)) is None
    assert job(replace(lost, cgroup="/evil\v::/nomad.slice"), units=(unit(name),)) is None


@pytest.mark.parametrize(
    ("cgroup", "active", "role"),
    [
        ("/system.slice/run-r1.scope", ActiveState.ACTIVE, Role.CURRENT),
        ("/system.slice/run-r1.scope", ActiveState.FAILED, None),
        ("/by/hand", ActiveState.FAILED, Role.UNKNOWN),
    ],
)
def test_below_a_process_of_the_unit_itself(cgroup: str, active: ActiveState, role: Role | None) -> None:
    """Not below its main process, of which there is another rule. A leftover may run jobs, too."""
    parent, child = process(60), process(74, ppid=60, cgroup=cgroup)
    ruling = job(child, parent, units=(unit("run-r1.scope"),), active_state=active, main_pid=0)
    assert (ruling.role if ruling else None) is role


SCOPE = "/system.slice/slurmstepd.scope"


def delegated(one: Process, *others: Process, delegate: bool = False) -> RoleRuling | None:
    scope = unit("slurmstepd.scope", delegate=delegate)
    return rule_delegated(scene(one, *others, units=(scope,)), one, place(one))


def test_a_delegated_scope_with_a_live_manager() -> None:
    task = process(74, cgroup=f"{SCOPE}/job_42/task_0")
    manager = process(60, name="slurmstepd", cgroup=f"{SCOPE}/system")
    ruling = delegated(task, manager)
    assert ruling is not None
    assert ruling.why == "it is in the delegated scope slurmstepd.scope, beside PID 60 (slurmstepd)"
    assert "; have PID 60 (slurmstepd) stop it, or" in ruling.protection
    # The property tells of a process in the scope itself.
    flat = replace(task, cgroup=SCOPE)
    assert delegated(flat, manager, delegate=True) is not None
    assert delegated(flat, manager) is None


def test_a_delegated_scope_without_another_process_has_no_manager() -> None:
    task = process(74, cgroup=f"{SCOPE}/job_42")
    assert delegated(task, process(75, ppid=74, cgroup=f"{SCOPE}/worker"), process(9, cgroup="/other")) is None


def test_a_message_bus_owns_no_port_for_certain() -> None:
    bus = process(17, name="dbus-daemon", cgroup="/system.slice/dbus.service")
    ruling = rule_bus(bus, place(bus))
    assert ruling is not None
    assert (ruling.role, ruling.unit) == (Role.UNKNOWN, "dbus.service")
    assert rule_bus(JOB, place(JOB)) is None


def test_virtual_machines() -> None:
    context = scene(JOB)
    assert rule_virtual_machine(context, JOB, place(JOB)) is None
    context.kernel.virtual_machines = (74,)  # type: ignore[attr-defined]
    ruling = rule_virtual_machine(context, JOB, place(JOB))
    assert ruling is not None
    assert ruling.why.startswith("it runs a virtual machine")


def test_descendants_of_what_is_protected() -> None:
    server = process(74, ppid=60, cgroup=SESSION)
    shell = process(60, ppid=50, name="bash", cgroup=SESSION)
    tmux = process(50, name="tmux: server", exe="/usr/bin/tmux", cgroup=SESSION)
    ruling = rule_below_protected(scene(server, shell, tmux), server, place(server))
    assert ruling is not None
    assert ruling.why.startswith("its ancestor PID 50 (tmux: server) keeps people's connections or terminals")
    for other in (
        replace(tmux, name="sshd", exe=""),
        replace(tmux, name="systemd", exe="/usr/bin/systemd"),
        replace(tmux, cgroup=MANAGER),
    ):
        assert find_inherited_protection(scene(server, shell, other), server) == ""
    vm = scene(server, shell, process(50, name="python3", exe="/usr/bin/python3", cgroup=SESSION))
    vm.kernel.virtual_machines = (50,)  # type: ignore[attr-defined]
    assert "runs a virtual machine" in find_inherited_protection(vm, server)


def test_a_line_of_ancestors_that_is_not_read_to_its_end_may_contain_what_is_protected() -> None:
    line = [process(1000 + at, ppid=999 + at, name="sh", cgroup=SESSION) for at in range(MAX_ANCESTORS)]
    tmux = process(999, name="tmux: server", exe="/usr/bin/tmux", cgroup=SESSION)
    assert find_inherited_protection(scene(tmux, *line), line[-1]) == (
        "it has 64 ancestors or more, so it is unknown whether one of them must not be killed"
    )
    assert find_inherited_protection(scene(tmux, *line), line[-2]).startswith("its ancestor PID 999 (tmux: server)")
    # A line of that length that ends below PID 1 is read as a whole.
    whole = [replace(line[0], ppid=1), *line[1:]]
    assert find_inherited_protection(scene(*whole), whole[-1]) == ""
