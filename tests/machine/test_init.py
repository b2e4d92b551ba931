"""`runbook init` of ten services of Debian: what it finds, and that the runbook can be used as it is."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import pytest
import yaml

from tests.docs import blocks_of_test, commands_in
from tests.machine.machine import Machine, until
from tests.machine.runs import parsed
from tests.machine.tree import USER

SHOP = """\
[Service]
Type=notify
ExecStart=/usr/bin/gunicorn --bind 127.0.0.1:8000 --chdir /srv/shop app:app
"""
APP = """\
def app(environ, start):
    start("200 OK", [])
    return [b"shop"]
"""


class Case(NamedTuple):
    """A service, and what `init` finds of it."""

    start: str  # the unit that is started
    unit: str  # the unit for which the runbook is
    ports: list[Any]
    package: str  # empty if none is found
    probes: list[str]  # the kind and the value of each
    missing: int = 0  # places to be completed
    applied: bool = False  # True if it is also applied


REDIS_PING = "redis-cli -h 127.0.0.1 -p 6379 ping | grep -qx PONG"
POSTGRES_READY = "until pg_isready --quiet --host 127.0.0.1 --port 5432; do sleep 0.5; done"
SSH_KEY = "ssh-keyscan -T 5 -t ed25519 -p 22 127.0.0.1 2>/dev/null | grep -q ssh-ed25519"
POSTGRES = {"bookworm": "15", "trixie": "17"}

CASES = {
    "nginx": Case("nginx", "nginx", [80], "nginx", ["http http://127.0.0.1/"], applied=True),
    "apache2": Case("apache2", "apache2", [80], "apache2", ["http http://127.0.0.1/"]),
    "redis": Case(
        "redis-server", "redis-server", ["127.0.0.1:6379", "[::1]:6379"], "redis-server", [f"run {REDIS_PING}"],
        applied=True,
    ),
    "postgresql": Case(
        "postgresql", "postgresql@{pg}-main", ["127.0.0.1:5432", "[::1]:5432"], "postgresql-{pg}",
        [f"run {POSTGRES_READY}"], applied=True,
    ),
    "ssh": Case("ssh", "ssh", [22], "openssh-server", [f"run {SSH_KEY}"]),
    "mariadb": Case("mariadb", "mariadb", ["127.0.0.1:3306"], "mariadb-server", ["run mariadb-admin --silent ping"]),
    "postfix": Case("postfix", "{postfix}", [25], "postfix", ["tcp 25"]),
    "dovecot": Case("dovecot", "dovecot", [143, 993], "dovecot-core", ["tcp 143", "tcp 993"]),
    "unbound": Case(
        "unbound", "unbound", ["127.0.0.1:53", "[::1]:53", "udp:127.0.0.1:53", "udp:[::1]:53"], "unbound",
        ["tcp 53"],
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def services(suite: str) -> Iterator[Machine]:
    """Boot a machine with the ten services, none of them started."""
    with Machine(suite, services=True) as booted:
        # The root key comes with a package that is only recommended.
        booted.run(["sh", "-c", "rm -f /etc/unbound/unbound.conf.d/root-auto-trust-anchor-file.conf"])
        booted.write("/srv/shop/app.py", APP)
        booted.write(f"/home/{USER}/.config/systemd/user/shop.service", SHOP)
        yield booted


@pytest.mark.parametrize("name", CASES)
def test_a_service_of_debian(services: Machine, name: str) -> None:
    major = POSTGRES[services.suite]
    # On bookworm postfix.service is an umbrella unit.
    names = {"pg": major, "postfix": "postfix@-" if services.suite == "bookworm" else "postfix"}
    case = CASES[name]
    unit = case.unit.format(**names)
    services.run(["systemctl", "start", case.start], timeout=120)
    try:
        written = services.run(["runbook", "init", unit])
        assert f"to be completed: {case.missing}" not in written.stderr or case.missing
        file = f"/root/{name}.yaml"
        services.write(file, written.stdout)
        found = yaml.safe_load(written.stdout)
        assert (found["unit"], listed(found["port"])) == (f"{unit}.service", case.ports), written.stdout
        assert written.stdout.count("# FILL IN:") == case.missing, written.stdout
        update, restart, remediate = found["steps"]
        assert f" {case.package.format(**names)}=${{{{ to }}}}" in f" {update['update']['run']} "
        assert restart == "restart"
        assert list(list_probes(remediate)) == case.probes, written.stdout
        services.run(["runbook", "validate", file])
        planned = services.run(["runbook", "apply", "--dry-run", "--output", "json", file])
        assert parsed(planned.stdout, planned.returncode).last["exit"] == 0, planned.stdout
        checked = services.run(["runbook", "check", file], check=False)
        assert checked.returncode == 0, checked.stdout
        if case.applied:
            applied = services.run(["runbook", "apply", "--output", "json", file], timeout=180)
            assert parsed(applied.stdout, applied.returncode).last["status"] in ("ok", "changed"), applied.stdout
    finally:
        services.run(["systemctl", "stop", case.start, unit], timeout=120)


def test_a_unit_of_a_users_manager(services: Machine) -> None:
    services.run(["systemctl", "--user", "start", "shop"], user=USER)
    written = services.run(["runbook", "init", "--user", "shop", "--write", f"/home/{USER}/shop.yaml"], user=USER)
    assert "to be completed: line " in written.stderr
    found = yaml.safe_load(services.read(f"/home/{USER}/shop.yaml"))
    assert (found["scope"], found["port"]) == ("user", "127.0.0.1:8000")
    assert list(list_probes(found["steps"][-1])) == ["http http://127.0.0.1:8000/"]
    applied = services.run(["runbook", "apply", "--output", "json", f"/home/{USER}/shop.yaml"], user=USER, timeout=120)
    assert parsed(applied.stdout, applied.returncode).last["status"] == "changed", applied.stdout
    again = services.run(
        ["runbook", "init", "--user", "shop", "--write", f"/home/{USER}/shop.yaml"], user=USER, check=False
    )
    assert (again.returncode, "it exists already" in again.stderr) == (5, True)
    services.run(["systemctl", "--user", "stop", "shop"], user=USER)


def test_without_rights_it_reports_what_it_could_not_see(services: Machine) -> None:
    services.run(["systemctl", "start", "nginx"])
    written = services.run(["runbook", "init", "nginx"], user=USER)
    services.run(["systemctl", "stop", "nginx"])
    assert yaml.safe_load(written.stdout)["port"] == 80
    assert "you are not root" in written.stderr
    assert "FILL IN" in written.stdout


def test_a_unit_that_is_down_or_misspelled(services: Machine) -> None:
    written = services.run(["runbook", "init", "unbound"])
    assert "unbound.service is inactive (dead)" in written.stderr
    assert written.stdout.count("# FILL IN:") == 1
    services.write("/root/down.yaml", written.stdout)
    services.run(["runbook", "apply", "--dry-run", "/root/down.yaml"])
    misspelled = services.run(["runbook", "init", "ngnix"], check=False)
    assert (misspelled.returncode, "did you mean nginx.service?" in misspelled.stderr) == (5, True)


def test_a_program_of_its_own_is_asked_for_its_version_without_rights(services: Machine) -> None:
    services.write(
        "/usr/local/bin/gw",
        '#!/bin/sh\n[ "$1" = --version ] || exec sleep 1d\ntouch /tmp/gw-was-here\necho gw 1.4.2\n',
        0o755,
    )
    services.write("/etc/systemd/system/gw.service", "[Service]\nExecStart=/usr/local/bin/gw\n")
    services.run(["systemctl", "daemon-reload"])
    services.run(["systemctl", "start", "gw"])
    written = services.run(["runbook", "init", "gw"])
    assert "version: /usr/local/bin/gw --version    # printed 1.4.2 just now" in written.stdout
    assert services.run(["stat", "-c", "%U", "/tmp/gw-was-here"]).stdout.strip() == "nobody"
    services.run(["chmod", "o+w", "/usr/local/bin/gw"])
    services.run(["rm", "/tmp/gw-was-here"])
    written = services.run(["runbook", "init", "gw"])
    assert "was not tried, because /usr/local/bin/gw is writable by every user" in " ".join(
        written.stdout.replace("#", "").split()
    )
    assert services.run(["test", "-e", "/tmp/gw-was-here"], check=False).returncode == 1
    services.run(["systemctl", "stop", "gw"])
    until(lambda: services.show("gw", "ActiveState")["ActiveState"] == "inactive", "gw to stop")


def test_the_commands_that_make_a_first_runbook(services: Machine) -> None:
    services.run(["sh", "-c", "systemctl start nginx; rm -rf /root/page; mkdir /root/page"])
    blocks = blocks_of_test("test_the_commands_that_make_a_first_runbook")
    for command in (command for block in blocks for command in commands_in(block)):
        services.run(["sh", "-c", f"cd /root/page; {command.removeprefix('sudo ')}"], timeout=120)
    services.run(["systemctl", "stop", "nginx"])


def listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def list_probes(remediate: dict[str, Any]) -> Iterator[str]:
    """Yield the kind and the value of each probe of a remediate step."""
    for probe in remediate["remediate"]["check"][0]["wait-ready"].get("probes", []):
        [(kind, fields)] = probe.items()
        [value] = fields.values()
        yield f"{kind} {value}"
