"""A service that needrestart restarts after an upgrade of one of its small packages, and these packages."""

from __future__ import annotations

from tests.machine.incident import holders
from tests.machine.machine import Machine, until
from tests.machine.runs import unit_file

UNIT = "shop.service"
PORT = 8080

# It has the libraries of all packages mapped, as a service has its shared libraries: needrestart looks for mappings of
# files that were replaced.
SERVER = """
import glob, http.server, mmap, os, socket
held = []
for path in sorted(glob.glob("/usr/lib/shop/*.so")):
    with open(path) as file:
        held.append(mmap.mmap(file.fileno(), 0, flags=mmap.MAP_PRIVATE, prot=mmap.PROT_READ | mmap.PROT_EXEC))
server = http.server.HTTPServer(("127.0.0.1", 8080), http.server.SimpleHTTPRequestHandler)
socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).sendto(b"READY=1", os.environ["NOTIFY_SOCKET"])
server.serve_forever()
"""

# Arguments: the name and the version of a package, its postinst, and its Pre-Depends.
BUILD = r"""
name=$1 version=$2 tree=$(mktemp -d)
chmod 755 "$tree"
mkdir -p "$tree/DEBIAN" "$tree/usr/lib/shop"
printf '%s\n' "Package: $name" "Version: $version" 'Architecture: all' 'Maintainer: shop <shop@localhost>' \
    'Description: a library' >"$tree/DEBIAN/control"
if [ "$4" ]; then echo "Pre-Depends: $4" >>"$tree/DEBIAN/control"; fi
if [ "$3" ]; then printf '#!/bin/sh\n%s\n' "$3" >"$tree/DEBIAN/postinst"; chmod 755 "$tree/DEBIAN/postinst"; fi
head -c 8192 /dev/urandom >"$tree/usr/lib/shop/$name.so"
dpkg-deb --root-owner-group -Znone --build "$tree" "/root/${name}_$version.deb" >/dev/null
"""
RESTARTS = f"systemctl restart {UNIT}"


def build(machine: Machine, name: str, version: int, postinst: str = "", needs: str = "") -> str:
    machine.run(["sh", "-ec", BUILD, "sh", name, str(version), postinst, needs])
    return f"/root/{name}_{version}.deb"


def install(machine: Machine, *packages: str) -> str:
    """Install packages as unattended-upgrades does: without a terminal, and without a question."""
    command = ["apt-get", "install", "--quiet", "--yes", "--no-install-recommends", *packages]
    return machine.run(command, timeout=150, env={"DEBIAN_FRONTEND": "noninteractive"}).stdout


def start(machine: Machine, burst: int, interval: str) -> None:
    """Start the service with a start limit."""
    limit = {"Unit_StartLimitBurst": str(burst), "Unit_StartLimitIntervalSec": interval}
    machine.write("/opt/shop.py", SERVER)
    # When a restart returns, it has the libraries mapped: what is replaced after that is noticed.
    text = unit_file("/usr/bin/python3 /opt/shop.py", Type="notify", NotifyAccess="all", **limit)
    machine.write(f"/etc/systemd/system/{UNIT}", text)
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "start", UNIT])
    until(lambda: holders(machine, PORT), f"port {PORT} to be held")


def three_that_restart(machine: Machine, version: int) -> list[str]:
    """Build three packages whose scripts restart the service, and one whose library is replaced after that.

    The scripts of the first version do nothing.
    """
    names = ["shop-b", "shop-c", "shop-d"]
    three = [build(machine, name, version, RESTARTS if version > 1 else "") for name in names]
    needs = ", ".join(f"{name} (>= {version})" for name in names)
    return [*three, build(machine, "shop-a", version, needs=needs)]


def restart_services(machine: Machine) -> None:
    """Configure needrestart so that it restarts services without a question."""
    machine.write("/etc/needrestart/conf.d/restart.conf", "$nrconf{restart} = 'a';\n")


def installed(machine: Machine) -> None:
    """Install the service, and build ten more versions of its package."""
    restart_services(machine)
    install(machine, *[build(machine, "shop-a", version) for version in range(11)][:1])
    start(machine, 3, "40s")


def recovered(machine: Machine) -> None:
    """Start the service again after its start limit was reached."""
    machine.run(["systemctl", "reset-failed", UNIT])
    machine.run(["systemctl", "start", UNIT])
    until(lambda: holders(machine, PORT), f"port {PORT} to be held")
