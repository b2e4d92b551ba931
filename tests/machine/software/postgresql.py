"""Debian's PostgreSQL, and what goes wrong with it. Each suite has one major version."""

from __future__ import annotations

from tests.machine.machine import Machine, until
from tests.machine.software import repository

MAJOR = {"bookworm": "15", "trixie": "17"}
PORT = 5432
BOOK = "/opt/runbook/runbooks/postgresql.yaml"
RECOVERED = "/run/postgresql/recovered"
"""The file that a staged recovery waits for."""


def major(machine: Machine) -> str:
    """Give the major version."""
    return MAJOR[machine.suite]


def unit(machine: Machine, cluster: str = "main") -> str:
    """Give the unit of a cluster."""
    return f"postgresql@{major(machine)}-{cluster}.service"


def data(machine: Machine, cluster: str = "main") -> str:
    """Give the data directory of a cluster."""
    return f"/var/lib/postgresql/{major(machine)}/{cluster}"


def programs(machine: Machine) -> str:
    """Give the folder of the server's programs."""
    return f"/usr/lib/postgresql/{major(machine)}/bin"


def installed(machine: Machine) -> str:
    """Give the version of the package."""
    return repository.installed(machine, f"postgresql-{major(machine)}")


def install(machine: Machine) -> None:
    """Start the cluster as a service, with a table in it. The roof over it is enabled, as the package has it."""
    machine.run(["systemctl", "enable", "--quiet", "postgresql.service"])
    machine.run(["systemctl", "start", "postgresql.service", unit(machine)])
    ask(machine, "CREATE TABLE IF NOT EXISTS written (who text)")
    ask(machine, "TRUNCATE written; INSERT INTO written VALUES ('unit')")


def upgrade_at_hand(machine: Machine) -> None:
    """Start the cluster, let apt see a newer version, and put the runbook into root's folder."""
    install(machine)
    offer(machine)
    machine.run(["cp", BOOK, "/root/postgresql.yaml"])


def another(machine: Machine) -> None:
    """Make and start another cluster, on port 5433."""
    machine.run(["pg_createcluster", "--port=5433", major(machine), "other"])
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "start", unit(machine, "other")])


def offer(machine: Machine) -> str:
    """Let apt see a newer version of the server, and give it: the server itself tells it, too."""
    old = installed(machine)
    new = f"{old[:-1]}{int(old[-1]) + 1}"
    package = f"postgresql-{major(machine)}"
    assert len(new) == len(old)  # It is written over the old one in the programs.
    return repository.offer(machine, package, new=new, programs=programs(machine), edit=repository.substitute(old, new))


def orphan(machine: Machine) -> None:
    """Stop the unit, and start the postmaster by hand in a login of postgres instead; write a row through it."""
    machine.run(["systemctl", "stop", unit(machine)])
    start = f"pg_ctlcluster --skip-systemctl-redirect {major(machine)} main start"
    machine.run(["su", "-", "postgres", "-c", start])
    ask(machine, "CREATE TABLE IF NOT EXISTS written (who text); INSERT INTO written VALUES ('orphan')")


def stranger(machine: Machine) -> None:
    """Stop both clusters, and start that of the other data directory by hand, on the port of the first."""
    machine.run(["systemctl", "stop", unit(machine), unit(machine, "other")])
    configuration = f"/etc/postgresql/{major(machine)}/other/postgresql.conf"
    options = f"-c config_file={configuration} -p {PORT}"
    start = f"{programs(machine)}/pg_ctl -D {data(machine, 'other')} -o '{options}' -l /dev/null -s -w start"
    machine.run(["su", "-", "postgres", "-c", start])


def busy(machine: Machine) -> str:
    """Keep a server process busy with a query for hours, and give its PID."""
    script = "psql -c 'SELECT count(*) FROM generate_series(1, 1000000000000)' >/dev/null 2>&1 &"
    machine.run(["su", "-", "postgres", "-c", script])
    finds = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%generate_series(1%' AND pid <> pg_backend_pid()"
    return until(lambda: ask(machine, finds), "the query to run")


def killed(machine: Machine) -> None:
    """Kill the postmaster as nobody should: the way that leaves busy server processes behind."""
    pid = postmaster(machine)
    machine.run(["kill", "-KILL", pid])
    until(lambda: machine.run(["test", "-e", f"/proc/{pid}"], check=False).returncode, "the postmaster to be gone")


def settings(machine: Machine, text: str) -> None:
    """Give the cluster's unit a drop-in; none for no text."""
    machine.write(f"/run/systemd/system/{unit(machine)}.d/staged.conf", text)
    machine.run(["systemctl", "daemon-reload"])


def killed_in_a_login(machine: Machine) -> None:
    """Kill a postmaster that was started by hand, while one of its server processes is busy."""
    orphan(machine)
    busy(machine)
    killed(machine)


def recycled(machine: Machine) -> str:
    """Leave a lock file of a postmaster that is gone, whose PID is somebody else's now; give that PID."""
    start = "sleep 100000 >/dev/null 2>&1 & echo $!"
    pid = machine.run(["su", "-", "postgres", "-c", start]).stdout.strip()
    lock = f"{pid}\n{data(machine)}\n1700000000\n{PORT}\n/var/run/postgresql\nlocalhost\n  1234  1234\nready\n"
    for path in (f"{data(machine)}/postmaster.pid", f"/run/postgresql/{major(machine)}-main.pid"):
        machine.run(["su", "postgres", "-s", "/bin/sh", "-c", f"umask 077; cat >{path}"], input=lock)
    return pid


def refused(machine: Machine) -> None:
    """Restart the unit beside an orphan: it fails, and the roof over it says that all is well."""
    machine.run(["systemctl", "restart", "postgresql.service"])
    until(lambda: machine.show(unit(machine), "ActiveState")["ActiveState"] == "failed", "the unit to fail")


def recovering(machine: Machine) -> None:
    """Restart the cluster into a recovery that takes until somebody calls it done: see `recovered`."""
    waits = f"until test -e {RECOVERED}; do sleep 0.1; done; false"
    machine.run(["su", "postgres", "-c", f"touch {data(machine)}/recovery.signal"])
    setting = f"restore_command = '{waits}'\n"
    machine.write(f"/etc/postgresql/{major(machine)}/main/conf.d/staged.conf", setting)
    machine.run(["systemctl", "stop", unit(machine)])
    machine.run(["systemctl", "start", "--no-block", unit(machine)])
    until(lambda: machine.run(["pg_isready"], check=False).returncode == 1, "the server to reject connections")


def recovered(machine: Machine) -> None:
    """Let a staged recovery end."""
    machine.run(["touch", RECOVERED])


def ask(machine: Machine, sql: str, port: int = PORT) -> str:
    """Ask whoever listens on the port's socket."""
    argv = ["psql", "--no-psqlrc", "--quiet", f"--port={port}", "--no-align", "--tuples-only", "--command", sql]
    return machine.run(argv, user="postgres", env={"PGOPTIONS": "--client-min-messages=warning"}).stdout.strip()


def postmaster(machine: Machine, cluster: str = "main") -> str:
    """Give the PID that the data directory's lock file names."""
    return machine.read(f"{data(machine, cluster)}/postmaster.pid").splitlines()[0]
