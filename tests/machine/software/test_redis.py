"""`runbooks/redis.yaml` on Debian's redis: healthy, with real failures, and where it must not act."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.incident import control_group, holders
from tests.machine.machine import Machine, until
from tests.machine.runs import Run, parsed
from tests.machine.software import redis
from tests.machine.software.clients import connected

UNIT, PORT = redis.UNIT, redis.PORT


@pytest.fixture
def server(machine: Machine) -> Iterator[Machine]:
    """Start redis as a service, with a key, and restore its installed state at the end."""
    configuration = machine.read("/etc/redis/redis.conf")
    redis.install(machine)
    yield machine
    machine.run(["systemctl", "stop", UNIT], check=False)
    machine.run(["sh", "-c", "pkill -KILL -x redis-server; rm -rf /var/lib/redis/* /srv/data"])
    machine.run(["sh", "-c", 'cat >"$0"', "/etc/redis/redis.conf"], input=configuration)
    machine.run(["rm", "-f", redis.DROP_IN])
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "reset-failed", UNIT], check=False)
    until(lambda: not holders(machine, PORT), "the port to be free")


def book(machine: Machine, *options: str, command: str = "apply", version: str = "") -> Run:
    """Run a command on the runbook, for the installed version if no other is given."""
    wanted = f"version={version or redis.installed(machine)}"
    argv = ["runbook", command, redis.BOOK, "--output", "json", "--set", wanted, *options]
    done = machine.run(argv, check=False, timeout=120)
    return parsed(done.stdout, done.returncode, done.stderr)


def assert_serves(machine: Machine, key: str) -> None:
    """Assert that systemd, the kernel and redis name the same server, and that it has the key."""
    unit = machine.show(UNIT, "ActiveState", "MainPID")
    assert unit["ActiveState"] == "active"
    assert {str(holder.pid) for holder in holders(machine, PORT)} == {unit["MainPID"]}
    info = redis.info(machine)
    assert (info["process_id"], info["tcp_port"], info["process_supervised"]) == (unit["MainPID"], "6379", "systemd")
    assert redis.ask(machine, "GET", "written-by") == key


def test_a_healthy_server_is_not_restarted(server: Machine) -> None:
    """A restart would make its clients wait until the data are loaded."""
    before = redis.info(server)["run_id"]
    run = book(server)
    assert (run.exit, run.last["status"]) == (0, "ok"), run.last
    assert run.step("update")["verdict"] == "up-to-date"
    assert run.step("remediate")["verdict"] == "holds"
    assert redis.info(server)["run_id"] == before
    assert_serves(server, "unit")


def test_an_upgrade_succeeds(server: Machine) -> None:
    new = redis.offer(server)
    before = redis.info(server)["run_id"], server.show(UNIT, "InvocationID")
    run = book(server, version=new)
    assert (run.exit, run.last["status"]) == (0, "changed"), run.last
    assert (run.step("update")["verdict"], run.step("remediate")["verdict"]) == ("updated", "holds")
    assert redis.installed(server) == new
    assert redis.info(server)["run_id"] != before[0]
    assert server.show(UNIT, "InvocationID") != before[1]
    assert_serves(server, "unit")


def test_an_upgrade_beside_an_orphan_is_fixed(server: Machine) -> None:
    """The package's own restart fails, without an error of apt. The data of the orphan are kept."""
    new = redis.offer(server)
    redis.orphan(server)
    orphan = redis.info(server)["process_id"]
    assert "session-" in control_group(server, int(orphan))
    with connected(server, PORT) as client:
        run = book(server, version=new)
        assert client.poll() is None
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert run.step("update")["verdict"] == "updated"
    assert [e["verdict"] for e in run.of("step-finished") if e["id"] == "remediate.check.wait-ready"] == [
        "orphan-holds-port",
        "ready",
    ]
    assert run.step("remediate.fix.kill-orphan")["reason"].startswith(f"PID {orphan} (redis-server) exited on TERM")
    assert redis.installed(server) == new
    assert_serves(server, "orphan")


def test_a_plan_beside_an_orphan_changes_nothing(server: Machine) -> None:
    redis.orphan(server)
    redis.loop(server)
    orphan = redis.info(server)
    # The restart has failed, but a check that does not look at the holder passes.
    assert redis.ask(server, "PING") == "PONG"
    run = book(server, "--dry-run")
    planned = {e["id"]: e for e in run.of("step-planned")}
    assert (run.exit, run.last["would-change"]) == (0, True)
    assert planned["remediate.check.wait-ready"]["verdict"] == "orphan-holds-port"
    assert planned["remediate.fix.kill-orphan"]["reason"] == (
        f"would kill PID {orphan['process_id']} (redis-server): TERM, and no KILL"
    )
    assert redis.info(server)["run_id"] == orphan["run_id"]
    assert server.show(UNIT, "ActiveState", "NRestarts") == {"ActiveState": "failed", "NRestarts": "5"}
    checked = book(server, command="check")
    assert (checked.exit, checked.step("remediate.check.wait-ready")["verdict"]) == (1, "orphan-holds-port")


def test_an_orphan_with_other_data_is_not_killed(server: Machine) -> None:
    """The unit would start without the data that were written meanwhile."""
    redis.orphan_elsewhere(server)
    orphan = redis.info(server)
    run = book(server)
    assert (run.exit, run.last["status"]) == (1, "failed"), run.last
    assert run.step("same-data")["verdict"] == "command-failed"
    assert run.step("same-data")["reason"].endswith(
        "what answers on port 6379 keeps its data in /srv/data, not in /var/lib/redis"
    )
    assert [e["id"] for e in run.of("step-finished")] == ["same-data"]
    assert redis.info(server)["run_id"] == orphan["run_id"]
    # An administrator accepts that. The key stays on the disk of the orphan, and the unit does not have it.
    accepted = book(server, "--set", "data=/srv/data")
    assert (accepted.exit, accepted.last["status"]) == (0, "remediated"), accepted.last
    assert_serves(server, "unit")
    assert server.run(["grep", "--text", "--count", "orphan", "/srv/data/dump.rdb"]).stdout == "1\n"


def test_a_slow_load_is_not_interrupted(server: Machine) -> None:
    """With Type=notify the unit is activating, and PING is answered with LOADING. redis is not killed."""
    redis.slow_load(server)
    loading = server.show(UNIT, "MainPID", "SubState")
    run = book(server, "--set", "wait=3s")
    assert (run.exit, run.last["status"]) == (3, "still-starting"), run.last
    assert run.step("remediate.check.wait-ready")["verdict"] == "still-starting"
    assert "reports `Redis is loading...`; it was left alone" in run.step("remediate.check.wait-ready")["reason"]
    assert not [e for e in run.events if ".fix." in e.get("id", "")]
    assert loading["SubState"] == "start"
    assert redis.ask(server, "PING").startswith("LOADING")
    assert book(server, command="check").step("remediate.check.wait-ready")["verdict"] == "still-starting"
    # The same process becomes ready by itself.
    redis.loaded(server)
    until(lambda: redis.ask(server, "PING") == "PONG", "redis to have loaded")
    until(lambda: server.show(UNIT, "SubState")["SubState"] == "running", "systemd to read the notification")
    assert server.show(UNIT, "MainPID")["MainPID"] == loading["MainPID"]
    assert_serves(server, "unit")
    assert book(server, command="check").exit == 0


def test_a_redis_that_never_notifies_is_a_failure(server: Machine) -> None:
    """With `supervised no` under Type=notify redis serves, and systemd stops it at each time-out."""
    redis.never_notifies(server)
    run = book(server)
    assert (run.exit, run.last["status"]) == (1, "failed"), run.last
    assert run.step("remediate.check.wait-ready")["verdict"] == "not-notifying"
    assert run.step("remediate")["verdict"] == "not-fixed"
    assert "did not report that it is ready within the 2s of TimeoutStartSec= (Type=notify)" in run.last["reason"]


def test_an_old_process_with_new_files_is_found(server: Machine) -> None:
    """A policy forbids packages to restart services. apt succeeds, and the old program still serves."""
    new = redis.offer(server)
    before = redis.info(server)
    server.write("/usr/sbin/policy-rc.d", "#!/bin/sh\nexit 101\n", 0o755)
    try:
        server.run(["apt-get", "install", "--yes", f"redis-server={new}", f"redis-tools={new}"])
    finally:
        server.run(["rm", "/usr/sbin/policy-rc.d"])
    assert redis.info(server)["run_id"] == before["run_id"]
    checked = book(server, command="check")
    verdict = checked.step("remediate.check.verify-version")
    assert (checked.exit, verdict["verdict"]) == (1, "old-code-serving"), checked.last
    assert "the file of its program was replaced or removed since" in verdict["reason"]
    run = book(server)
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert run.step("remediate")["reason"] == "old-code-serving was fixed"
    assert redis.info(server)["run_id"] != before["run_id"]
    assert_serves(server, "unit")
