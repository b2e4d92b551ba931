"""A Python application behind gunicorn, upgraded and fixed with the shipped runbook."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.machine import Machine, until
from tests.machine.runs import Run, parsed, runbook
from tests.machine.software import gunicorn_app as shop
from tests.machine.software.gunicorn_app import BROKEN, NEW, OLD, SOCKET, UNIT
from tests.machine.tree import PROJECT

BOOK = str(PROJECT / "runbooks" / "gunicorn-app.yaml")
WAIT, VERSION = "remediate.check.wait-ready", "remediate.check.verify-version"


@pytest.fixture
def app(machine: Machine) -> Iterator[Machine]:
    """Return a machine in which the test installs the application, and remove the application at the end."""
    yield machine
    shop.remove(machine)


def carry_out(machine: Machine, command: str = "apply", *options: str) -> Run:
    done = machine.run(["runbook", command, BOOK, "--output", "json", *options], check=False, timeout=100)
    return parsed(done.stdout, done.returncode, done.stderr)


def main_pid(machine: Machine) -> int:
    return int(machine.show(UNIT, "MainPID")["MainPID"])


def assert_the_unit_serves_alone(machine: Machine) -> None:
    """Assert from systemd, `ss` and the application that one master with two workers serves the new release alone."""
    assert machine.show(UNIT, "ActiveState")["ActiveState"] == "active"
    until(lambda: len(shop.pids(machine)) == 3, "the second worker")
    assert shop.holding(machine) - {1} == set(shop.pids(machine))
    assert sorted(shop.pids(machine)) == sorted([main_pid(machine), *shop.children(machine, main_pid(machine))])
    assert {shop.version(machine) for _ in range(8)} == {NEW}


def test_an_upgrade_succeeds(app: Machine) -> None:
    shop.install(app)
    before = app.show(UNIT, "InvocationID")
    run = carry_out(app)
    assert (run.exit, run.last["status"]) == (0, "changed"), run.last
    assert [verdict for _, _, verdict in run.verdicts[:3]] == ["command-done", "updated", "job-done"]
    assert run.step("remediate")["verdict"] == "holds"
    assert_the_unit_serves_alone(app)
    assert app.show(UNIT, "InvocationID") != before

    # A release that cannot be imported is found before the running one is touched.
    serves = main_pid(app)
    broken = carry_out(app, "apply", "--set", f"version={BROKEN}")
    assert (broken.exit, broken.verdicts) == (1, [("run", "failed", "command-failed")]), broken.last
    assert "No module named 'no_such_module'" in broken.last["reason"]
    assert (main_pid(app), shop.version(app)) == (serves, NEW)
    assert app.run(["readlink", "/srv/shop/current"]).stdout.strip() == f"releases/{NEW}"


@pytest.mark.parametrize(
    ("arguments", "serves"),
    [("", OLD), ("--chdir=/srv/shop/current --preload", OLD), ("--chdir=/srv/shop/current", NEW)],
    ids=["a link that was resolved", "code that the master loaded", "code that the workers load"],
)
def test_a_reload_instead_of_a_restart_is_found(app: Machine, arguments: str, serves: str) -> None:
    """`systemctl reload` succeeds each time. A young worker may still have old code, so the times alone do not pass."""
    shop.install(app, arguments=arguments)
    shop.reloaded(app)
    assert shop.version(app) == serves
    checked = carry_out(app, "check")
    assert (checked.exit, checked.step(VERSION)["verdict"]) == (1, "old-code-serving")
    # A runbook with a reload should query the service, and not compare times.
    page = '{http: {url: "http://127.0.0.1:8000/version"}, expect: 2.0.0}'
    asked = runbook(app, "apply", f"unit: shop\nport: 8000\nsteps: [reload, verify-version: {page}]\n")
    assert asked.step("reload")["verdict"] == "reloaded"
    assert asked.step("verify-version")["verdict"] == ("version-ok" if serves == NEW else "version-mismatch")


def test_an_unfinished_hand_over_is_found_and_finished(app: Machine) -> None:
    """Two masters of one invocation share a socket. Both belong to the unit, and half of the answers are old."""
    shop.install(app, arguments="--chdir=/srv/shop/current")
    old, new = shop.hand_over(app)
    until(lambda: {shop.version(app) for _ in range(10)} == {OLD, NEW}, "answers of both")
    planned = carry_out(app, "apply", "--dry-run")
    assert planned.exit == 0
    checked = carry_out(app, "check")
    assert checked.step("remediate.check.verify-port-owner")["verdict"] == "owned"
    assert (checked.exit, checked.step(VERSION)["verdict"]) == (1, "old-code-serving")
    assert {old, new} < shop.holding(app)
    run = carry_out(app)
    assert (run.exit, run.last["status"]) == (0, "changed"), run.last
    assert_the_unit_serves_alone(app)
    assert main_pid(app) not in (old, new)


def test_a_hand_over_without_a_notification_leaves_an_old_master(app: Machine) -> None:
    """gunicorn does not notify systemd of its new master. With KillMode=process it is left, and holds the port."""
    shop.install(app, "KillMode=process", arguments="--chdir=/srv/shop/current")
    old, new = shop.hand_over(app)
    app.run(["kill", "-QUIT", str(old)])
    until(lambda: main_pid(app) not in (0, old), "systemd to start another one")
    assert main_pid(app) != new
    assert new in shop.holding(app)
    run = carry_out(app)
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert (WAIT, "failed", "leftover-holds-port") in run.verdicts
    assert ("remediate.fix.kill-orphan", "changed", "killed") in run.verdicts
    assert_the_unit_serves_alone(app)
    assert app.run(["kill", "-0", str(new)], check=False).returncode


def test_a_hand_over_with_a_notification_keeps_the_invocation(app: Machine) -> None:
    """With a hook that sends MAINPID=, the new master belongs to the same invocation."""
    app.write("/srv/shop/gunicorn.conf.py", shop.ANNOUNCES)
    arguments = "--config=/srv/shop/gunicorn.conf.py --chdir=/srv/shop/current"
    shop.install(app, "NotifyAccess=all", arguments=arguments)
    invocation = app.show(UNIT, "InvocationID")
    old, new = shop.hand_over(app)
    until(lambda: main_pid(app) == new, "systemd to read the notification of the next master")
    assert carry_out(app, "check").step(VERSION)["verdict"] == "old-code-serving"
    app.run(["kill", "-QUIT", str(old)])
    until(lambda: len(shop.holding(app)) == 3, "the old master to be gone", 20)
    checked = carry_out(app, "check")
    assert (checked.exit, checked.step(VERSION)["verdict"]) == (0, "version-ok"), checked.last
    assert_the_unit_serves_alone(app)
    assert (app.show(UNIT, "InvocationID"), main_pid(app)) == (invocation, new)


def test_a_gunicorn_from_a_login_is_killed(app: Machine) -> None:
    # The unit fails again and again beside it, and would hit its start limit on a slow machine.
    shop.install(app, "[Unit]", "StartLimitIntervalSec=0")
    with shop.orphan(app) as login:
        strays = shop.holding(app)
        planned = carry_out(app, "apply", "--dry-run")
        kill = next(e for e in planned.of("step-planned") if e["type"] == "kill-orphan")
        assert {e["pid"] for e in kill["evidence"]["ports"][0]["holders"]} == strays == shop.holding(app)
        run = carry_out(app)
        assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
        # gunicorn tries five times, a second apart ("Connection in use"): the step ends before, with the cause.
        assert run.step("restart")["verdict"] == "orphan-holds-port"
        assert (WAIT, "failed", "orphan-holds-port") in run.verdicts
        assert ("remediate.fix.kill-orphan", "changed", "killed") in run.verdicts
        assert_the_unit_serves_alone(app)
        login.wait(10)
    assert not strays & shop.holding(app)


def test_a_gunicorn_that_shares_the_port_is_killed(app: Machine) -> None:
    """With SO_REUSEPORT no process finds the port in use."""
    shop.install(app, arguments="--reuse-port")
    shop.shared(app)
    run = carry_out(app)
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert run.step("restart")["verdict"] == "job-done"
    assert (WAIT, "failed", "port-shared") in run.verdicts
    assert_the_unit_serves_alone(app)


def test_no_connection_is_refused_behind_a_socket_unit(app: Machine) -> None:
    """systemd holds the socket, and accepts connections while no gunicorn is running."""
    shop.install(app, socket=True)
    ask = "while test ! -e /run/enough; do curl -fsS -m10 http://127.0.0.1:8000/version || echo refused; echo; done"
    app.run(["rm", "-f", "/run/enough"])
    with app.popen(["sh", "-c", ask]) as client:
        run = carry_out(app)
        app.run(["touch", "/run/enough"])
        answers = client.communicate(timeout=20)[0].split()
    assert (run.exit, run.last["status"]) == (0, "changed"), run.last
    assert run.step("remediate.check.verify-port-owner")["verdict"] == "owned"
    assert (set(answers), answers[0], answers[-1]) == ({OLD, NEW}, OLD, NEW)
    assert 1 in shop.holding(app)
    assert_the_unit_serves_alone(app)


def test_a_socket_unit_that_found_the_port_in_use_is_started(app: Machine) -> None:
    shop.install(app, socket=True)
    app.run(["systemctl", "stop", SOCKET, UNIT])
    with shop.orphan(app) as login:
        until(lambda: app.show(SOCKET, "ActiveState")["ActiveState"] == "failed", "the socket unit to fail")
        run = carry_out(app)
        assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
        assert run.step("restart")["verdict"] == "job-dependency"
        assert (WAIT, "failed", "orphan-holds-port") in run.verdicts
        assert app.show(SOCKET, "ActiveState")["ActiveState"] == "active"
        assert 1 in shop.holding(app)
        assert_the_unit_serves_alone(app)
        login.wait(10)


def test_a_wait_lasts_until_hanging_workers_are_replaced(app: Machine) -> None:
    """gunicorn itself kills the workers after its --timeout."""
    shop.install(app, arguments="--timeout=10")
    before, workers = main_pid(app), shop.children(app, main_pid(app))
    hang = "for worker in 1 2; do curl -s -m60 http://127.0.0.1:8000/hang & done; wait"
    with app.popen(["sh", "-c", hang]) as clients:
        until(lambda: shop.ask(app, "pid", patience=0.5) == "", "both workers to hang")
        probe = '{http: {url: "http://127.0.0.1:8000/", timeout: 1s}}'
        wait = f"wait-ready: {{healthy-for: 0, timeout: 30s, probes: [{probe}]}}"
        run = runbook(app, "apply", f"unit: shop\nport: 8000\nsteps: [{wait}]\n")
        clients.wait(60)
    assert (run.exit, run.step("wait-ready")["verdict"]) == (0, "ready"), run.last
    assert run.step("wait-ready")["evidence"]["ready-after"] > 1
    assert main_pid(app) == before
    assert not set(workers) & set(shop.pids(app))
