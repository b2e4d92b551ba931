"""The first runbook: it is valid, and says where it must be completed."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from runbook.document import parse
from runbook.document.draft import count_missing
from runbook.document.init.packages import Package
from runbook.document.init.probe import FoundProbe
from runbook.document.init.program import Program
from runbook.document.init.survey import Survey
from runbook.document.init.text import write_first_runbook
from runbook.host.facts import ActiveState
from runbook.model import Port
from tests.unit.fake_machine import unit

PACKAGE = Package(
    "Debian's package gw",
    "1:1.0-1",
    ("apt-get install -qy", "-o A=b", "gw=${{ to }}"),
    ("dpkg-query -W -f '${db:Status-Status} ${Version}' gw",),
    ("/usr/bin/gw",),
    candidate="1:1.1-1",
    pattern=r"^installed (\S+)",
    env=(("A", "b"), ("B", "1")),
    sources=("dpkg", "apt-cache policy"),
)
PROBE = FoundProbe(Port(80), "http", "http://127.0.0.1/health", "It answered 200 just now")


def survey(package: Package | None = PACKAGE, of: dict[str, Any] | None = None, **changes: Any) -> Survey:
    facts: dict[str, Any] = {
        "ports": (Port(80),),
        "program": Program("/usr/bin/gw", "/usr/bin/gw", "/usr/bin/gw"),
        "no_package": "/usr/bin/gw belongs to no package",
        "own_version": "",
        "probes": (PROBE,),
        "notices": (),
        "sources": ("systemd",),
        "is_root": True,
    }
    return Survey(unit(type="notify", **(of or {})), package=package, **{**facts, **changes})


def write(found: Survey) -> str:
    text = write_first_runbook(found, "gw.yaml", "web1", 1_700_000_000.0)
    parse(text, "gw.yaml")
    return text


def test_the_runbook_of_a_package() -> None:
    text = write(survey())
    assert text == EXPECTED
    assert count_missing(text) == []


EXPECTED = r"""# A first runbook for gw.service on web1, made by `runbook init` on 2023-11-14 22:13 UTC.
#
#   sudo runbook apply --dry-run gw.yaml
#   sudo runbook apply gw.yaml
#   sudo runbook apply --set version=VERSION gw.yaml
#
# Read for it: systemd. The unit was active (running), PID 100.
name: upgrade gw
unit: gw.service
port: 80
vars:
  version: "1:1.1-1"  # the newest that apt knows; 1:1.0-1 is installed

steps:
  # Installs Debian's package gw. Does nothing if this version is installed already.
  - update:
      run: >-
        apt-get install -qy
        -o A=b
        gw=${{ to }}
      version: dpkg-query -W -f '${db:Status-Status} ${Version}' gw
      pattern: ^installed (\S+)
      to: ${{ vars.version }}
      env: {A: b, B: "1"}
  - restart
  # If the restart fails, this step finds the cause and fixes it.
  - remediate:
      check:
        # Type=notify: systemd calls it started when it reports that it is ready (READY=1).
        - wait-ready:
            healthy-for: 5s
            timeout: 2min
            probes:
              # It answered 200 just now.
              - http: {url: http://127.0.0.1/health}
        - verify-port-owner
        # Its processes must have started after these files last changed: the new code serves.
        - verify-version: {newer-than: [/usr/bin/gw]}
      fix:
        - stop
        # Kills only this program, and never a process of another service.
        - kill-orphan: {expect: {exe: /usr/bin/gw}}
        - reset-failed
        - start

# If the checks fail, the previous version is installed again. Data and settings are kept as they
# are.
rollback: auto
"""


def test_what_was_not_found_is_marked() -> None:
    to_fill_in = FoundProbe(Port(80), to_fill_in="a probe for port 80: gw.service does not run now")
    text = write(survey(None, own_version="1.4.2", probes=(to_fill_in,)))
    assert [text.splitlines()[at - 1].strip()[:40] for at in count_missing(text)] == [
        "# FILL IN: how a new version is installe",
        "# FILL IN: a probe for port 80: gw.servi",
    ]
    assert "#     version: /usr/bin/gw --version    # printed 1.4.2 just now" in text
    assert "rollback" not in text


def test_a_unit_without_a_port() -> None:
    text = write(survey(ports=(), probes=()))
    assert "\n        - verify-port-owner" not in text
    assert "fix: [stop, reset-failed, start]" in text
    assert "# `port: NUMBER`, if clients use one" in text
    assert count_missing(text) == []
    down = write(survey(ports=(), probes=(), of={"active_state": ActiveState.FAILED}))
    assert len(count_missing(down)) == 1


@pytest.mark.parametrize(("remains", "ends_with"), [(False, "  - restart"), (True, "      fix: [reset-failed, start]")])
def test_a_oneshot(remains: bool, ends_with: str) -> None:
    found = survey(None, ports=(), probes=(), of={"name": "backup.service"})
    text = write(replace(found, unit=replace(found.unit, type="oneshot", remain_after_exit=remains)))
    assert text.rstrip("\n").endswith(ends_with)


def test_a_users_unit_with_several_ports_and_a_watchdog() -> None:
    ports = (Port(80), Port(53, "udp", "10.0.0.1"), Port(8080, address="::1"))
    text = write(survey(None, ports=ports, probes=(), of={"of_user": True, "watchdog_usec": 30_000_000}))
    assert 'scope: user\nport:\n  - 80\n  - "udp:10.0.0.1:53"\n  - "[::1]:8080"\n' in text
    assert "healthy-for: 31s  # longer than WatchdogSec=" in text
    assert "#   runbook apply gw.yaml" in text


def test_a_script_needs_longer_and_another_process_of_its_interpreter_is_not_expected() -> None:
    program = Program("/opt/app/bin/app", "/opt/app/bin/app", interpreter="/usr/bin/python3.11")
    npm = replace(PACKAGE, run=("rm -rf x", "npm install gw@${{ to }}"), sources=("/x/package.json",), user="app")
    text = write(survey(npm, program=program))
    assert "healthy-for: 10s" in text
    assert "fix: [stop, kill-orphan, reset-failed, start]" in text
    assert "      run: |\n        rm -rf x\n" in text
    assert "      user: app\n" in text


def test_a_program_below_a_link_is_named_as_in_the_unit_and_an_orphan_may_execute_another_version() -> None:
    program = Program("/opt/gw/current/gw", "/opt/gw/1.0/gw", "/opt/gw/1.0/gw", target="/opt/gw/current/gw")
    text = write(survey(None, program=program, own_version="1.0"))
    assert "- verify-version: {newer-than: [/opt/gw/current/gw]}" in text
    assert "version: /opt/gw/current/gw --version" in text
    assert "fix: [stop, kill-orphan, reset-failed, start]" in text
    assert "/opt/gw/1.0" not in text
    # The path of a package's program is the same after an upgrade.
    assert "kill-orphan: {expect: {exe: /opt/gw/1.0/gw}}" in write(survey(program=program))


def test_no_rollback_where_it_cannot_work() -> None:
    text = write(survey(replace(PACKAGE, no_rollback="no archive has 1:1.0-1")))
    assert text.endswith("# No `rollback: auto`: no archive has 1:1.0-1.\n")
    redis = Program("/usr/bin/redis-server", "/usr/bin/redis-server", "/usr/bin/redis-server")
    assert "# No `rollback: auto`: redis-server keeps data" in write(survey(program=redis))


HOSTILE = 'x" \n- run: {run: reboot} # ${{ vars.version }} \u2028\x1b[0m'


def test_hostile_texts_stay_where_they_are() -> None:
    program = Program("/opt/a b/'gw'", "/opt/a b/'gw'", "/opt/a b/'gw'")
    found = survey(
        replace(PACKAGE, newer_than=(HOSTILE, "/opt/a: b, c]/gw")),
        of={"description": HOSTILE},
        notices=(HOSTILE,),
        program=program,
        probes=(replace(PROBE, note=HOSTILE), FoundProbe(Port(80), to_fill_in=HOSTILE)),
    )
    book = parse(write(found), "gw.yaml")
    assert [step.step_id for step in book.steps] == ["update", "restart", "remediate"]
    assert "/opt/a: b, c]/gw" in str(book.steps[2])
