"""`runbooks/postgresql.yaml` on Debian's PostgreSQL: healthy, with real failures, and where it must not act.

Another cluster runs beside the one of the runbook. Only apt may touch it, and the unit that groups both.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.incident import control_group, holders
from tests.machine.machine import Machine, until
from tests.machine.runs import Run, parsed, runbook
from tests.machine.software import postgresql as pg
from tests.machine.software.clients import connected

PORT = pg.PORT

GROUP = """
    unit: postgresql
    port: 5432
    steps:
      - restart
      - remediate:
          check: [wait-ready: {healthy-for: 1s, timeout: 30s}, verify-port-owner]
          fix: [stop, kill-orphan, reset-failed, start]
"""


@pytest.fixture(scope="module")
def clusters(machine: Machine) -> Machine:
    """Start a second cluster, on port 5433."""
    pg.another(machine)
    return machine


@pytest.fixture
def server(clusters: Machine) -> Iterator[Machine]:
    """Start the cluster as a service, with a row, and stop it at the end."""
    pg.install(clusters)
    yield clusters
    clusters.run(["sh", "-c", "pkill -INT -u postgres -f '5432|/main( |$)|generate_series'"], check=False)
    clusters.run(["systemctl", "stop", pg.unit(clusters)], check=False)
    until(lambda: not holders(clusters, PORT), "the port to be free")
    clusters.run(["systemctl", "reset-failed", pg.unit(clusters), "postgresql.service"], check=False)


@pytest.fixture
def untouched(server: Machine) -> Iterator[None]:
    """Assert that the test does not restart the other cluster."""
    other = pg.postmaster(server, "other")
    yield
    assert pg.postmaster(server, "other") == other


def book(machine: Machine, *options: str, command: str = "apply", version: str = "") -> Run:
    """Run a command on the runbook, for the installed version if no other is given."""
    values = [f"major={pg.major(machine)}", f"version={version or pg.installed(machine)}"]
    argv = ["runbook", command, pg.BOOK, "--output", "json", *(f"--set={value}" for value in values), *options]
    done = machine.run(argv, check=False, timeout=120)
    return parsed(done.stdout, done.returncode, done.stderr)


def assert_serves(machine: Machine, *rows: str) -> None:
    """Assert that systemd, the kernel and the lock file name the same server, and that it has the rows."""
    unit = machine.show(pg.unit(machine), "ActiveState", "MainPID")
    assert unit["ActiveState"] == "active"
    assert {str(holder.pid) for holder in holders(machine, PORT)} == {unit["MainPID"]} == {pg.postmaster(machine)}
    assert pg.ask(machine, "SELECT who FROM written").split() == [*rows]


def last_start(machine: Machine) -> str:
    """Return PostgreSQL's own log since its last start."""
    log = machine.read(f"/var/log/postgresql/postgresql-{pg.major(machine)}-main.log")
    return log.rpartition("starting PostgreSQL")[2]


@pytest.mark.usefixtures("untouched")
def test_a_healthy_server_is_not_restarted(server: Machine) -> None:
    before = pg.postmaster(server)
    run = book(server)
    assert (run.exit, run.last["status"]) == (0, "ok"), run.last
    assert run.step("update")["verdict"] == "up-to-date"
    assert run.step("remediate")["verdict"] == "holds"
    assert pg.postmaster(server) == before
    assert_serves(server, "unit")


def test_an_upgrade_succeeds(server: Machine) -> None:
    """The unit has a new invocation, and the server reports the new version."""
    new = pg.offer(server)
    before = server.show(pg.unit(server), "InvocationID", "MainPID")
    run = book(server, version=new)
    assert (run.exit, run.last["status"]) == (0, "changed"), run.last
    assert (run.step("update")["verdict"], run.step("remediate")["verdict"]) == ("updated", "holds")
    after = server.show(pg.unit(server), "InvocationID", "MainPID")
    assert not set(after.values()) & set(before.values())
    assert new in pg.ask(server, "SHOW server_version")
    assert_serves(server, "unit")


def test_an_upgrade_beside_an_orphan_is_fixed(server: Machine) -> None:
    """apt and systemctl succeed, but the old postmaster still serves, until the runbook kills it."""
    old, new = pg.installed(server), pg.offer(server)
    pg.orphan(server)
    orphan = pg.postmaster(server)
    assert "session-" in control_group(server, int(orphan))
    pg.refused(server)
    assert server.show("postgresql.service", "ActiveState")["ActiveState"] == "active"
    planned = book(server, "--dry-run", version=new)
    assert (planned.exit, planned.last["would-change"]) == (0, True)
    fix = next(e for e in planned.of("step-planned") if e["id"] == "remediate.fix.kill-orphan")
    assert fix["reason"] == f"would kill PID {orphan} (postgres): INT, and no KILL"
    assert (pg.postmaster(server), pg.installed(server)) == (orphan, old)
    with connected(server, PORT) as client:
        run = book(server, version=new)
        assert client.poll() is None
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert run.step("update")["verdict"] == "updated"
    checks = [e["verdict"] for e in run.of("step-finished") if e["id"] == "remediate.check.wait-ready"]
    assert checks == ["orphan-holds-port", "ready"]
    assert run.step("remediate.fix.kill-orphan")["reason"].startswith(f"PID {orphan} (postgres) exited on INT")
    assert new in pg.ask(server, "SHOW server_version")
    # It was a fast shutdown, not a crash, so nothing had to be recovered.
    assert "database system was shut down at" in last_start(server)
    assert_serves(server, "unit", "orphan")


@pytest.mark.usefixtures("untouched")
def test_an_old_process_with_new_files_is_found(server: Machine) -> None:
    """The programs of the postmaster were replaced. `check` reports that, and a run fixes it."""
    before = pg.postmaster(server)
    replace = 'cp --preserve "$0" "$0.new" && mv "$0.new" "$0"'
    server.run(["sh", "-c", replace, f"{pg.programs(server)}/postgres"])
    checked = book(server, command="check")
    assert (checked.exit, checked.step("remediate.check.verify-version")["verdict"]) == (1, "old-code-serving")
    run = book(server)
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert run.step("remediate")["reason"] == "old-code-serving was fixed"
    assert pg.postmaster(server) != before
    assert_serves(server, "unit")


@pytest.mark.usefixtures("untouched")
def test_a_slow_recovery_is_not_interrupted(server: Machine) -> None:
    """The server listens and rejects connections. It is not killed, and the same postmaster becomes ready by itself."""
    pg.recovering(server)
    postmaster = pg.postmaster(server)
    run = book(server, "--set=wait=3s")
    assert (run.exit, run.last["status"]) == (3, "still-starting"), run.last
    assert run.step("remediate.check.wait-ready")["verdict"] == "still-starting"
    assert not [e for e in run.events if ".fix." in e.get("id", "")]
    assert server.run(["pg_isready"], check=False).returncode == 1
    pg.recovered(server)
    until(lambda: server.show(pg.unit(server), "SubState")["SubState"] == "running", "systemd to call it running", 20)
    assert pg.postmaster(server) == postmaster
    assert_serves(server, "unit")
    assert book(server, command="check").exit == 0


def test_a_postmaster_of_another_data_directory_is_not_killed(server: Machine) -> None:
    """The postmaster on the port is that of another cluster. Nothing is stopped or killed."""
    pg.other_on_the_port(server)
    other = pg.postmaster(server, "other")
    try:
        run = book(server)
        assert (run.exit, run.last["status"]) == (1, "failed"), run.last
        assert (
            f"is held by PID {other} (postgres), which is not what was expected: its command line"
            in (run.last["reason"])
        )
        assert not [e for e in run.events if ".fix." in e.get("id", "")]
        assert {str(holder.pid) for holder in holders(server, PORT)} == {other}
    finally:
        server.run(["kill", "-INT", other])
        until(lambda: not holders(server, PORT), "the other postmaster to exit")
        server.run(["systemctl", "start", pg.unit(server, "other")])


def test_the_unit_that_groups_the_clusters_is_not_the_server(server: Machine) -> None:
    """A runbook for postgresql.service restarts it with all clusters, and then fails."""
    other = pg.postmaster(server, "other")
    run = runbook(server, "apply", GROUP)
    assert (run.exit, run.last["status"]) == (1, "failed"), run.last
    assert run.step("remediate.check.wait-ready")["verdict"] == "other-unit-holds-port"
    meant = f"postgresql.service runs no server (Type=oneshot): if {pg.unit(server)} is meant, name that as `unit`"
    assert meant in run.step("remediate.check.wait-ready")["reason"]
    assert run.last["reason"].endswith(f"{meant}")
    assert pg.postmaster(server, "other") != other
    assert_serves(server, "unit")


@pytest.mark.usefixtures("untouched")
def test_a_server_process_without_its_postmaster_is_not_killed(server: Machine) -> None:
    """It holds no port, only the shared memory, so the unit cannot start. Its owner is unknown."""
    pg.orphan(server)
    busy = pg.busy(server)
    pg.killed(server)
    assert not holders(server, PORT)
    run = book(server)
    assert (run.exit, run.last["status"]) == (1, "failed"), run.last
    assert run.step("remediate")["verdict"] == "not-fixed"
    assert run.last["hint"] == f"journalctl -u {pg.unit(server)} -n 30 shows why"
    assert "pre-existing shared memory block" in server.run(["journalctl", "-u", pg.unit(server), "-n", "20"]).stdout
    server.run(["kill", "-INT", busy])
    until(lambda: server.run(["test", "-e", f"/proc/{busy}"], check=False).returncode, "the query to end")
    fixed = book(server)
    assert (fixed.exit, fixed.last["status"]) == (0, "remediated"), fixed.last
    # The row from before the kill was recovered from the database's log.
    assert "automatic recovery in progress" in last_start(server)
    assert_serves(server, "unit", "orphan")


@pytest.mark.usefixtures("untouched")
def test_a_server_process_left_in_the_unit_is_killed_only_if_it_is_down(server: Machine) -> None:
    """A start beside it never ends, and is not interrupted. If the unit is down, the process is killed."""
    pg.settings(server, "[Service]\nKillMode=process\n")
    try:
        busy = pg.busy(server)
        pg.killed(server)
        until(lambda: server.show(pg.unit(server), "ActiveState")["ActiveState"] == "failed", "the unit to fail")
        server.run(["systemctl", "start", "--no-block", pg.unit(server)])
        waits = {"SubState": "start", "ControlPID": "0"}
        until(lambda: server.show(pg.unit(server), *waits) == waits, "systemd to wait for the lock file")
        run = book(server, "--set=wait=3s")
        assert (run.exit, run.last["status"]) == (3, "still-starting"), run.last
        assert run.last["reason"].endswith(f"in it is PID {busy} (postgres), left over from an earlier invocation")
        # An administrator stops the unit, as the page advises.
        server.run(["systemctl", "stop", pg.unit(server)])
        fixed = book(server)
        assert (fixed.exit, fixed.last["status"]) == (0, "remediated"), fixed.last
        assert fixed.step("remediate")["reason"] == "unit-exited was fixed"
        assert fixed.step("remediate.fix.kill-orphan")["reason"].startswith(f"PID {busy} (postgres) exited on INT")
        assert_serves(server, "unit")
    finally:
        pg.settings(server, "")


@pytest.mark.usefixtures("untouched")
def test_a_lock_file_with_the_pid_of_another_process_is_no_obstacle(server: Machine) -> None:
    server.run(["systemctl", "stop", pg.unit(server)])
    process = pg.recycled(server)
    run = book(server)
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert server.run(["ps", "-o", "args=", "-p", process]).stdout == "sleep 100000\n"
    server.run(["kill", process])
    assert_serves(server, "unit")
