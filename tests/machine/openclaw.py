"""Installs the real OpenClaw in a throwaway machine, which has no access to a registry.

Node, npm, the installed old version of OpenClaw, and an npm cache are fetched once. The cache is filled by a real
installation of both versions. A machine has them read-only below /opt/openclaw, with overlays where npm writes. So
`npm install --global openclaw@VERSION` works there as usual, without a network, in about 25 s.

`python -m tests.machine.openclaw` fetches. It needs an npm on the PATH.
"""

from __future__ import annotations

import os
import platform
import shutil
import subprocess
import sys
from pathlib import Path

from tests.machine.incident import NEW, OLD, PORT, Incident, holders, in_login
from tests.machine.machine import Machine, until
from tests.machine.tree import USER, cache, locked

UNIT = "openclaw-gateway.service"
TOKEN = "not-a-secret-in-a-throwaway-machine"
NODE_MAJOR, NPM_MAJOR = 22, 10
"""OpenClaw needs Node 22.14 or newer, and Node 22 comes with npm 10."""

RECIPE = 1
"""Version of this file's recipe. Raise it if the same versions lead to other files."""

_INSIDE = "/opt/openclaw"
_ARCHITECTURE = {"x86_64": "x64", "aarch64": "arm64"}

# This is the unit of the incident. With RestartSec=2 it reads "active (running)" three times out of four.
SERVICE = f"""\
[Unit]
Description=OpenClaw Gateway
StartLimitIntervalSec=60
StartLimitBurst=5

[Service]
Type=simple
User={USER}
Environment=OPENCLAW_GATEWAY_TOKEN={TOKEN}
ExecStart=/usr/local/bin/openclaw gateway --port {PORT} --allow-unconfigured
Restart=always
RestartSec=2

[Install]
WantedBy=multi-user.target
"""

# The tmpfs is needed because an overlay cannot be made on that of the machine; redirect_dir, because npm renames the
# folder of the old version.
_OVERLAYS = f"""
mkdir /run/npm
mount -t tmpfs -o size=3G tmpfs /run/npm
lay() {{
    mkdir -p "/run/npm/$1/upper" "/run/npm/$1/work" "$2"
    mount -t overlay overlay "$2" -o \\
        "redirect_dir=on,lowerdir={_INSIDE}/$1,upperdir=/run/npm/$1/upper,workdir=/run/npm/$1/work"
}}
lay npm-cache /var/cache/npm
lay node_modules /usr/local/lib/node_modules
ln -s {_INSIDE}/npm/bin/npm-cli.js /usr/local/bin/npm
ln -s ../lib/node_modules/openclaw/openclaw.mjs /usr/local/bin/openclaw
"""


def fetched() -> Path:
    """Return the folder with the files. Fetch them if the cache has none, which takes about two minutes.

    Raises CalledProcessError if npm fails, and FileNotFoundError if there is no npm.
    """
    home = cache() / "openclaw" / f"{OLD}-{NEW}-node{NODE_MAJOR}-npm{NPM_MAJOR}-{platform.machine()}-{RECIPE}"
    if home.is_dir():
        return home
    home.parent.mkdir(parents=True, exist_ok=True)
    with locked(home.parent / ".lock"):
        if not home.is_dir():
            partial = home.with_name(f"{home.name}.partial")
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            print(f"fetching OpenClaw {OLD} and {NEW} into {home} (once) …", file=sys.stderr, flush=True)
            _fetch(partial)
            partial.rename(home)
    return home


def _fetch(folder: Path) -> None:
    node = f"node-linux-{_ARCHITECTURE[platform.machine()]}"
    (folder / "tools").mkdir()
    (folder / "tools/package.json").write_text('{"private": true}\n')
    subprocess.run(
        ["npm", "install", *_QUIET, f"{node}@{NODE_MAJOR}", f"npm@{NPM_MAJOR}"],
        cwd=folder / "tools",
        check=True,
    )
    modules = folder / "tools/node_modules"
    (modules / node / "bin/node").rename(folder / "node")
    (modules / "npm").rename(folder / "npm")

    # From here on use the Node and npm of the machine, as another npm may not accept the cache.
    npm = [str(folder / "node"), str(folder / "npm/bin/npm-cli.js")]
    registry = subprocess.run(
        [*npm, "config", "get", "registry"], check=True, stdout=subprocess.PIPE, text=True, cwd=folder
    )
    (folder / "registry").write_text(registry.stdout)
    path = f"{folder}:{os.environ['PATH']}"
    for version in (NEW, OLD):
        # The old version stays installed. The new one is installed only to fill the cache.
        shutil.rmtree(folder / "prefix", ignore_errors=True)
        install = [
            *npm,
            "install",
            *_QUIET,
            "--global",
            f"--prefix={folder}/prefix",
            f"--cache={folder}/npm-cache",
        ]
        subprocess.run([*install, f"openclaw@{version}"], check=True, env={**os.environ, "PATH": path})
    (folder / "prefix/lib/node_modules").rename(folder / "node_modules")
    shutil.rmtree(folder / "prefix")
    shutil.rmtree(folder / "tools")
    shutil.rmtree(folder / "npm-cache/_logs", ignore_errors=True)


_QUIET = ("--no-audit", "--no-fund", "--no-update-notifier", "--loglevel=error")


def machine_with_openclaw(suite: str) -> Machine:
    """Return a machine, not booted yet, in which the fetched files are bound."""
    home = fetched()
    bind = {home / part: f"{_INSIDE}/{part}" for part in ("npm", "npm-cache", "node_modules")}
    return Machine(suite, bind={**bind, home / "node": "/usr/local/bin/node"})


def install_openclaw(machine: Machine) -> None:
    """Install the old version, as `npm install --global` would, and its unit, which is not started."""
    machine.run(["sh", "-euc", _OVERLAYS])
    settings = {
        "registry": (fetched() / "registry").read_text().strip(),
        "offline": "true",
        "cache": "/var/cache/npm",
        "audit": "false",
        "fund": "false",
        "update-notifier": "false",
    }
    machine.write("/usr/local/etc/npmrc", "".join(f"{name}={value}\n" for name, value in settings.items()))
    machine.write(f"/etc/systemd/system/{UNIT}", SERVICE)
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "enable", "--quiet", UNIT])


def stage(machine: Machine) -> Incident:
    """Stage the incident with the real OpenClaw: an orphan of the old version holds the port.

    The unit is not started.
    """
    install_openclaw(machine)
    argv = ["openclaw", "gateway", "--port", str(PORT), "--allow-unconfigured"]
    login = in_login(machine, ["env", f"OPENCLAW_GATEWAY_TOKEN={TOKEN}", *argv])
    # The first start takes longest: 12 to 25 s.
    until(lambda: len(holders(machine)) == 2, "the old gateway to listen", 90)
    return Incident(machine, holders(machine)[0].pid, login)


if __name__ == "__main__":
    print(fetched())
