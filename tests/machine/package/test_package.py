"""The package on clean machines: installed, used, upgraded under a run, removed, and purged."""

from __future__ import annotations

import hashlib
import re
import subprocess
import time
from pathlib import Path

import pytest

from tests.machine.incident import NEW, PORT, UNIT, answer, loop, stage
from tests.machine.machine import Machine, until
from tests.machine.package.conftest import build
from tests.machine.runs import parsed, runbook, unit_file, write_runbook

APT = ["env", "DEBIAN_FRONTEND=noninteractive", "apt-get", "-qq", "--yes", "--no-install-recommends"]
RUNBOOK = "/root/test.yaml"
DEMO = Path(__file__).parent.parent / "demo.yaml"
SERVES = f"/usr/bin/python3 -m http.server --bind 127.0.0.1 {PORT}"
WAITS = f"""
unit: web
port: {PORT}
steps:
  - restart
  - wait-ready:
      healthy-for: 1min
      probes: [http: {{url: "http://127.0.0.1:{PORT}/"}}]
"""
UPGRADES = f"""
unit: web
port: {PORT}
steps:
  - run: {{run: dpkg --install /root/broken.deb}}
  - restart
  - wait-ready:
      healthy-for: 200ms
      probes: [http: {{url: "http://127.0.0.1:{PORT}/"}}]
"""
BREAK = """\
dpkg-deb --raw-extract /srv/package/runbook_*.deb /root/broken
sed -i 's/^Version: .*/&+broken/' /root/broken/DEBIAN/control
find /root/broken/usr/lib/runbook -name '*.py' -exec sh -c 'echo "raise RuntimeError(__file__)" >"$1"' sh {} ';'
dpkg-deb --root-owner-group -Znone --build /root/broken /root/broken.deb
rm -r /root/broken
"""
"""Makes a next version of the package, of which no module can be imported."""


@pytest.fixture
def installed(clean_machine: Machine) -> Machine:
    """Install the package as an administrator does."""
    clean_machine.run([*APT, "update"])
    clean_machine.run(["sh", "-c", f"{' '.join(APT)} install /srv/package/runbook_*.deb"], timeout=200)
    return clean_machine


def test_two_builds_are_equal_and_leave_nothing_in_the_checkout(deb: Path, tmp_path: Path) -> None:
    again = build(tmp_path)
    assert hashlib.sha256(again.read_bytes()).digest() == hashlib.sha256(deb.read_bytes()).digest()
    assert [path.name for path in tmp_path.iterdir()] == [again.name]
    listed = subprocess.run(["dpkg-deb", "--contents", str(deb)], capture_output=True, text=True, check=True).stdout
    assert not re.search(r"__pycache__|\.pyi$|/tests/|/root/", listed, re.MULTILINE)
    checked = subprocess.run(["lintian", "--fail-on", "error", str(deb)], capture_output=True, text=True, check=False)
    assert checked.returncode == 0, checked.stdout


def test_a_service_s_incident_on_a_clean_machine(installed: Machine) -> None:
    began = time.monotonic()
    first = installed.run(["runbook", "doctor"], check=False)
    print(f"the first answer of runbook doctor after {time.monotonic() - began:.2f} s")
    assert first.returncode == 0, first.stdout + first.stderr
    version = installed.run(["dpkg-query", "--show", "--showformat=${Version}", "runbook"]).stdout
    for user in ("root", "agentops"):
        assert installed.run(["runbook", "--version"], user=user).stdout == f"runbook {version}\n"
    # Every module is compiled, and none is imported from elsewhere.
    code = "import sys; sys.path.insert(0, '/usr/lib/runbook'); import runbook, pydantic_core, typer, rich, websockets"
    checks = "[print(m.__file__, m.__cached__) for m in (runbook, pydantic_core, typer, rich, websockets)]"
    for line in installed.run(["python3", "-sP", "-c", f"{code}; {checks}"]).stdout.splitlines():
        assert line.startswith("/usr/lib/runbook/"), line
        installed.run(["test", "-s", line.split()[1]])

    incident = stage(installed)
    loop(installed)
    sick = installed.run(["runbook", "doctor", UNIT, "--output", "json"], check=False)
    assert sick.returncode == 1
    assert "orphan-holds-port" in sick.stdout
    fixed = runbook(installed, "apply", DEMO.read_text())
    assert (fixed.exit, fixed.last["status"]) == (0, "remediated"), fixed.last
    assert answer(installed)["version"] == NEW
    incident.clear()


def test_a_run_continues_while_the_package_is_upgraded_removed_and_purged(installed: Machine) -> None:
    machine = installed
    machine.run(["sh", "-ec", BREAK])
    machine.write("/etc/systemd/system/web.service", unit_file(SERVES))
    machine.run(["systemctl", "daemon-reload"])
    # The package is replaced while a run waits. Its end is a failure, which needs most of the modules.
    write_runbook(machine, WAITS)
    with machine.popen(["runbook", "apply", RUNBOOK, "--output", "json"]) as process:
        until(lambda: machine.run(["curl", "-s", f"127.0.0.1:{PORT}"], check=False).returncode == 0, "the service")
        time.sleep(2)  # A run loads its modules within a second, and waits much longer.
        machine.run(["dpkg", "--install", "/root/broken.deb"])
        assert machine.run(["runbook", "--version"], check=False).returncode == 1
        machine.run(["systemctl", "stop", "web.service"])
        out, err = process.communicate(timeout=60)
    ended = parsed(out, process.returncode, err)
    assert (ended.exit, err) == (1, ""), ended.last
    assert ended.last["verdict"] == "unit-exited", ended.last

    # The package is replaced by a command of the run itself.
    machine.run(["sh", "-c", "dpkg --force-downgrade --install /srv/package/runbook_*.deb"])
    ended = runbook(machine, "apply", UPGRADES)
    assert (ended.exit, ended.stderr) == (0, ""), ended.last
    assert ended.last["status"] == "changed"
    assert "+broken" in machine.run(["dpkg-query", "--show", "runbook"]).stdout

    # What belongs to the administrator stays until the package is purged.
    machine.run(["sh", "-c", "dpkg --force-downgrade --install /srv/package/runbook_*.deb"])
    machine.write("/etc/runbook/notify.yaml", "[]\n")
    machine.write("/etc/runbook/web.yaml", UPGRADES)
    machine.write("/etc/needrestart/restart.d/web.service", "#!/bin/sh\nprogram=/usr/bin/runbook\n", 0o755)
    assert len(machine.run(["runbook", "history", "--output", "json"]).stdout.splitlines()) == 2
    machine.run([*APT, "remove", "runbook"])
    left = machine.run(["find", "/usr", "/etc", "/var/lib/runbook", "-xdev", "-path", "*runbook*"]).stdout.split()
    assert [path for path in left if path.startswith("/usr")] == []
    assert {"/etc/runbook/notify.yaml", "/etc/runbook/web.yaml", "/var/lib/runbook/runs"} <= set(left)
    machine.run([*APT, "purge", "runbook"])
    left = machine.run(["find", "/", "-xdev", "-name", "*runbook*", "-not", "-path", "/srv/*"]).stdout.split()
    assert left == []
    assert machine.run(["ls", "/etc/needrestart/restart.d"]).stdout == ""
    assert machine.run(["dpkg", "--audit"]).stdout == ""
