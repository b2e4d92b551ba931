"""Why another process has a port of the unit."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runbook.host.queries import FileText
from runbook.model import Port
from tests.unit.doctor.diagnosed import causes, diagnose, incident, only, orphan
from tests.unit.fake_machine import EARLIER, process, unit


def test_an_orphan_that_was_started_in_a_login() -> None:
    (cause,) = diagnose(incident()).causes
    assert cause.sentence == (
        "PID 74 (gateway), a copy of the unit's own program, was started in a login of agentops (session-9.scope); it "
        "has no INVOCATION_ID, which systemd sets for every process of a unit; its command line is "
        "`/usr/bin/gateway --port 18789`; each start of gw.service finds port 18789 in use, and exits"
    )
    assert cause.prevention == "start it only through systemd (systemctl start gw.service), never by hand"


def test_the_invocation_of_a_scope_is_no_sign_of_a_unit_that_was_left() -> None:
    machine = incident()
    machine.processes[74] = orphan(cgroup="/system.slice/run-p1744.scope", invocation_id=EARLIER)
    assert "in run-p1744.scope of agentops; its command line is" in causes(machine)[0]
    assert "INVOCATION_ID" not in causes(machine)[0]


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"environment": ()}, "was started in a login of agentops (session-9.scope);"),
        ({"invocation_id": EARLIER}, "a unit started it, by its INVOCATION_ID, and it left the cgroup"),
        (
            {"cgroup": "/user.slice/run-r1.scope"},
            "was started by hand (systemd-run --scope) in run-r1.scope of agentops",
        ),
        ({"cgroup": "/user.slice"}, "runs in /user.slice, which belongs to no service"),
    ],
)
def test_where_an_orphan_was_started(changes: dict[str, Any], text: str) -> None:
    machine = incident()
    machine.processes[74] = orphan(**changes)
    (sentence,) = causes(machine)
    assert text in sentence


def test_another_program_is_no_copy_and_without_a_line_of_the_log_it_is_in_no_ones_way() -> None:
    machine = incident()
    machine.refused_ports.clear()
    machine.processes[74] = replace(orphan(), command=("/usr/bin/other",), exe="/usr/bin/other", name="other")
    (cause,) = diagnose(machine, "gw.service", Port(18789)).causes
    assert "a copy" not in cause.sentence
    assert "finds port" not in cause.sentence
    assert not cause.prevention


def test_a_user_unit_of_the_same_name() -> None:
    machine = incident()
    cgroup = "/user.slice/user-1000.slice/user@1000.service/app.slice/gw.service"
    machine.processes[74] = orphan(cgroup=cgroup)
    (cause,) = diagnose(machine).causes
    assert cause.sentence == "the user manager of agentops has a unit of the same name, which holds port 18789"
    assert "systemctl --user -M agentops@ disable --now gw.service" in cause.prevention
    machine.processes[74] = orphan(cgroup=cgroup.replace("gw.service", "other.service"))
    assert "same name" not in str(causes(machine))


def test_the_parent_of_an_orphan_may_start_it_again() -> None:
    machine = incident()
    machine.processes[74] = orphan(ppid=70)
    cgroup = machine.processes[74].cgroup
    machine.processes[70] = process(70, name="pm2", command=("/usr/bin/pm2",), cgroup=cgroup, started=50.0)
    assert causes(machine)[0].endswith(
        "; its parent, PID 70 (pm2), belongs to no service either, and may start it again: stop that one first"
    )


@pytest.mark.parametrize(
    ("name", "command"), [("bash", ("-bash",)), ("tmux: server", ("tmux",)), ("sh", ("sh", "-c", "gateway & wait"))]
)
def test_a_shell_or_a_terminal_starts_nothing_again(name: str, command: tuple[str, ...]) -> None:
    machine = incident()
    machine.processes[74] = orphan(ppid=70)
    cgroup = machine.processes[74].cgroup
    machine.processes[70] = process(70, name=name, command=command, cgroup=cgroup, started=50.0)
    assert "may start it again" not in causes(machine)[0]


@pytest.mark.parametrize(
    ("line", "text", "source"),
    [
        ("/bin/sh -c 'su - agentops -c gateway'", "", "ExecStart="),
        ("/opt/start", "#!/bin/sh\n# never sudo\nexec /usr/bin/su - agentops -c gateway\n", "/opt/start"),
    ],
)
def test_a_start_that_opens_a_login(line: str, text: str, source: str) -> None:
    machine = incident(start_arguments=tuple(line.split(" ", 2)))
    machine.files["/opt/start"] = FileText("/opt/start", text)
    found = only(machine, "its start runs su, which moves what it starts out of the unit's cgroup")
    assert (found.source, found.prevention.startswith("replace su by User=")) == (source, True)


@pytest.mark.parametrize("text", ["#!/bin/sh\n# run it without sudo \nexec gateway\n", "issue sum\n"])
def test_a_start_that_opens_none(text: str) -> None:
    machine = incident(start_arguments=("/opt/start",))
    machine.files["/opt/start"] = FileText("/opt/start", text)
    assert "its start runs" not in str(causes(machine))


def test_another_service_has_the_port() -> None:
    machine = incident()
    machine.units["nginx.service"] = unit("nginx.service", main_pid=74, control_group="/system.slice/nginx.service")
    machine.processes[74] = process(74, name="nginx", cgroup="/system.slice/nginx.service")
    found = only(machine, "port 18789 is held by PID 74 (nginx), in nginx.service")
    assert found.source == "/proc/74/cgroup"
