"""`runbook guard`: the real needrestart of Debian restarts a service after upgrades, with and without the guard."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.machine.incident import holders, remove_unit
from tests.machine.machine import Machine, until
from tests.machine.runs import runbook
from tests.machine.software.shop import PORT, UNIT, build, install, restart_services, start, three_that_restart
from tests.machine.tree import USER

HOOK = f"/etc/needrestart/restart.d/{UNIT}"


@pytest.fixture(scope="module")
def machine(suite: str) -> Iterator[Machine]:
    """Boot a machine with needrestart, which restarts services without a question."""
    with Machine(suite, needrestart=True) as booted:
        restart_services(booted)
        yield booted


@pytest.fixture(autouse=True)
def _as_before(machine: Machine) -> Iterator[None]:
    yield
    machine.run(["runbook", "guard", "--remove"])
    remove_unit(machine, UNIT)
    machine.run(["sh", "-c", "dpkg --purge $(dpkg-query -W -f '${Package} ' 'shop-*')"], check=False)
    machine.run(["sh", "-c", "rm -f /root/shop-*.deb"])
    machine.run(["rm", "-rf", "/var/lib/runbook/runs", HOOK])
    until(lambda: not holders(machine, PORT), f"port {PORT} to be free")


def guard(machine: Machine, *options: str) -> None:
    machine.run(["runbook", "guard", UNIT, "--healthy-for", "1s", *options])


def state(machine: Machine) -> tuple[str, str]:
    found = machine.show(UNIT, "ActiveState", "Result")
    return found["ActiveState"], found["Result"]


def runs(machine: Machine) -> list[tuple[str, str]]:
    """Return name and status of all runs, the first first."""
    printed = machine.run(["runbook", "history", "--all", "--output", "json"]).stdout
    found = [json.loads(line) for line in printed.splitlines()]
    return [(one["name"], one["status"]) for one in reversed(found)]


def is_outdated(machine: Machine) -> bool:
    """True if the service has a file mapped that was replaced."""
    pid = machine.show(UNIT, "MainPID")["MainPID"]
    return "/usr/lib/shop/shop-a.so (deleted)" in machine.read(f"/proc/{pid}/maps")


def test_without_a_guard_small_upgrades_use_up_the_start_limit(machine: Machine) -> None:
    packages = [build(machine, "shop-a", version) for version in range(11)]
    install(machine, packages[0])
    start(machine, 5, "10min")
    # The service was started once before. apt succeeds each time.
    states = [(install(machine, package), state(machine))[1] for package in packages[1:]]
    assert states == [("active", "success")] * 4 + [("failed", "start-limit-hit")] * 6
    assert holders(machine, PORT) == []


@pytest.mark.timeout(400)
def test_with_a_guard_ten_small_upgrades_are_ten_proved_restarts(machine: Machine) -> None:
    packages = [build(machine, "shop-a", version) for version in range(11)]
    install(machine, packages[0])
    start(machine, 5, "40s")
    guard(machine)
    for package in packages[1:]:
        assert "restart.d/shop.service" in install(machine, package)
        assert state(machine) == ("active", "success")
        assert not is_outdated(machine)
    assert runs(machine) == [("restart shop.service", "changed")] * 10
    logged = machine.run(["journalctl", "--unit", UNIT, "-t", "runbook", "-o", "cat"]).stdout
    assert logged.count("ended, changed: shop.service is active (running)") == 10


def test_without_a_guard_three_packages_and_needrestart_stop_the_service(machine: Machine) -> None:
    install(machine, *three_that_restart(machine, 1))
    start(machine, 4, "10min")
    install(machine, *three_that_restart(machine, 2))
    assert state(machine) == ("failed", "start-limit-hit")


def test_with_a_guard_the_restart_waits_for_the_start_limit(machine: Machine) -> None:
    install(machine, *three_that_restart(machine, 1))
    start(machine, 4, "30s")
    guard(machine)
    install(machine, *three_that_restart(machine, 2))
    assert state(machine) == ("active", "success")
    assert not is_outdated(machine)
    assert runs(machine) == [("restart shop.service", "changed")]


def test_a_limit_that_lasts_too_long_is_not_waited_for(machine: Machine) -> None:
    """The service runs on, with the old library, until needrestart is run again."""
    install(machine, *three_that_restart(machine, 1))
    start(machine, 4, "1h")
    guard(machine)
    install(machine, *three_that_restart(machine, 2))
    assert state(machine) == ("active", "success")
    assert is_outdated(machine)
    assert runs(machine) == [("restart shop.service", "failed")]
    shown = machine.run(["runbook", "show"]).stdout
    assert "start-limit-hit" in shown
    assert "no job was requested" in " ".join(shown.split())


def test_an_upgrade_by_a_run_does_not_wait_for_itself(machine: Machine) -> None:
    """The run has the lock of the unit; needrestart calls the hook from within its command."""
    first, second = (build(machine, "shop-a", version) for version in range(2))
    install(machine, first)
    start(machine, 5, "10s")
    guard(machine)
    update = f"apt-get install --quiet --yes {second}"
    steps = f"[run: {{run: {update}}}, restart, wait-ready: {{healthy-for: 1s}}]"
    run = runbook(machine, "apply", f"unit: shop\nport: 8080\nsteps: {steps}\n")
    assert (run.exit, run.last["status"]) == (0, "changed"), run.last
    assert run.step("run")["seconds"] < 60
    assert not is_outdated(machine)
    logged = machine.run(["journalctl", "-t", "runbook", "-o", "cat"]).stdout
    assert "shop.service was not restarted: another run acts on it\n" in logged


def test_a_program_that_does_not_run_is_replaced_by_systemctl(machine: Machine) -> None:
    packages = [build(machine, "shop-a", version) for version in range(2)]
    install(machine, packages[0])
    start(machine, 5, "10s")
    guard(machine)
    machine.run(["mv", "/usr/local/bin/runbook", "/usr/local/bin/runbook.away"])
    try:
        install(machine, packages[1])
        assert not is_outdated(machine)
    finally:
        machine.run(["mv", "/usr/local/bin/runbook.away", "/usr/local/bin/runbook"])
    logged = machine.run(["journalctl", "-t", "runbook", "-o", "cat", "-n", "1"]).stdout
    assert logged == "/usr/local/bin/runbook does not run, so shop.service is restarted without proof\n"


def test_the_hooks_are_listed_and_removed(machine: Machine) -> None:
    start(machine, 5, "10s")
    guard(machine, "--port", "8080", "--no-fix")
    text = machine.read(HOOK)
    assert 'restart --lock-wait "$wait" --port 8080 --healthy-for 1s "$unit"' in text
    assert machine.run(["stat", "-c", "%U %a", HOOK]).stdout == "root 755\n"
    listed = json.loads(machine.run(["runbook", "guard", "--list", "--output", "json"], user=USER).stdout)
    assert listed == {"unit": UNIT, "exists": True, "file": HOOK, "runs": True, "why": ""}
    machine.write("/etc/needrestart/conf.d/z.conf", "$nrconf{override_rc}{qr(^shop)} = 0;\n")
    listed = json.loads(machine.run(["runbook", "guard", "--list", "--output", "json"]).stdout)
    machine.run(["rm", "/etc/needrestart/conf.d/z.conf"])
    why = "needrestart does not restart shop.service: `$nrconf{override_rc}` excludes it"
    assert (listed["runs"], listed["why"]) == (False, why)
    assert machine.run(["runbook", "guard", "--remove", "shop"]).stdout == "shop.service is not guarded any more\n"
    assert machine.run(["runbook", "guard", "--remove", "shop"]).stdout == "shop.service is not guarded\n"
    assert machine.run(["ls", "-A", "/etc/needrestart/restart.d"]).stdout.count("shop") == 0


def test_a_unit_that_was_removed_is_listed_as_such(machine: Machine) -> None:
    start(machine, 5, "10s")
    guard(machine)
    remove_unit(machine, UNIT)
    listed = json.loads(machine.run(["runbook", "guard", "--list", "--output", "json"]).stdout)
    why = f"systemd has no such unit; runbook guard --remove {UNIT} removes the hook"
    assert listed == {"unit": UNIT, "exists": False, "file": HOOK, "runs": False, "why": why}
    text = machine.run(["runbook", "guard", "--list"], user=USER).stdout
    assert " ".join(text.split()) == f"{UNIT} {HOOK} but {why}"
    assert machine.run(["runbook", "guard", "--remove", "shop"]).stdout == f"{UNIT} is not guarded any more\n"


def refused(machine: Machine, *argv: str, user: str | None = None) -> tuple[int, str]:
    done = machine.run(["runbook", "guard", *argv], check=False, user=user)
    return done.returncode, " ".join(done.stderr.split())


def test_what_is_refused(machine: Machine) -> None:
    start(machine, 5, "10s")
    before = machine.read("/etc/needrestart/restart.d/dbus.service")
    for argv in (["dbus"], ["--remove", "dbus"]):
        assert refused(machine, *argv)[0] == 5
        assert "is not a hook of this program, so it is left as it is" in refused(machine, *argv)[1]
    assert machine.read("/etc/needrestart/restart.d/dbus.service") == before
    machine.run(["ln", "-s", "/etc/shadow", HOOK])
    assert refused(machine, "shop")[0] == refused(machine, "--remove", "shop")[0] == 5
    machine.run(["test", "-L", HOOK])
    machine.run(["rm", HOOK])
    assert refused(machine, "shoop") == (5, "runbook: systemd has no unit shoop.service did you mean shop.service?")
    assert refused(machine, "shop.socket")[0] == refused(machine, "../shop")[0] == refused(machine, "shop@")[0] == 2
    assert refused(machine, "shop", user=USER)[0] == refused(machine, "--remove", "shop", user=USER)[0] == 5
    machine.run(["chmod", "o+w", "/opt/venv/bin/runbook"])
    found = refused(machine, "shop")
    machine.run(["chmod", "o-w", "/opt/venv/bin/runbook"])
    assert (found[0], "is writable by every user" in found[1]) == (5, True)
    assert machine.run(["runbook", "guard", "--list"]).stdout == ""


def test_without_needrestart(machine: Machine) -> None:
    start(machine, 5, "10s")
    machine.run(["mv", "/usr/sbin/needrestart", "/usr/sbin/needrestart.away"])
    try:
        assert refused(machine, "shop") == (5, "runbook: needrestart is not installed apt install needrestart")
        assert "needrestart is not installed" in refused(machine, "--list")[1]
    finally:
        machine.run(["mv", "/usr/sbin/needrestart.away", "/usr/sbin/needrestart"])
