"""Installs `app` with four package tools, and stages the failures of each at the next version."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial

from tests.machine.machine import Machine, until
from tests.machine.software.releases import DEBIAN, URL, VERSIONS
from tests.machine.tree import PROJECT

SHELF = "/srv/shelf"
OLD, NEW = VERSIONS

REGISTRY = """
import functools, http.server, os, pathlib, time

def wait(for_what):
    while os.path.exists(for_what):
        time.sleep(0.05)

class Answer(http.server.SimpleHTTPRequestHandler):
    def do_GET(self):
        wait("/run/registry-hangs")
        if not os.path.exists("/run/registry-halts"):
            return super().do_GET()
        data = pathlib.Path(self.translate_path(self.path)).read_bytes()
        self.send_response(200)
        self.send_header("Content-Length", str(len(data)))
        self.end_headers()
        self.wfile.write(data[:len(data) // 2])
        wait("/run/registry-halts")

serve = functools.partial(Answer, directory="/srv/shelf")
http.server.ThreadingHTTPServer(("127.0.0.1", 4873), serve).serve_forever()
"""

UNIT = "[Unit]\nStartLimitIntervalSec=0\n[Service]\nExecStart={start}\n[Install]\nWantedBy=multi-user.target\n"
"""A unit without a start limit, as tests restart it more often than upgrades do."""


def npm(machine: Machine) -> None:
    """Install and start version 1.0.0 from a registry in the machine."""
    _publish(machine, "npm")
    machine.write("/root/.npmrc", f"registry={URL}/npm/\nprefix=/usr/local\nupdate-notifier=false\n")
    machine.run(["npm", "install", "--global", f"app@{OLD}"])
    _start(machine, "/usr/local/bin/app")


def apt(machine: Machine) -> None:
    """Install and start version 1:1.0-1~deb12u1 from a repository in the machine, with a changed configuration file."""
    _publish(machine, "apt")
    machine.run(["sh", "-c", "rm -rf /etc/apt/sources.list /etc/apt/sources.list.d/*"])
    machine.write("/etc/apt/sources.list.d/app.list", f"deb [trusted=yes] file:{SHELF}/apt ./\n")
    machine.run(["apt-get", "update", "-q"])
    machine.run(["apt-get", "install", "-qy", f"app={DEBIAN[OLD]}"])
    machine.write("/etc/app.conf", "# mine\n")
    _serves(machine)


def pip(machine: Machine) -> None:
    """Install and start version 1.0.0 in a venv, from an index in the machine."""
    _publish(machine, "pip")
    machine.write("/etc/pip.conf", f"[global]\nindex-url = {URL}/simple/\ndisable-pip-version-check = true\n")
    machine.run(["python3", "-m", "venv", "/opt/app"])
    machine.run(["/opt/app/bin/pip", "install", "--quiet", f"app=={OLD}"])
    _start(machine, "/opt/app/bin/app")


def tarball(machine: Machine) -> None:
    """Install and start version 1.0.0 from /opt/app/current, which is a link."""
    _publish(machine, "tarball")
    machine.run(["mkdir", "-p", f"/opt/app/{OLD}"])
    machine.run(["tar", "-xzf", f"{SHELF}/app-{OLD}.tar.gz", "-C", f"/opt/app/{OLD}"])
    machine.run(["ln", "-s", OLD, "/opt/app/current"])
    _start(machine, "/opt/app/current/server.py")


def kill_half_way(machine: Machine, tool: Tool, book: str) -> tuple[str, str, int]:
    """Apply a runbook, kill the tool half way, and remove the obstacles.

    Return standard output, standard error and the exit status.
    """
    machine.run(["sh", "-ec", tool.halves])
    kill = f"until {tool.half}; do :; done >/dev/null 2>&1; pkill -KILL {tool.victim}"
    with machine.popen(["runbook", "apply", book, "--output", "json"]) as process:
        done = machine.run(["timeout", "30", "sh", "-c", kill], check=False)
        if done.returncode != 0:
            machine.run(["pkill", "-TERM", "-f", "runbook apply"])
        out, err = process.communicate(timeout=30)
    assert done.returncode == 0, f"nothing was killed: {done.stderr}{out}{err}"
    machine.run(["sh", "-ec", tool.repair])
    return out, err, process.returncode


def kill(name: str, machine: Machine) -> None:
    """Apply the runbook of the page, and kill the tool half way."""
    out, err, status = kill_half_way(machine, TOOLS[name], f"/root/{name}.yaml")
    assert status == 1, f"{out}{err}"


def fail(name: str, machine: Machine) -> None:
    """Make the next installation fail."""
    machine.run(["sh", "-ec", TOOLS[name].breaks])


def repair(name: str, machine: Machine) -> None:
    """Remove what makes an installation fail."""
    machine.run(["sh", "-ec", TOOLS[name].repair])


npm_killed, apt_killed, pip_killed, tarball_killed = (partial(kill, name) for name in ("npm", "apt", "pip", "tarball"))
apt_fails, pip_fails, tarball_fails = (partial(fail, name) for name in ("apt", "pip", "tarball"))
apt_mended, pip_mended, tarball_mended = (partial(repair, name) for name in ("apt", "pip", "tarball"))


def _publish(machine: Machine, tool: str) -> None:
    machine.run(["python3", str(PROJECT / "tests/machine/software/releases.py"), SHELF, tool])
    machine.write("/srv/registry.py", REGISTRY)
    machine.write("/etc/systemd/system/registry.service", UNIT.format(start="/usr/bin/python3 /srv/registry.py"))
    machine.run(["systemctl", "start", "registry.service"])
    _serves(machine, f"{URL}/")


def _start(machine: Machine, program: str) -> None:
    machine.write("/etc/systemd/system/app.service", UNIT.format(start=program))
    machine.run(["systemctl", "enable", "--quiet", "--now", "app.service"])
    _serves(machine)


def _serves(machine: Machine, url: str = "http://127.0.0.1:8090/") -> None:
    until(lambda: machine.run(["curl", "-fsS", url], check=False).returncode == 0, f"{url} to be served")


@dataclass(frozen=True)
class Tool:
    """The differences between the tools, mostly as shell commands."""

    stage: Callable[[Machine], None]  # installs and starts the old version
    witness: str  # a path that each installation replaces
    breaks: str  # makes the next installation fail
    error: str  # the message of that failure
    half: str  # succeeds once an installation is half done
    victim: str  # arguments of pkill for the process to kill then
    named: str  # the words in the runbook that name the version
    elsewhere: str  # words in their place that do not name the version
    halves: str = "true"  # makes an installation wait half way
    hangs: str = "touch /run/registry-hangs"  # makes an installation wait for ever
    strays: str = "true"  # makes `elsewhere` lead to another version
    repair: str = "rm -rf /run/app-fails /run/app-waits /run/registry-hangs"  # removes these obstacles
    old: str = OLD
    new: str = NEW


_WAITS = "mkfifo /run/app-waits"
_WAITING = "pgrep -f '^cat /run/app-waits'"
_WHEEL = f"{SHELF}/simple/app/app-{NEW}-py3-none-any.whl"
_ARCHIVE = f"{SHELF}/app-{NEW}.tar.gz"
_SITE = "/opt/app/lib/python3*/site-packages"

TOOLS = {
    "npm": Tool(
        npm,
        witness="/usr/local/lib/node_modules/app/package.json",
        breaks="touch /run/app-fails",
        error="npm error cannot migrate the data: no space left",
        halves=_WAITS,
        half=_WAITING,
        victim="-f '^npm install'",
        hangs="npm cache clean --force; touch /run/registry-hangs",  # without its cache npm queries the registry
        named="app@${{ to }}",
        elsewhere="app@latest",
    ),
    "apt": Tool(
        apt,
        witness="/usr/lib/app/VERSION",
        breaks="touch /run/app-fails",
        error="E: Sub-process /usr/bin/dpkg returned an error code (1)",
        halves=_WAITS,
        half=_WAITING,
        victim="-x dpkg",
        # Another installation holds the lock.
        hangs=f"{_WAITS}; systemd-run --quiet --unit=other apt-get install -qy other; until {_WAITING}; do :; done",
        # Each dpkg repairs what an interrupted one left, so it is only called if needed.
        repair="rm -f /run/app-fails /etc/apt/preferences; ! test -p /run/app-waits || : <>/run/app-waits; "
        "rm -f /run/app-waits; while systemctl -q is-active other; do :; done; "
        "! test -e /var/lib/dpkg/info/other.list || dpkg --purge other",
        named="app=${{ to }}",
        elsewhere="app",
        strays=f"printf 'Package: app\nPin: version {DEBIAN[OLD]}\nPin-Priority: 1001\n' >/etc/apt/preferences",
        old=DEBIAN[OLD],
        new=DEBIAN[NEW],
    ),
    "pip": Tool(
        pip,
        witness=f"{_SITE}/app/VERSION",
        breaks=f"cp {_WHEEL} /srv/good; truncate --size=-1000 {_WHEEL}",
        error="THESE PACKAGES DO NOT MATCH THE HASHES",
        half=f"ls -d {_SITE}/~pp-{OLD}.dist-info {_SITE}/app/data/5",
        victim="-f 'bin/[p]ip install'",
        repair=f"rm -f /run/registry-hangs; ! test -e /srv/good || mv /srv/good {_WHEEL}",
        named="app==${{ to }}",
        elsewhere="--upgrade --constraint /srv/constraints app",
        strays="echo 'app<2' >/srv/constraints",
    ),
    "tarball": Tool(
        tarball,
        witness="/opt/app/current",
        breaks=f"cp {_ARCHIVE} /srv/good; truncate --size=-1000 {_ARCHIVE}",
        error="tar: Error is not recoverable: exiting now",
        halves="touch /run/registry-halts",
        half="pgrep -x curl && test -s /opt/app/new.tar.gz",
        victim="-x curl",
        repair=f"rm -f /run/registry-hangs /run/registry-halts; ! test -e /srv/good || mv /srv/good {_ARCHIVE}",
        named="app-${{ to }}.tar.gz",
        elsewhere="app-${{ to }}.tar.gz",
        strays=f"cp {_ARCHIVE} /srv/good; cp {SHELF}/app-{OLD}.tar.gz {_ARCHIVE}",
    ),
}
