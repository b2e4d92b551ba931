"""Installs Debian's PostgreSQL, and stages its failures. Each suite has one major version."""

from __future__ import annotations

from tests.machine.machine import Machine, until
from tests.machine.software import repository

MAJOR = {"bookworm": "15", "trixie": "17"}
PORT = 5432
BOOK = "/opt/runbook/runbooks/postgresql.yaml"
RECOVERED = "/run/postgresql/recovered"
"""The file for which a staged recovery waits."""


def major(machine: Machine) -> str:
    """Return the major version."""
    return MAJOR[machine.suite]


def unit(machine: Machine, cluster: str = "main") -> str:
    """Return the unit of a cluster."""
    return f"postgresql@{major(machine)}-{cluster}.service"


def data(machine: Machine, cluster: str = "main") -> str:
    """Return the data directory of a cluster."""
    return f"/var/lib/postgresql/{major(machine)}/{cluster}"


def programs(machine: Machine) -> str:
    """Return the folder of the server's programs."""
    return f"/usr/lib/postgresql/{major(machine)}/bin"


def installed(machine: Machine) -> str:
    """Return the version of the package."""
    return repository.installed(machine, f"postgresql-{major(machine)}")


def install(machine: Machine) -> None:
    """Start the cluster as a service, with a table. Enable the unit that groups clusters, as the package does."""
    machine.run(["systemctl", "enable", "--quiet", "postgresql.service"])
    machine.run(["systemctl", "start", "postgresql.service", unit(machine)])
    ask(machine, "CREATE TABLE IF NOT EXISTS written (who text)")
    ask(machine, "TRUNCATE written; INSERT INTO written VALUES ('unit')")


def upgrade_at_hand(machine: Machine) -> None:
    """Start the cluster, offer apt a newer version, and copy the runbook to root's home folder."""
    install(machine)
    offer(machine)
    machine.run(["cp", BOOK, "/root/postgresql.yaml"])


def another(machine: Machine) -> None:
    """Create and start another cluster, on port 5433."""
    machine.run(["pg_createcluster", "--port=5433", major(machine), "other"])
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "start", unit(machine, "other")])


def offer(machine: Machine) -> str:
    """Offer apt a newer version of the server, which the server reports, too, and return it."""
    old = installed(machine)
    new = f"{old[:-1]}{int(old[-1]) + 1}"
    package = f"postgresql-{major(machine)}"
    assert len(new) == len(old)  # It overwrites the old one in the programs.
    return repository.offer(machine, package, new=new, programs=programs(machine), edit=repository.substitute(old, new))


def orphan(machine: Machine) -> None:
    """Stop the unit, start the postmaster by hand in a login session of postgres, and write a row through it."""
    machine.run(["systemctl", "stop", unit(machine)])
    start = f"pg_ctlcluster --skip-systemctl-redirect {major(machine)} main start"
    machine.run(["su", "-", "postgres", "-c", start])
    ask(machine, "CREATE TABLE IF NOT EXISTS written (who text); INSERT INTO written VALUES ('orphan')")


def other_on_the_port(machine: Machine) -> None:
    """Stop both clusters, and start the other one by hand, on the port of the first."""
    machine.run(["systemctl", "stop", unit(machine), unit(machine, "other")])
    configuration = f"/etc/postgresql/{major(machine)}/other/postgresql.conf"
    options = f"-c config_file={configuration} -p {PORT}"
    start = f"{programs(machine)}/pg_ctl -D {data(machine, 'other')} -o '{options}' -l /dev/null -s -w start"
    machine.run(["su", "-", "postgres", "-c", start])


def busy(machine: Machine) -> str:
    """Start a query that takes hours, and return the PID of its server process."""
    script = "psql -c 'SELECT count(*) FROM generate_series(1, 1000000000000)' >/dev/null 2>&1 &"
    machine.run(["su", "-", "postgres", "-c", script])
    finds = "SELECT pid FROM pg_stat_activity WHERE query LIKE '%generate_series(1%' AND pid <> pg_backend_pid()"
    return until(lambda: ask(machine, finds), "the query to run")


def killed(machine: Machine) -> None:
    """Kill the postmaster with SIGKILL, which leaves busy server processes behind."""
    pid = postmaster(machine)
    machine.run(["kill", "-KILL", pid])
    until(lambda: machine.run(["test", "-e", f"/proc/{pid}"], check=False).returncode, "the postmaster to be gone")


def settings(machine: Machine, text: str) -> None:
    """Write a drop-in for the cluster's unit, or remove it if the text is empty."""
    machine.write(f"/run/systemd/system/{unit(machine)}.d/staged.conf", text)
    machine.run(["systemctl", "daemon-reload"])


def killed_in_a_login(machine: Machine) -> None:
    """Start a postmaster by hand, and kill it while one of its server processes is busy."""
    orphan(machine)
    busy(machine)
    killed(machine)


def recycled(machine: Machine) -> str:
    """Leave a lock file with a PID that another process has now, and return that PID."""
    start = "sleep 100000 >/dev/null 2>&1 & echo $!"
    pid = machine.run(["su", "-", "postgres", "-c", start]).stdout.strip()
    lock = f"{pid}\n{data(machine)}\n1700000000\n{PORT}\n/var/run/postgresql\nlocalhost\n  1234  1234\nready\n"
    for path in (f"{data(machine)}/postmaster.pid", f"/run/postgresql/{major(machine)}-main.pid"):
        machine.run(["su", "postgres", "-s", "/bin/sh", "-c", f"umask 077; cat >{path}"], input=lock)
    return pid


def refused(machine: Machine) -> None:
    """Restart the unit beside an orphan. It fails, but the unit that groups the clusters is active."""
    machine.run(["systemctl", "restart", "postgresql.service"])
    until(lambda: machine.show(unit(machine), "ActiveState")["ActiveState"] == "failed", "the unit to fail")


def recovering(machine: Machine) -> None:
    """Restart the cluster into a recovery that ends only with `recovered`."""
    waits = f"until test -e {RECOVERED}; do sleep 0.1; done; false"
    machine.run(["su", "postgres", "-c", f"touch {data(machine)}/recovery.signal"])
    setting = f"restore_command = '{waits}'\n"
    machine.write(f"/etc/postgresql/{major(machine)}/main/conf.d/staged.conf", setting)
    machine.run(["systemctl", "stop", unit(machine)])
    machine.run(["systemctl", "start", "--no-block", unit(machine)])
    until(lambda: machine.run(["pg_isready"], check=False).returncode == 1, "the server to reject connections")


def recovered(machine: Machine) -> None:
    """End a staged recovery."""
    machine.run(["touch", RECOVERED])


def ask(machine: Machine, sql: str, port: int = PORT) -> str:
    """Run a query on the server that listens on the port's socket."""
    argv = ["psql", "--no-psqlrc", "--quiet", f"--port={port}", "--no-align", "--tuples-only", "--command", sql]
    return machine.run(argv, user="postgres", env={"PGOPTIONS": "--client-min-messages=warning"}).stdout.strip()


def postmaster(machine: Machine, cluster: str = "main") -> str:
    """Return the PID in the lock file of the data directory."""
    return machine.read(f"{data(machine, cluster)}/postmaster.pid").splitlines()[0]
