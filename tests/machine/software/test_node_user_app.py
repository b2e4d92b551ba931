"""A Node application under its user's manager, upgraded and fixed by that user with the shipped runbook."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.docs import blocks_of_test, commands_in
from tests.machine.incident import control_group, in_login, remove_unit
from tests.machine.machine import Machine, until
from tests.machine.runs import Run, parsed, runbook
from tests.machine.software import node_user_app as node
from tests.machine.software.node_user_app import NEW, OLD, PORT, UNIT
from tests.machine.tree import PROJECT, USER

BOOK = str(PROJECT / "runbooks" / "node-user-app.yaml")
HOLDER = "remediate.check.wait-ready"


@pytest.fixture
def app(machine: Machine) -> Iterator[Machine]:
    """Start the old release, with the tarball of the new one."""
    if machine.run(["test", "-e", node.PROGRAM], check=False).returncode:
        node.install(machine)
    else:
        node.restore(machine)
    yield machine
    node.as_user(machine, f"systemctl --user stop {UNIT} by-hand.scope", check=False)
    machine.run(["systemctl", "stop", "by-root.scope"], check=False)
    machine.run(["pkill", "-KILL", "-x", "node"], check=False)
    until(lambda: not node.held(machine), "the port to be free")


def carry_out(machine: Machine, command: str = "apply", *options: str, user: str = USER, book: str = BOOK) -> Run:
    done = machine.run(["runbook", command, book, "--output", "json", *options], check=False, user=user, timeout=100)
    return parsed(done.stdout, done.returncode, done.stderr)


def invocation(machine: Machine) -> str:
    return node.show(machine, "InvocationID")["InvocationID"]


def assert_the_unit_serves_alone(machine: Machine, version: str = NEW) -> None:
    """Assert from `ss`, the user's manager and the application that the unit serves a version alone."""
    assert node.serves(machine, version)
    [holder] = node.held(machine)
    assert node.show(machine, "MainPID", "ActiveState") == {"MainPID": str(holder.pid), "ActiveState": "active"}
    assert control_group(machine, holder.pid).endswith(f"/app.slice/{UNIT}")


def test_an_upgrade_succeeds(app: Machine) -> None:
    before = invocation(app)
    run = carry_out(app)
    assert (run.exit, run.last["status"]) == (0, "changed"), run.last
    assert run.verdicts[:2] == [("update", "changed", "updated"), ("start", "changed", "job-done")]
    assert "notes.service was kept stopped meanwhile" in run.step("update")["reason"]
    assert run.step("remediate")["verdict"] == "holds"
    assert run.of("notice") == []
    assert_the_unit_serves_alone(app)
    assert invocation(app) != before
    # npm ran as the user, in a unit of the user's manager.
    of_user = app.run(["journalctl", "--quiet", "--no-pager", "--output=cat", "_UID=1000"]).stdout
    assert f"runbook-{run.last['run']}" in of_user
    again = carry_out(app)
    assert (again.exit, again.last["status"]) == (0, "ok"), again.last
    assert [verdict for _, _, verdict in again.verdicts][:2] == ["up-to-date", "already-so"]


def assert_fixed(machine: Machine) -> None:
    """Apply the runbook beside an orphan. The orphan is killed, and the unit serves the new release alone."""
    [stray] = node.held(machine)
    run = carry_out(machine)
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert (HOLDER, "failed", "orphan-holds-port") in run.verdicts
    assert ("remediate.fix.kill-orphan", "changed", "killed") in run.verdicts
    assert_the_unit_serves_alone(machine)
    assert machine.run(["kill", "-0", str(stray.pid)], check=False).returncode


def test_a_copy_from_a_login_is_killed(app: Machine) -> None:
    with node.orphan(app) as login:
        [stray] = node.held(app)
        assert "/session-" in control_group(app, stray.pid)
        planned = carry_out(app, "apply", "--dry-run")
        kill = next(e for e in planned.of("step-planned") if e["type"] == "kill-orphan")
        assert (planned.exit, kill["verdict"]) == (0, "orphan-holds-port")
        assert [e["pid"] for e in kill["evidence"]["ports"][0]["holders"]] == [stray.pid]
        assert node.held(app) == [stray]
        assert_fixed(app)
        login.wait(10)


def test_a_copy_in_a_scope_of_the_users_manager_is_killed(app: Machine) -> None:
    node.in_scope(app)
    assert_fixed(app)


def test_an_installation_without_a_restart_is_found(app: Machine) -> None:
    node.switch(app, NEW)
    before = invocation(app)
    checked = carry_out(app, "check")
    assert (checked.exit, checked.step("remediate.check.verify-version")["verdict"]) == (1, "old-code-serving")
    run = carry_out(app)
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert ("update", "ok", "up-to-date") in run.verdicts
    assert ("remediate.check.verify-version", "failed", "old-code-serving") in run.verdicts
    assert_the_unit_serves_alone(app)
    assert invocation(app) != before


def test_a_release_that_exits_at_once_is_a_failure(app: Machine) -> None:
    """No process holds its port, and the hint names the user's journal."""
    node.pack(app, "3.0.0", "#!/usr/bin/env node\nprocess.exit(3);\n")
    run = carry_out(app, "apply", "--set", "version=3.0.0")
    assert (run.exit, run.last["status"]) == (1, "failed"), run.last
    assert (HOLDER, "failed", "crash-loop") in run.verdicts
    assert "its main process exited with status 3" in run.step(HOLDER)["reason"]
    assert run.last["hint"] == "journalctl --user -u notes.service -n 30 shows why"
    back = carry_out(app, "apply", "--set", f"version={OLD}")
    assert back.exit == 0, back.last
    assert_the_unit_serves_alone(app, OLD)


def test_a_changed_unit_file_is_loaded(app: Machine) -> None:
    """The user's manager loads it only at a daemon-reload of its own."""
    path = f"{node.HOME}/.config/systemd/user/{UNIT}"
    node.write(app, path, node.SERVICE.replace("[Service]", "[Service]\nEnvironment=GREETING=hello"))
    try:
        assert node.show(app, "NeedDaemonReload")["NeedDaemonReload"] == "yes"
        run = carry_out(app)
        assert (run.exit, run.last["status"]) == (0, "changed"), run.last
        assert_the_unit_serves_alone(app)
        now = node.show(app, "NeedDaemonReload", "MainPID")
        assert now["NeedDaemonReload"] == "no"
        assert "GREETING=hello" in app.read(f"/proc/{now['MainPID']}/environ").split("\0")
    finally:
        node.write(app, path, node.SERVICE)
        node.as_user(app, "systemctl --user daemon-reload")


def refused(machine: Machine) -> Run:
    """Apply the runbook where it must not fix anything. The holder of the port stays."""
    before = [holder.pid for holder in node.held(machine)]
    run = carry_out(machine)
    assert (run.exit, run.last["status"]) == (1, "failed"), run.last
    assert ("remediate", "failed", "not-fixed") in run.verdicts
    assert not any(name.startswith("remediate.fix") for name, _, _ in run.verdicts)
    assert [holder.pid for holder in node.held(machine)] == before
    return run


def test_a_copy_of_root_is_not_killed(app: Machine) -> None:
    """The user cannot find the holder of the port. That is a failure, and nothing is killed."""
    node.of_root(app)
    run = refused(app)
    assert run.step(HOLDER)["verdict"] == "owner-unknown"
    assert "made by uid 0) cannot be found; root can see it: ss -lntp sport = :3000" in run.last["reason"]
    # The advised command does show the holder.
    assert "node" in app.run(["sh", "-c", "ss -lntp sport = :3000"]).stdout


def test_a_process_in_the_managers_cgroup_is_not_killed(app: Machine) -> None:
    node.in_the_managers_cgroup(app)
    run = refused(app)
    assert run.step(HOLDER)["verdict"] == "other-unit-holds-port"
    assert "(node): it is in the cgroup of the manager of user agentops itself" in run.last["reason"]
    # The advice must not stop the user's manager.
    assert "systemctl" not in run.last["reason"]


def test_a_system_service_of_the_same_name_is_not_stopped(app: Machine) -> None:
    node.of_the_system(app)
    try:
        run = refused(app)
        assert run.step(HOLDER)["verdict"] == "other-unit-holds-port"
        assert "in notes.service of the system" in run.step(HOLDER)["reason"]
        assert "stop it (sudo systemctl stop notes.service)" in run.last["reason"]
        assert app.show(UNIT, "ActiveState")["ActiveState"] == "active"
    finally:
        remove_unit(app, UNIT)


def test_a_user_service_on_the_port_of_a_system_service_is_not_stopped(app: Machine) -> None:
    """The reason names the user's manager, and the command that stops the service."""
    app.write(f"/etc/systemd/system/{UNIT}", f"[Service]\nUser={USER}\nExecStart={node.PROGRAM}\n")
    app.run(["systemctl", "daemon-reload"])
    try:
        run = runbook(app, "apply", f"unit: {UNIT}\nport: {PORT}\nsteps: [kill-orphan]\n")
        assert (run.exit, run.step("kill-orphan")["verdict"]) == (1, "refused-to-kill"), run.last
        assert "stop it (systemctl --user -M agentops@ stop notes.service)" in run.last["reason"]
        assert node.serves(app, OLD)
        app.run(["systemctl", "--user", "-M", "agentops@", "stop", "notes.service"])
        assert node.held(app) == []
    finally:
        remove_unit(app, UNIT)


def test_root_gets_a_hint_to_run_it_as_the_user(app: Machine) -> None:
    before = invocation(app)
    for book, hint in ((BOOK, "su - USER -c 'runbook …'"), (node.FILE, "su - agentops -c 'runbook …'")):
        run = carry_out(app, user="root", book=book)
        assert (run.exit, run.last["status"]) == (5, "not-begun")
        assert run.last["hint"] == f"run it as the owner of the units: {hint}"
    assert invocation(app) == before
    # The hint works.
    checked = app.run(["su", "-", USER, "-c", f"runbook check {node.FILE} --set version={OLD}"])
    assert "everything holds" in checked.stdout


@pytest.mark.parametrize("folder", ["", "/run/user/0"])
def test_a_user_without_xdg_runtime_dir_can_run_it(app: Machine, folder: str) -> None:
    """As over SSH or with `su`, the variable is missing, or is that of another user."""
    argv = ["runbook", "check", BOOK, "--set", f"version={OLD}"]
    assert app.run(argv, user=USER, env={"XDG_RUNTIME_DIR": folder}, check=False).returncode == 0


def test_a_user_who_does_not_linger_gets_a_notice(app: Machine) -> None:
    app.run(["useradd", "--create-home", "guest"])
    login = in_login(app, ["sleep", "infinity"], "guest")
    try:
        until(lambda: app.run(["test", "-S", "/run/user/1001/bus"], check=False).returncode == 0, "guest's manager")
        book = "scope: user\nsteps: [run: {run: 'true'}]\n"
        for options in ((), ("--dry-run",)):
            run = runbook(app, "apply", book, *options, user="guest")
            assert run.exit == 0, run.last
            [notice] = run.of("notice")
            assert "ends with the last login" in notice["text"]
            assert "loginctl enable-linger guest" in notice["text"]
    finally:
        login.kill()
        login.communicate()
        app.run(["loginctl", "terminate-user", "guest"], check=False)
        until(
            lambda: app.run(["pgrep", "-u", "guest"], check=False).returncode == 1, "the processes of guest to exit", 20
        )
        app.run(["userdel", "--remove", "guest"], check=False)


def test_the_commands_of_the_page(app: Machine) -> None:
    [block] = blocks_of_test("test_the_commands_of_the_page")
    node.write(app, f"/home/{USER}/node-user-app.yaml", app.read(BOOK))
    for command in commands_in(block):
        as_root = command.startswith("sudo ")
        script = command.removeprefix("sudo ")
        app.run(
            ["bash", "-ec", f"cd ~{USER}; {script}"], user=None if as_root else USER, env={"USER": USER}, timeout=100
        )
    assert_the_unit_serves_alone(app)
