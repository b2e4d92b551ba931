"""`runbooks/postgresql.yaml` on Debian's PostgreSQL: healthy, broken as in the field, and where it must not act.

Beside the cluster that the runbook is for runs another one. Only apt touches it, and the roof over both.
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

ROOF = """
    unit: postgresql
    port: 5432
    steps:
      - restart: {on-failure: continue}
      - remediate:
          check: [wait-ready: {healthy-for: 1s, timeout: 30s}, verify-port-owner]
          fix: [stop, kill-orphan, reset-failed, start]
"""


@pytest.fixture(scope="module")
def clusters(machine: Machine) -> Machine:
    """A second cluster, on port 5433."""
    pg.another(machine)
    return machine


@pytest.fixture
def server(clusters: Machine) -> Iterator[Machine]:
    """The cluster as a service, with a row in it; afterwards it is down, and the other one as it was."""
    pg.install(clusters)
    yield clusters
    clusters.run(["sh", "-c", "pkill -INT -u postgres -f '5432|/main( |$)|generate_series'"], check=False)
    clusters.run(["systemctl", "stop", pg.unit(clusters)], check=False)
    until(lambda: not holders(clusters, PORT), "the port to be free")
    clusters.run(["systemctl", "reset-failed", pg.unit(clusters), "postgresql.service"], check=False)


@pytest.fixture
def untouched(server: Machine) -> Iterator[None]:
    """The other cluster is the same before and after."""
    other = pg.postmaster(server, "other")
    yield
    assert pg.postmaster(server, "other") == other


def book(machine: Machine, *options: str, command: str = "apply", version: str = "") -> Run:
    """Run a command on the runbook, for the version that is installed if no other is named."""
    values = [f"major={pg.major(machine)}", f"version={version or pg.installed(machine)}"]
    argv = ["runbook", command, pg.BOOK, "--output", "json", *(f"--set={value}" for value in values), *options]
    done = machine.run(argv, check=False, timeout=120)
    return parsed(done.stdout, done.returncode, done.stderr)


def assert_serves(machine: Machine, *rows: str) -> None:
    """See that all agree on who serves: systemd, the kernel, the lock file; and that the rows are there."""
    unit = machine.show(pg.unit(machine), "ActiveState", "MainPID")
    assert unit["ActiveState"] == "active"
    assert {str(holder.pid) for holder in holders(machine, PORT)} == {unit["MainPID"]} == {pg.postmaster(machine)}
    assert pg.ask(machine, "SELECT who FROM written").split() == [*rows]


def last_start(machine: Machine) -> str:
    """Give what PostgreSQL's own log says since its last start."""
    log = machine.read(f"/var/log/postgresql/postgresql-{pg.major(machine)}-main.log")
    return log.rpartition("starting PostgreSQL")[2]


@pytest.mark.usefixtures("untouched")
def test_nothing_to_do(server: Machine) -> None:
    """A database that is well is not restarted for nothing."""
    before = pg.postmaster(server)
    run = book(server)
    assert (run.exit, run.last["status"]) == (0, "ok"), run.last
    assert run.step("update")["verdict"] == "up-to-date"
    assert run.step("remediate")["verdict"] == "holds"
    assert pg.postmaster(server) == before
    assert_serves(server, "unit")


def test_an_upgrade(server: Machine) -> None:
    """With a new invocation, and the new version in the server's own words."""
    new = pg.offer(server)
    before = server.show(pg.unit(server), "InvocationID", "MainPID")
    run = book(server, version=new)
    assert (run.exit, run.last["status"]) == (0, "changed"), run.last
    assert (run.step("update")["verdict"], run.step("remediate")["verdict"]) == ("updated", "holds")
    after = server.show(pg.unit(server), "InvocationID", "MainPID")
    assert not set(after.values()) & set(before.values())
    assert new in pg.ask(server, "SHOW server_version")
    assert_serves(server, "unit")


def test_an_upgrade_beside_an_orphan(server: Machine) -> None:
    """apt and systemctl say that it went well; the old postmaster serves on, until the runbook ends it."""
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
    # A fast shutdown, not a crash: nothing had to be recovered.
    assert "database system was shut down at" in last_start(server)
    assert_serves(server, "unit", "orphan")


@pytest.mark.usefixtures("untouched")
def test_new_files_and_the_old_process(server: Machine) -> None:
    """The binaries were replaced under the postmaster; `check` tells, and a run mends it."""
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
def test_a_slow_recovery(server: Machine) -> None:
    """It listens and rejects: nobody kills it, and the same postmaster comes up by itself."""
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


def test_another_data_directory(server: Machine) -> None:
    """The postmaster on the port is not this cluster's: nothing is stopped, and it lives."""
    pg.stranger(server)
    stranger = pg.postmaster(server, "other")
    try:
        run = book(server)
        assert (run.exit, run.last["status"]) == (1, "failed"), run.last
        assert (
            f"is held by PID {stranger} (postgres), which is not what was expected: its command line"
            in (run.last["reason"])
        )
        assert not [e for e in run.events if ".fix." in e.get("id", "")]
        assert {str(holder.pid) for holder in holders(server, PORT)} == {stranger}
    finally:
        server.run(["kill", "-INT", stranger])
        until(lambda: not holders(server, PORT), "the stranger to end")
        server.run(["systemctl", "start", pg.unit(server, "other")])


def test_the_roof_is_not_the_cluster(server: Machine) -> None:
    """A runbook for postgresql.service restarts it, and all below it; it does not say that this was right."""
    other = pg.postmaster(server, "other")
    run = runbook(server, "apply", ROOF)
    assert (run.exit, run.last["status"]) == (1, "failed"), run.last
    assert run.step("remediate.check.wait-ready")["verdict"] == "other-unit-holds-port"
    meant = f"postgresql.service runs no server (Type=oneshot): if {pg.unit(server)} is meant, name that as `unit`"
    assert meant in run.step("remediate.check.wait-ready")["reason"]
    assert run.last["reason"].endswith(f"{meant}")
    assert pg.postmaster(server, "other") != other
    assert_serves(server, "unit")


@pytest.mark.usefixtures("untouched")
def test_a_server_process_that_outlived_its_postmaster(server: Machine) -> None:
    """It holds no port, only the shared memory: the unit cannot start, and nobody knows whose it is. It lives."""
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
    mended = book(server)
    assert (mended.exit, mended.last["status"]) == (0, "remediated"), mended.last
    # What was written before the kill was recovered from the log of the database.
    assert "automatic recovery in progress" in last_start(server)
    assert_serves(server, "unit", "orphan")


@pytest.mark.usefixtures("untouched")
def test_a_server_process_left_in_the_unit(server: Machine) -> None:
    """A start beside it never ends: that is left alone, the process is named. In a unit that is down it is ended."""
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
        # By hand, as the page says.
        server.run(["systemctl", "stop", pg.unit(server)])
        mended = book(server)
        assert (mended.exit, mended.last["status"]) == (0, "remediated"), mended.last
        assert mended.step("remediate")["reason"] == "unit-exited was fixed"
        assert mended.step("remediate.fix.kill-orphan")["reason"].startswith(f"PID {busy} (postgres) exited on INT")
        assert_serves(server, "unit")
    finally:
        pg.settings(server, "")


@pytest.mark.usefixtures("untouched")
def test_a_lock_file_with_the_pid_of_somebody_else(server: Machine) -> None:
    server.run(["systemctl", "stop", pg.unit(server)])
    somebody = pg.recycled(server)
    run = book(server)
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert server.run(["ps", "-o", "args=", "-p", somebody]).stdout == "sleep 100000\n"
    server.run(["kill", somebody])
    assert_serves(server, "unit")
