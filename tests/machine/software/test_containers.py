"""Real containers of podman and systemd-nspawn hold the port: they are named, not killed, and the stop is advised."""

from __future__ import annotations

import re
from collections.abc import Iterator

import pytest

from tests.machine.ending.staging import listening
from tests.machine.machine import Machine, until
from tests.machine.ownership.staging import PortCase, ask, assert_verdict
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
    # A machine has no nft, no keyring, and no overlay on its own overlay.
    "containers.conf": '[network]\nfirewall_driver = "none"\n[containers]\npids_limit = 0\nkeyring = false\n',
    "storage.conf": '[storage]\ndriver = "vfs"\nrunroot = "/run/pod/run"\ngraphroot = "/run/pod/graph"\n',
}
# podman cannot make cgroups inside a machine.
PODMAN = "podman run --cgroups=disabled --stop-timeout=1 --volume=/usr:/usr:ro"
ANSWERS = "/usr/bin/python3 /opt/answers.py old"
NSPAWN = "systemd-nspawn --quiet --bind-ro=/usr --as-pid2 --directory=/run/box"

CASES = {
    "podman, in the host's network": PortCase(
        "idle",
        "9601",
        "other-unit-holds-port",
        r"held by PID \d+ \(python3\), in shell\.scope",
        "refused-to-kill",
        r"another PID namespace\); stop the container \((podman stop inn)\) or give",
    ),
    "podman, a published port": PortCase(
        "idle",
        "9602",
        "other-unit-holds-port",
        r"held by PID \d+ \(conmon\), in a container",
        "refused-to-kill",
        r"the container's engine can stop it; stop the container \((podman stop harbour)\) or give",
    ),
    "podman, in a service": PortCase(
        "idle",
        "9603",
        "other-unit-holds-port",
        r"held by PID \d+ \(python3\), in boxed\.service",
        "refused-to-kill",
        r"; stop it \((systemctl stop boxed\.service)\) or give",
    ),
    "nspawn": PortCase(
        "idle",
        "9604",
        "other-unit-holds-port",
        r"held by PID \d+ \(python3\), in machine-box\.scope",
        "refused-to-kill",
        r"the container box, .*; stop the container \((machinectl poweroff box)\) or give",
    ),
    "nspawn, in a service": PortCase(
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
    """Start a server in each kind of container."""
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


def test_each_container_is_named_and_the_advised_command_stops_it(engines: Machine) -> None:
    """Nothing is signalled, and the command in the reason frees the port."""
    cases = list(CASES.values())
    seen, plans = ask(engines, "check", "verify-port-owner", cases), ask(engines, "plan", "kill-orphan", cases)
    for case in cases:
        assert_verdict(seen[str(case)], case)
        assert plans[str(case)]["verdict"] == case.kill, plans[str(case)]
        assert re.search(case.why, plans[str(case)]["reason"]), plans[str(case)]["reason"]
    boxed = runbook(engines, "check", "unit: boxed\nport: 9603\nsteps: [verify-port-owner]\n")
    assert boxed.step("verify-port-owner")["verdict"] == "owned", boxed.last
    for case in cases:
        advised = re.search(case.why, plans[str(case)]["reason"])
        assert advised
        engines.run(advised[1].split())
        look = ["ss", "-Hltn", f"sport = :{case.port}"]
        until(lambda look=look: not engines.run(look).stdout, f"port {case.port} to be free")  # type: ignore[misc]
