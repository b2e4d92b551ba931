"""Stages `app`, a small service of two parts that each have a version, for runs that fail and are rolled back.

Version 1.0.0 serves. Version 1.1.0 of `app` exits at once with status 3, as with a configuration that it rejects,
unless a file in /run/stage makes it do something else. `install PART VERSION` replaces a part, and logs that to
/run/stage/log.
"""

from __future__ import annotations

from dataclasses import dataclass

from tests.machine.machine import Machine, until
from tests.machine.runs import Run, runbook, unit_file

PORT = 8070
OLD, NEW = "1.0.0", "1.1.0"
SERVES_OLD = f'{{"app": "{OLD}", "lib": "{OLD}"}}'

SERVER = """
import http.server, os, pathlib, socket, sys, time
versions = {part: pathlib.Path(f"/opt/{part}/version").read_text().strip() for part in ("app", "lib")}
body = '{"app": "%(app)s", "lib": "%(lib)s"}' % versions
if os.path.exists("/run/stage/mute"):
    body = "{}"
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(body.encode())
    def log_message(self, *words):
        pass
while os.path.exists("/run/stage/slow"):
    time.sleep(0.02)
class Server(http.server.ThreadingHTTPServer):
    daemon_threads = True
    def server_bind(self):
        if os.environ.get("LISTEN_FDS"):
            self.socket.close()
            self.socket = socket.socket(fileno=3)
        else:
            self.socket.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            self.socket.bind(self.server_address)
        self.server_name, self.server_port = "app", 8070
    def server_activate(self):
        if not os.environ.get("LISTEN_FDS"):
            self.socket.listen()
Server(("127.0.0.1", 8070), Answer).serve_forever()
"""

PROGRAM = """\
#!/bin/sh
read version </opt/app/version
if [ -e /run/stage/migrated ]; then
    echo "cannot read the configuration: it is of a later version" >&2
    exit 4
fi
case $version in
    1.0.0) exec python3 /opt/app/server.py ;;
esac
if [ -e /run/stage/migrates ]; then
    touch /run/stage/migrated
fi
if [ -e /run/stage/hangs ]; then
    exec sleep infinity
fi
echo "cannot read the configuration: no key 'mode'" >&2
exit 3
"""

BEFORE = """\
#!/bin/sh
# The orphan listens before the service is active, so the service is never taken for a healthy one.
read version </opt/app/version
if [ "$version" != 1.0.0 ] && [ -e /run/stage/leaves ]; then
    rm /run/stage/leaves
    systemd-run --scope --slice=user.slice --unit=stray python3 /opt/app/server.py &
    while ! ss -Hltn 'sport = :8070' | grep -q .; do sleep 0.02; done
fi
"""

INSTALL = """\
#!/bin/sh -e
echo "install $1 $2" >>/run/stage/log
if [ -e "/run/stage/waits-$2" ]; then
    echo half >"/opt/$1/version"
    trap '' TERM
    until [ -e /run/stage/go ]; do sleep 0.05; done
    echo "waited $1 $2" >>/run/stage/log
fi
while [ -e "/run/stage/lingers-$2" ]; do sleep 0.05; done
if [ -e "/run/stage/refuses-$2" ]; then
    echo "no package $1-$2 in the index" >&2
    exit 9
fi
echo "$2" >"/opt/$1/version"
"""

UNIT = unit_file(
    "/opt/app/run",
    ExecStartPre="/opt/app/before",
    Restart="always",
    # In this pause a slow machine makes a check before the start limit is hit.
    RestartSec="1s",
    TimeoutStopSec="5s",
    Unit_StartLimitIntervalSec="600",
    Unit_StartLimitBurst="4",
)

INSTALLS = "run: 'install {part} ${{{{ to }}}}', version: cat /opt/{part}/version, to: {to}"
WANTED = "'${{ vars.new }}'"

URL = f"http://127.0.0.1:{PORT}/"
LIB = f"- update: {{id: lib, {INSTALLS.format(part='lib', to=NEW)}}}"
APP = f"- update: {{id: app, {INSTALLS.format(part='app', to=WANTED)}, timeout: 20s}}"
STOPPED_FIRST = APP.replace("timeout", "stop-first: true, timeout")
READY = "- wait-ready: {healthy-for: 100ms, timeout: 20s}"
LOOPS = "- wait-ready: {healthy-for: 100ms, timeout: 20s, max-restarts: 100}"
"""A wait until the start limit is hit."""
ANSWERS = f"""- wait-ready:
      healthy-for: 100ms
      timeout: 20s
      on-timeout: fail
      probes: [http: {{url: '{URL}', body: '"app": "${{{{ vars.new }}}}"'}}]"""
REPORTS = f"""- verify-version:
      http: {{url: '{URL}'}}
      pattern: '"app": "([^"]*)"'
      expect: ${{{{ steps.app.to }}}}"""


def book(*steps: str, rollback: str | tuple[str, ...] = "auto") -> str:
    """Return a runbook of the given steps."""
    back = rollback if isinstance(rollback, str) else "".join(f"\n  {step}" for step in rollback)
    head = f"name: upgrade app\nunit: app\nport: {PORT}\nvars: {{new: {NEW}}}\nrollback: {back}\nsteps:\n"
    return head + "".join(f"  {step}\n" for step in steps)


@dataclass(frozen=True)
class Stage:
    """The service in a machine."""

    machine: Machine

    def sh(self, script: str, *, check: bool = True) -> str:
        """Run a script in the machine, and return its output."""
        return self.machine.run(["sh", "-c", script], check=check).stdout

    def set_flags(self, *names: str) -> None:
        """Make files in /run/stage, which change what the service and its installer do."""
        self.sh(f"touch {' '.join(f'/run/stage/{name}' for name in names)}")

    def clear_flags(self, *names: str) -> None:
        """Delete files in /run/stage."""
        self.sh(f"rm -f {' '.join(f'/run/stage/{name}' for name in names)}")

    def apply(self, *steps: str, rollback: str | tuple[str, ...] = "auto") -> Run:
        """Apply a runbook of the given steps."""
        return runbook(self.machine, "apply", book(*steps, rollback=rollback))

    def show(self, run: Run) -> str:
        """Return the output of `runbook show` for a run, without line breaks."""
        shown = self.machine.run(["runbook", "show", run.last["run"]]).stdout
        assert all(len(line) <= 80 for line in shown.splitlines()), shown
        return " ".join(shown.split())

    @property
    def serves(self) -> str:
        """Return the answer of the service, from curl."""
        return self.sh(f"curl -fsS http://127.0.0.1:{PORT}/", check=False)

    @property
    def installed(self) -> list[str]:
        return self.sh("cat /opt/app/version /opt/lib/version").split()

    @property
    def log(self) -> list[str]:
        """Return the log of the installer."""
        return self.sh("cat /run/stage/log", check=False).splitlines()

    def systemd(self, unit: str = "app.service") -> dict[str, str]:
        """Return properties of a unit."""
        return self.machine.show(unit, "ActiveState", "SubState", "Result", "NRestarts", "MainPID", "InvocationID")

    def install(self) -> None:
        """Install the files of the service."""
        self.machine.write("/opt/app/server.py", SERVER)
        self.machine.write("/opt/app/run", PROGRAM, 0o755)
        self.machine.write("/opt/app/before", BEFORE, 0o755)
        self.machine.write("/usr/local/sbin/install", INSTALL, 0o755)

    def begin(self) -> None:
        """Run version 1.0.0 of both parts, with an empty /run/stage."""
        self.machine.write("/etc/systemd/system/app.service", UNIT)
        self.sh(
            "rm -rf /run/stage /var/lib/runbook; mkdir -p /run/stage /opt/lib;"
            f"echo {OLD} >/opt/app/version; echo {OLD} >/opt/lib/version; systemctl daemon-reload;"
            "systemctl reset-failed; systemctl restart app.service"
        )
        until(lambda: self.serves, "it to serve")

    def end(self) -> None:
        """Stop everything, so that the machine is as before."""
        self.sh(
            "touch /run/stage/go; systemctl stop 'runbook-*' stray.scope app.socket app.timer app.path app.service;"
            "rm -f /etc/systemd/system/app.socket /etc/systemd/system/app.timer /etc/systemd/system/app.path;"
            "systemctl daemon-reload; systemctl reset-failed",
            check=False,
        )
