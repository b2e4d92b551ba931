"""`runbook doctor` in the incident: a loop beside an orphan, the reached start limit, and the unit once it is fixed."""

from __future__ import annotations

from tests.machine.doctor.doctoring import carry_out, causes, diagnosed, doctor
from tests.machine.incident import PORT, UNIT, Incident, holders, install_gateway, loop, remove_unit
from tests.machine.machine import Machine, until
from tests.machine.tree import USER


def test_a_loop_beside_an_orphan_that_its_commands_end(machine: Machine, incident: Incident) -> None:
    loop(machine)
    found = diagnosed(machine, UNIT)
    assert (found["exit"], found["severity"], found["verdict"]) == (1, "problem", "orphan-holds-port")
    assert found["summary"].endswith(f"what answers on port {PORT} is PID {incident.orphan} (gateway)")
    assert f"PID {incident.orphan} (gateway), a copy of the unit's own program, was started in a login" in causes(found)
    assert f"each start of {UNIT} finds port {PORT} in use" in causes(found)
    [port] = found["ports"]
    assert {"its log: in use", "ExecStart="} == set(port["found-in"])
    assert [command.split()[:3] for command in found["commands"]] == [
        ["systemctl", "reset-failed", UNIT],
        ["systemctl", "stop", UNIT],
        ["kill", str(incident.orphan)],
        ["timeout", "10", "tail"],
        ["systemctl", "start", UNIT],
    ]
    carry_out(machine, found["commands"])
    until(lambda: holders(machine), "the unit to listen")
    found = diagnosed(machine, UNIT)
    assert (found["exit"], found["severity"], found["causes"], found["commands"]) == (0, "ok", [], [])


def test_the_reached_start_limit(machine: Machine, incident: Incident) -> None:
    machine.run(["systemctl", "start", UNIT])
    until(lambda: machine.show(UNIT, "ActiveState")["ActiveState"] == "failed", "the start limit", 60)
    found = diagnosed(machine, UNIT)
    assert found["summary"] == f"{UNIT} is down; what answers on port {PORT} is PID {incident.orphan} (gateway)"
    assert f"the start limit (5 starts in 1min) is reached: systemd refuses to start {UNIT}" in causes(found)
    assert "port 18789 is already in use" in str(found["journal"]["unit"])
    # The incident's own way out, and the same by one command of this program.
    assert found["proved-restart"] == f"runbook restart {UNIT} --port {PORT} --fix"
    machine.run(["sh", "-c", found["proved-restart"]])
    assert diagnosed(machine, UNIT)["exit"] == 0


def test_without_rights(machine: Machine, incident: Incident) -> None:
    """The orphan is the user's own, so that only systemctl needs sudo."""
    loop(machine)
    found = diagnosed(machine, UNIT, user=USER)
    assert (found["exit"], found["verdict"]) == (1, "orphan-holds-port")
    assert [command.split()[0] for command in found["commands"]] == ["sudo", "sudo", "kill", "timeout", "sudo"]
    # Another user cannot read the orphan, and that is no health.
    found = diagnosed(machine, UNIT, user="nobody")
    assert (found["exit"], found["verdict"]) == (1, "owner-unknown")
    assert "run it as root, which can read every process" in found["unseen"][0]


def test_a_healthy_unit_for_root_and_for_a_user_without_rights(machine: Machine) -> None:
    install_gateway(machine, start_seconds=0)
    machine.run(["systemctl", "start", UNIT])
    until(lambda: holders(machine), "the unit to listen")
    for user in (None, USER):
        found = diagnosed(machine, UNIT, user=user)
        assert (found["exit"], found["severity"], found["unseen"]) == (0, "ok", [])
        assert [port["port"] for port in found["ports"]] == [str(PORT)]
    # Another user sees where the socket was created, and not which process has it now.
    found = diagnosed(machine, UNIT, user="nobody")
    assert (found["exit"], found["severity"], found["verdict"]) == (1, "warning", "owner-unknown")
    assert "run it as root, which can read every process" in found["unseen"][0]
    remove_unit(machine, UNIT)
    machine.run(["rm", "-rf", "/opt/gateway", "/usr/local/bin/gatewayctl"])


def test_a_unit_that_does_not_exist(machine: Machine) -> None:
    done = doctor(machine, "dbu")
    assert done.returncode == 5
    assert "systemd has no unit dbu.service; did you mean dbus.service?" in done.stderr
    assert "has no unit frobnicate.service\n" in doctor(machine, "frobnicate").stderr


def test_it_loads_neither_pydantic_nor_yaml(machine: Machine) -> None:
    names = "sys.stderr.write(' '.join(sys.modules))"
    program = f"import atexit, sys; atexit.register(lambda: {names}); from runbook import cli; cli.main()"
    python = machine.run(["sh", "-c", "head -1 $(command -v runbook) | cut -c3-"]).stdout.strip()
    done = machine.run([python, "-c", program, "doctor", "dbus"], check=False)
    assert done.returncode == 0, done.stderr
    assert "runbook.doctor.unit" in done.stderr
    assert not {"pydantic", "yaml", "jinja2"} & set(done.stderr.split())
