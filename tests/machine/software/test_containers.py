"""Real containers hold the port, of podman and of systemd-nspawn: named, never ended, and told how each is stopped."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.machine.ending.staging import listening
from tests.machine.machine import Machine, until
from tests.machine.ownership.street import House, ask, assert_said
from tests.machine.runs import runbook, unit_file
from tests.machine.tree import PROJECT

IMAGE = """
mkdir -p /run/image && cd /run/image
mkdir usr etc tmp proc dev sys run opt
for link in bin lib lib64 sbin; do ln -s usr/$link $link; done
echo ID=tiny >etc/os-release
cp "$1" opt/answers.py
cp -a /run/image /run/box
tar -c . | podman import -q - tiny
"""
CONFIGURED = {
    # In a machine there is no nft to be called, no keyring to be made, and no overlay over its own.
    "containers.conf": '[network]\nfirewall_driver = "none"\n[containers]\npids_limit = 0\nkeyring = false\n',
    "storage.conf": '[storage]\ndriver = "vfs"\nrunroot = "/run/pod/run"\ngraphroot = "/run/pod/graph"\n',
}
# In a machine within a machine, the cgroups of its own it would have are not to be had.
PODMAN = "podman run --cgroups=disabled --stop-timeout=1 --volume=/usr:/usr:ro"
ANSWERS = "/usr/bin/python3 /opt/answers.py old"
NSPAWN = "systemd-nspawn --quiet --bind-ro=/usr --as-pid2 --directory=/run/box"

HOUSES = {
    "podman, in the host's network": House(
        "idle",
        "9601",
        "other-unit-holds-port",
        r"held by PID \d+ \(python3\), in shell\.scope",
        "refused-to-kill",
        r"another PID namespace\); stop the container \((podman stop inn)\) or give",
    ),
    "podman, a published port": House(
        "idle",
        "9602",
        "other-unit-holds-port",
        r"held by PID \d+ \(conmon\), in a container",
        "refused-to-kill",
        r"the container's engine can stop it; stop the container \((podman stop harbour)\) or give",
    ),
    "podman, in a service": House(
        "idle",
        "9603",
        "other-unit-holds-port",
        r"held by PID \d+ \(python3\), in boxed\.service",
        "refused-to-kill",
        r"; stop it \((systemctl stop boxed\.service)\) or give",
    ),
    "nspawn": House(
        "idle",
        "9604",
        "other-unit-holds-port",
        r"held by PID \d+ \(python3\), in machine-box\.scope",
        "refused-to-kill",
        r"the container box, .*; stop the container \((machinectl poweroff box)\) or give",
    ),
    "nspawn, in a service": House(
        "idle",
        "9605",
        "other-unit-holds-port",
        r"held by PID \d+ \(python3\), in cell\.service",
        "refused-to-kill",
        r"another PID namespace\); stop it \((systemctl stop cell\.service)\) or give",
    ),
}


@pytest.fixture
def engines(machine: Machine) -> Iterator[Machine]:
    """Each of them runs a server."""
    for name, text in CONFIGURED.items():
        machine.write(f"/etc/containers/{name}", text)
    server = f"{PROJECT}/tests/machine/readiness/answers.py"
    machine.run(["sh", "-ec", IMAGE, "sh", server])
    units = {
        "idle": "/usr/bin/sleep infinity",
        "boxed": f"/usr/bin/{PODMAN} --rm --network=host tiny {ANSWERS} 127.0.0.1:9603",
        "jail": f"/usr/bin/{NSPAWN} --machine=box {ANSWERS} 127.0.0.1:9604",
        "cell": f"/usr/bin/{NSPAWN} --ephemeral --machine=cell --register=no --keep-unit {ANSWERS} 127.0.0.1:9605",
    }
    for name, start in units.items():
        machine.write(f"/etc/systemd/system/{name}.service", unit_file(start, SuccessExitStatus="143 137 SIGKILL"))
    machine.run(["systemctl", "daemon-reload"])
    shell = "systemd-run --quiet --scope --slice=user.slice --unit=shell.scope"
    machine.run(f"{shell} {PODMAN} --detach --name=inn --network=host tiny {ANSWERS} 127.0.0.1:9601".split())
    machine.run(f"{PODMAN} --detach --name=harbour --publish=127.0.0.1:9602:80 tiny {ANSWERS} 0.0.0.0:80".split())
    machine.run(["systemctl", "start", *units])
    listening(machine, set(range(9601, 9606)))
    yield machine
    machine.run(["systemctl", "stop", *units], check=False)
    machine.run(["podman", "rm", "--all", "--force"], check=False)
    machine.run(["systemctl", "reset-failed", *units], check=False)


def test_each_is_named_and_its_own_command_stops_it(engines: Machine) -> None:
    """Nothing is signalled, and what the sentence tells an operator to do frees the port."""
    houses = list(HOUSES.values())
    seen, plans = ask(engines, "check", "verify-port-owner", houses), ask(engines, "plan", "kill-orphan", houses)
    for house in houses:
        assert_said(seen[str(house)], house)
        assert plans[str(house)]["verdict"] == house.kill, plans[str(house)]
        assert re.search(house.why, plans[str(house)]["reason"]), plans[str(house)]["reason"]
    boxed = runbook(engines, "check", "unit: boxed\nport: 9603\nsteps: [verify-port-owner]\n")
    assert boxed.step("verify-port-owner")["verdict"] == "owned", boxed.last
    for house in houses:
        told = re.search(house.why, plans[str(house)]["reason"])
        assert told
        engines.run(told[1].split())
        look = ["ss", "-Hltn", f"sport = :{house.port}"]
        until(lambda look=look: not engines.run(look).stdout, f"port {house.port} to be free")  # type: ignore[misc]
