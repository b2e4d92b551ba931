"""The package on clean machines: installed, used, upgraded under a run, removed, and purged."""

from __future__ import annotations

import re
import tarfile
import time
import zipfile
from pathlib import Path

import pytest
from packaging.metadata import Metadata

from tests.docs import blocks_of_test
from tests.machine.incident import NEW, PORT, UNIT, answer, loop, stage
from tests.machine.machine import Machine, until
from tests.machine.package.build import build, run
from tests.machine.runs import RUNBOOK, parsed, runbook, unit_file, write_runbook
from tests.machine.tree import CHECKOUT, USER, WHEELS

TYPED = """\
set -eu
sudo() { while [ "${1#--}" != "$1" ]; do shift; done; "$@"; }
apt() { DEBIAN_FRONTEND=noninteractive apt-get -qq --yes "$@"; }
cd /srv/package
"""
"""How the commands of the pages are run: by root, who is not asked, in the folder of the package."""
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


def type_in(machine: Machine, commands: str) -> str:
    """Run commands as a page shows them, and return their output."""
    return machine.run(["bash", "-c", TYPED + commands.replace("$ ", "")], timeout=200).stdout


@pytest.fixture
def installed(clean_machine: Machine) -> Machine:
    """Install the package as the pages show it, and return the machine."""
    readme, page, _ = blocks_of_test("test_the_package_on_a_clean_machine")
    assert readme == page
    clean_machine.run(["apt-get", "-qq", "update"])
    type_in(clean_machine, page)
    return clean_machine


@pytest.mark.timeout(400)
def test_two_builds_are_equal_and_leave_nothing_else(packages: Path, tmp_path: Path) -> None:
    build(tmp_path)
    names = sorted(path.name for path in packages.iterdir())
    assert [re.sub(r"\d+\.\d+\.\d+", "N", name) for name in names] == [
        "runbook_N_amd64.deb",
        "systemd_runbook-N-py3-none-any.whl",
        "systemd_runbook-N.tar.gz",
    ]
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    assert [name for name in names if (tmp_path / name).read_bytes() != (packages / name).read_bytes()] == []


def test_the_package_is_clean(packages: Path) -> None:
    [deb] = packages.glob("*.deb")
    listed = run("dpkg-deb", "--contents", str(deb))
    assert len({tuple(line.split()[3:5]) for line in listed.splitlines()}) == 1, "the files have several times"
    assert not re.search(r"__pycache__|/\.agents|\.pyi$|/tests/|/root/", listed, re.MULTILINE)
    run("lintian", "--fail-on", "error", str(deb))


def test_the_package_on_a_clean_machine(installed: Machine) -> None:
    # `doctor` finds nothing wrong, or the command would fail.
    first = type_in(installed, blocks_of_test("test_the_package_on_a_clean_machine")[2])
    version = installed.run(["dpkg-query", "--show", "--showformat=${Version}", "runbook"]).stdout
    assert first.startswith(f"runbook {version}\n")
    assert installed.run(["runbook", "--version"], user=USER).stdout == f"runbook {version}\n"
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


def test_the_package_is_upgraded_under_a_run_removed_and_purged(installed: Machine) -> None:
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
    remove, purge = blocks_of_test("test_the_package_is_upgraded_under_a_run_removed_and_purged")
    type_in(machine, remove)
    left = machine.run(["find", "/usr", "/etc", "/var/lib/runbook", "-xdev", "-path", "*runbook*"]).stdout.split()
    assert [path for path in left if path.startswith("/usr")] == []
    assert {"/etc/runbook/notify.yaml", "/etc/runbook/web.yaml", "/var/lib/runbook/runs"} <= set(left)
    type_in(machine, purge)
    left = machine.run(["find", "/", "-xdev", "-name", "*runbook*", "-not", "-path", "/srv/*"]).stdout.split()
    assert left == []
    assert machine.run(["ls", "/etc/needrestart/restart.d"]).stdout == ""
    assert machine.run(["dpkg", "--audit"]).stdout == ""


def test_the_wheel_and_the_source_archive_have_valid_metadata(packages: Path) -> None:
    [wheel] = packages.glob("*.whl")
    [source] = packages.glob("*.tar.gz")
    with zipfile.ZipFile(wheel) as built, tarfile.open(source) as archive:
        [in_wheel] = [built.read(name) for name in built.namelist() if name.endswith(".dist-info/METADATA")]
        names = archive.getnames()
        packed = archive.extractfile(next(name for name in names if name.count("/") == 1 and name.endswith("PKG-INFO")))
        assert packed is not None
        for text in (in_wheel, packed.read()):
            metadata = Metadata.from_email(text)
            assert (metadata.name, metadata.description_content_type) == ("systemd-runbook", "text/markdown")
        modules = {str(path.relative_to(CHECKOUT / "src")) for path in (CHECKOUT / "src/runbook").rglob("*.py")}
        assert modules <= set(built.namelist())
        assert {f"{source.name.removesuffix('.tar.gz')}/src/{module}" for module in modules} <= set(names)


def test_pipx(suite: str, clean_machine: Machine, packages: Path) -> None:
    machine = clean_machine
    install, remove = blocks_of_test("test_pipx")
    offline = f"export PIP_NO_INDEX=1 PIP_FIND_LINKS={WHEELS}\n"
    machine.run(["apt-get", "-qq", "update"])
    type_in(machine, offline + install)
    [wheel] = packages.glob("*.whl")
    assert machine.run(["runbook", "--version"]).stdout == f"runbook {wheel.name.split('-')[1]}\n"
    assert machine.run(["runbook", "doctor"]).stdout
    type_in(machine, remove)
    assert machine.run(["sh", "-c", "command -v runbook"], check=False).returncode != 0
    if suite == "bookworm":  # Once is enough: each installation takes ten seconds.
        return
    type_in(machine, offline + install.replace("--system-site-packages ", ""))
    refused = machine.run(["runbook", "doctor"], check=False)
    assert refused.returncode == 5
    assert "cannot reach systemd: the Python module gi is missing" in refused.stderr
    assert "--system-site-packages" in refused.stderr
