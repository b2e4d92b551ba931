"""runbooks/ssh-socket.yaml on the distribution's OpenSSH, with an open session."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.ending.staging import actor, cleared, listening, scope
from tests.machine.incident import holders, in_login, remove_unit
from tests.machine.machine import Machine, until
from tests.machine.runs import Run, parsed, runbook, unit_file
from tests.machine.software import ssh
from tests.machine.software.ssh import RUNBOOK, SERVICE, SOCKET, SSH, Session


@pytest.fixture
def host(machine: Machine) -> Iterator[Machine]:
    """Start ssh.socket, before a first login, and remove everything of ssh at the end."""
    ssh.install(machine)
    yield machine
    ssh.clear(machine)


@pytest.fixture
def session(host: Machine) -> Iterator[Session]:
    """Open a session, and assert at the end that it is still open."""
    with Session(host) as one:
        yield one
        assert one.answers("goodbye")


def argv(machine: Machine, command: str = "apply", version: str = "") -> list[str]:
    """Return the command line, for the installed version if no other is given."""
    version = version or machine.run(["dpkg-query", "--show", "--showformat", "${Version}", "openssh-server"]).stdout
    chosen = ["--set", f"version={version}"] if command == "apply" else []
    return ["runbook", command, RUNBOOK, "--output", "json", *chosen]


def apply(machine: Machine, *options: str, command: str = "apply", version: str = "") -> Run:
    done = machine.run([*argv(machine, command, version), *options], check=False, timeout=100)
    return parsed(done.stdout, done.returncode, done.stderr)


def verdict(run: Run, step: str) -> str:
    return str(run.step(step)["verdict"])


def states(machine: Machine) -> list[str]:
    return [machine.show(unit, "ActiveState")["ActiveState"] for unit in (SOCKET, SERVICE)]


def main_pid(machine: Machine) -> int:
    return int(machine.show(SERVICE, "MainPID")["MainPID"])


def assert_it_is_open(machine: Machine) -> None:
    """Assert from systemd, ss and a new login that only systemd and the service's sshd listen."""
    assert machine.run([*SSH, "echo", "come in"]).stdout == "come in\n"
    assert states(machine) == ["active", "active"]
    assert {holder.pid for holder in holders(machine, 22)} == {1, main_pid(machine)}


# -- healthy


def test_a_run_on_a_healthy_socket_succeeds(host: Machine) -> None:
    """Without a login since the boot ssh.service is down, as it should be."""
    looked = apply(host, "--dry-run")
    planned = {e["id"]: e for e in looked.of("step-planned")}
    assert (planned["config"]["verdict"], planned["remediate.check.verify-port-owner"]["verdict"]) == (
        "command-done",
        "owned",
    )
    with Session(host) as session:
        before = (main_pid(host), host.show(SOCKET, "InvocationID"))
        run = apply(host)
        assert (run.exit, run.last["status"]) == (0, "changed"), run.last
        assert [(step, what) for step, _, what in run.verdicts] == [
            ("config", "command-done"),
            ("rehearse", "command-done"),
            ("update", "up-to-date"),
            ("restart", "job-done"),
            ("remediate.check.wait-ready", "ready"),
            ("remediate.check.verify-port-owner", "owned"),
            ("remediate.check.verify-version", "version-ok"),
            ("remediate", "holds"),
            ("always.start", "already-so"),
        ]
        assert main_pid(host) != before[0]
        assert host.show(SOCKET, "InvocationID") == before[1]
        assert run.last["reason"].startswith("ssh.socket is active (running), port 22; ")
        assert session.answers("still here")
    assert_it_is_open(host)
    assert apply(host, command="check").exit == 0


def test_a_run_from_within_a_session_succeeds(host: Machine) -> None:
    """The run restarts the sshd of its own session."""
    done = host.run([*SSH, *argv(host)], check=False, timeout=100)
    run = parsed(done.stdout, done.returncode, done.stderr)
    assert (run.exit, run.last["status"]) == (0, "changed"), run.last
    assert_it_is_open(host)


def test_a_real_upgrade_is_fixed(fresh_machine: Machine) -> None:
    """The package also restarts the socket, which systemd closes and does not open again."""
    offered = ssh.offer(fresh_machine)
    ssh.install(fresh_machine)
    with Session(fresh_machine) as session:
        before = main_pid(fresh_machine)
        run = apply(fresh_machine, version=offered)
        assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
        assert verdict(run, "update") == "updated"
        assert ("remediate.check.wait-ready", "failed", "other-unit-holds-port") in run.verdicts
        assert verdict(run, "remediate") == "fixed"
        assert main_pid(fresh_machine) != before
        assert session.answers("still here")
    journal = fresh_machine.run(["journalctl", "-u", SOCKET, "--no-pager"]).stdout
    assert "Socket service ssh.service already active, refusing" in journal
    assert_it_is_open(fresh_machine)


# -- broken and fixed


def test_a_service_that_listens_beside_its_socket_is_fixed(host: Machine, session: Session) -> None:
    ssh.both_enabled(host)
    assert states(host) == ["inactive", "active"]
    before = (main_pid(host), holders(host, 22))
    dry = apply(host, "--dry-run")
    planned = {e["id"]: e for e in dry.of("step-planned")}
    assert planned["remediate"]["verdict"] == "other-unit-holds-port"
    assert planned["remediate.fix.kill-orphan"]["verdict"] == "nothing-to-kill"
    assert (main_pid(host), holders(host, 22)) == before
    run = apply(host)
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert ("remediate.check.wait-ready", "failed", "other-unit-holds-port") in run.verdicts
    assert verdict(run, "remediate.fix.kill-orphan") == "nothing-to-kill"
    assert session.answers("still here")
    assert_it_is_open(host)


def test_a_socket_closed_after_ten_restarts_is_fixed(host: Machine, session: Session) -> None:
    ssh.used_up(host)
    assert host.show(SOCKET, "Result") == {"Result": "service-start-limit-hit"}
    assert not holders(host, 22)
    looked = apply(host, command="check")
    assert (looked.exit, verdict(looked, "remediate.check.wait-ready")) == (1, "start-limit-hit")
    run = apply(host)
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert (run.step("restart")["status"], verdict(run, "restart")) == ("failed", "start-limit-hit")
    assert ("remediate.check.wait-ready", "failed", "start-limit-hit") in run.verdicts
    reason = next(e["reason"] for e in run.of("step-finished") if e["id"] == "remediate.check.wait-ready")
    assert reason == (
        "systemd closed ssh.socket, because ssh.service was started too often: Result is service-start-limit-hit"
    )
    assert session.answers("still here")
    assert_it_is_open(host)


def test_an_old_program_with_new_files_is_found(host: Machine, session: Session) -> None:
    host.run(["sh", "-ec", "cp /usr/sbin/sshd /usr/sbin/sshd.new; mv /usr/sbin/sshd.new /usr/sbin/sshd"])
    looked = apply(host, command="check")
    assert (looked.exit, verdict(looked, "remediate.check.verify-version")) == (1, "old-code-serving")
    run = apply(host)
    assert (run.exit, verdict(run, "remediate.check.verify-version")) == (0, "version-ok"), run.last
    assert session.answers("still here")


def test_a_socket_that_stays_closed_beside_its_fixed_service_is_named(host: Machine) -> None:
    """The runbook is only about ssh.service, which listens by itself."""
    host.run(["systemctl", "stop", SOCKET])
    with cleared(host, "orphan.scope"):
        scope(host, "orphan.scope", actor("server", 22))
        listening(host, {22})
        host.run(["systemctl", "start", SOCKET], check=False)
        steps = "check: [wait-ready: {healthy-for: 500ms}], fix: [stop, kill-orphan, reset-failed, start]"
        run = runbook(host, "apply", f"unit: ssh\nport: 22\nsteps:\n  - remediate: {{{steps}}}\n")
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert states(host) == ["failed", "active"]
    (notice,) = [event["text"] for event in run.of("notice") if SOCKET in event["text"]]
    assert notice.startswith("ssh.socket is failed, Result resources, while ssh.service runs and listens on ")
    host.run(["systemctl", "stop", SERVICE])
    host.run(["systemctl", "start", SOCKET, SERVICE])
    assert_it_is_open(host)


# -- not changed


def test_an_sshd_started_by_hand_is_not_killed(host: Machine, session: Session) -> None:
    """It may be the only way to log in."""
    pid = ssh.by_hand(host)
    run = apply(host)
    assert (run.exit, run.last["status"]) == (1, "failed")
    assert ("remediate.check.wait-ready", "failed", "orphan-holds-port") in run.verdicts
    assert "kill-orphan would fail" in run.last["reason"]
    assert f"kill it by hand if it is not needed: kill {pid}" in run.last["reason"]
    assert not [e for e in run.events if e.get("id", "").startswith("remediate.fix")]
    assert [holder.pid for holder in holders(host, 22)] == [pid, pid]
    # The advised command suffices, and ends no session.
    host.run(["kill", str(pid)])
    until(lambda: not holders(host, 22), "port 22 to be free")
    fixed = apply(host)
    assert (fixed.exit, fixed.last["status"]) == (0, "remediated"), fixed.last
    assert session.answers("still here")
    assert_it_is_open(host)


def test_a_configuration_that_sshd_rejects_changes_nothing(host: Machine, session: Session) -> None:
    host.write("/etc/ssh/sshd_config.d/wrong.conf", "PermitRootLogn yes\n")
    before = (main_pid(host), host.show(SOCKET, "InvocationID"))
    try:
        run = apply(host, version="1:99")
    finally:
        host.run(["rm", "/etc/ssh/sshd_config.d/wrong.conf"])
    assert (run.exit, run.last["status"]) == (1, "failed")
    assert run.verdicts == [("config", "failed", "command-failed"), ("always.start", "ok", "already-so")]
    assert "Bad configuration option: PermitRootLogn" in run.step("config")["evidence"]["output"]
    assert (main_pid(host), host.show(SOCKET, "InvocationID")) == before
    assert session.answers("still here")


def test_a_configuration_that_the_new_sshd_rejects_changes_nothing(fresh_machine: Machine) -> None:
    host = fresh_machine
    offered = ssh.offer(host, spoil="s/printlastlog/printlastxxx/")
    ssh.install(host)
    host.write("/etc/ssh/sshd_config.d/old.conf", "PrintLastLog no\n")
    with Session(host) as session:
        before = (main_pid(host), host.show(SOCKET, "InvocationID"))
        run = apply(host, version=offered)
        assert (run.exit, run.last["status"]) == (1, "failed")
        assert [one for one in run.verdicts if one[1] == "failed"] == [("rehearse", "failed", "command-failed")]
        assert "Bad configuration option: PrintLastLog" in run.step("rehearse")["evidence"]["output"]
        assert (main_pid(host), host.show(SOCKET, "InvocationID")) == before
        assert session.answers("still here")
    assert_it_is_open(host)


def test_a_socket_is_not_restarted_while_its_service_runs(host: Machine, session: Session) -> None:
    """systemd would close the socket, and not open it again while ssh.service is running."""
    run = runbook(host, "apply", "unit: ssh.socket\nsteps: [restart]\n")
    assert (run.exit, verdict(run, "restart")) == (1, "job-failed")
    assert "systemd does not open ssh.socket while ssh.service is active (running)" in run.last["reason"]
    assert not run.of("step-acting")
    assert_it_is_open(host)


def test_a_socket_is_restarted_if_its_service_requires_it(host: Machine, session: Session) -> None:
    """systemd stops the service first, so it can open the socket again."""
    folder = "/run/systemd/system/ssh.service.d"
    host.write(f"{folder}/requires.conf", "[Unit]\nRequires=ssh.socket\nAfter=ssh.socket\n")
    host.run(["systemctl", "daemon-reload"])
    try:
        before = (main_pid(host), host.show(SOCKET, "InvocationID"))
        run = runbook(host, "apply", "unit: ssh.socket\nport: 22\nsteps: [restart, verify-port-owner]\n")
    finally:
        host.run(["rm", "-r", folder])
        host.run(["systemctl", "daemon-reload"])
    assert (run.exit, verdict(run, "restart"), verdict(run, "verify-port-owner")) == (0, "job-done", "owned"), run.last
    assert host.show(SOCKET, "InvocationID") != before[1]
    assert session.answers("still here")
    assert_it_is_open(host)
    assert main_pid(host) != before[0]


# -- a service for each connection


def test_a_socket_with_a_service_for_each_connection(host: Machine) -> None:
    """With Accept=yes systemd alone holds the port, and each session is a unit of its own."""
    machine = host
    machine.run(["systemctl", "stop", SOCKET, SERVICE])
    machine.write("/etc/systemd/system/door.socket", "[Socket]\nListenStream=22\nAccept=yes\n")
    door = unit_file("-/usr/sbin/sshd -i", StandardInput="socket", RuntimeDirectory="sshd")
    machine.write("/etc/systemd/system/door@.service", door)
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "start", "door.socket"])
    book = """
        unit: door.socket
        port: 22
        steps:
          - restart
          - wait-ready: {healthy-for: 500ms}
          - verify-port-owner
          - verify-version: {newer-than: /usr/sbin/sshd}
          - kill-orphan
    """
    try:
        with Session(machine) as session:
            run = runbook(machine, "apply", book)
            assert (run.exit, run.last["status"]) == (0, "changed"), run.last
            assert verdict(run, "verify-port-owner") == "owned"
            assert verdict(run, "kill-orphan") == "nothing-to-kill"
            assert "the next connection starts a new process" in run.step("verify-version")["reason"]
            assert {holder.pid for holder in holders(machine, 22)} == {1}
            assert session.answers("still here")
    finally:
        remove_unit(machine, "door.socket")
        machine.run(["rm", "/etc/systemd/system/door@.service"])
        machine.run(["systemctl", "daemon-reload"])


def test_another_program_on_the_port_is_killed_and_the_socket_opened(host: Machine) -> None:
    """The program is no sshd and belongs to no service."""
    host.run(["systemctl", "stop", SOCKET, SERVICE])
    with in_login(host, ["python3", "-m", "http.server", "22"], user="root") as login:
        until(lambda: holders(host, 22), "the program to listen")
        run = apply(host)
        login.wait(10)
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert verdict(run, "remediate.fix.kill-orphan") == "killed"
    assert_it_is_open(host)
