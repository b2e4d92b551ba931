"""systemd forgets over a daemon-reload that a unit runs, and would crash if its main process ended then.

It takes an alias for the running unit that systemd knew before as a name without a file, as from another unit's After=.
Of the two states that systemd wrote down over the reload, the later one counts, in an order that is another on each
boot: so it befalls about every other unit, on 252 and on 257.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.incident import holders
from tests.machine.machine import Machine
from tests.machine.ownership.street import ACTOR, House, Street, ask, assert_said
from tests.machine.runs import runbook, unit_file

AT_ONCE = 6
"""So many units are tried at a time."""

MANY_TIMES = 8


@pytest.fixture(scope="module")
def street(machine: Machine) -> Iterator[Street]:
    with Street(machine) as made:
        made.start("idle.service")
        yield made


@pytest.fixture(scope="module")
def lost(street: Street) -> int:
    """The number of a unit that systemd has lost track of, which is that of its port too."""
    for first in range(9300, 9300 + MANY_TIMES * AT_ONCE, AT_ONCE):
        numbers = range(first, first + AT_ONCE)
        for number in numbers:
            street.write(f"s{number}.service", unit_file(f"{ACTOR} listen=127.0.0.1:{number}") + _install(number))
        others = " ".join(f"alias{number}.service" for number in numbers)
        street.service(f"after{first}.service", "/usr/bin/sleep 1h", Unit_After=others)
        street.start(*(f"s{number}.service" for number in numbers), f"after{first}.service")
        street.listening(*numbers)
        street.machine.run(["systemctl", "enable", "--quiet", *(f"s{number}.service" for number in numbers)])
        for number in numbers:
            if _state(street, number)[0] == "inactive":
                return number
    raise AssertionError("systemd kept sight of all")


def _install(number: int) -> str:
    return f"[Install]\nAlias=alias{number}.service\n"


def _state(street: Street, number: int) -> tuple[str, int]:
    shown = street.machine.show(f"s{number}.service", "ActiveState", "MainPID")
    return shown["ActiveState"], int(shown["MainPID"])


def _serves(street: Street, number: int) -> int:
    (one,) = holders(street.machine, number)
    return one.pid


def test_what_is_said(street: Street, lost: int) -> None:
    """By every step that looks at it: nobody says that it is down, and no more."""
    assert _state(street, lost) == ("inactive", _serves(street, lost))
    first = "first run systemctl daemon-reload again"
    told = rf"lost track of s{lost}\.service .*PID {_serves(street, lost)}, is running; .*{first}"
    for step in ("verify-port-owner", "wait-ready"):
        house = House(f"alias{lost}", str(lost), "leftover-holds-port", told)
        assert_said(ask(street.machine, "check", step, [house])[str(house)], house)
    stop = runbook(street.machine, "apply", f"unit: s{lost}\nsteps: [stop]\n").step("stop")
    assert (stop["status"], stop["verdict"]) == ("ok", "already-so")
    assert "has lost track of" in stop["reason"]


def test_another_unit_is_not_told_to_kill_it(street: Street, lost: int) -> None:
    house = House("idle", str(lost), "refused-to-kill", r"first run systemctl daemon-reload again$")
    assert_said(ask(street.machine, "plan", "kill-orphan", [house])[str(house)], house)


UPDATE = "update: {stop-first: true, run: touch /run/swapped, version: echo 1.0, to: 1.1, on-failure: continue}"


def test_nothing_is_started_beside_it(street: Street, lost: int) -> None:
    """A restart would stop nothing; a start, and an update that is to hold it stopped, would leave two at once."""
    before = _state(street, lost), _serves(street, lost)
    steps = [UPDATE, "start: {on-failure: continue}", "restart: {retries: 1, delay: 0}"]
    run = runbook(street.machine, "apply", f"unit: s{lost}\nsteps:\n" + "".join(f"  - {step}\n" for step in steps))
    assert [verdict for *_, verdict in run.verdicts] == ["update-failed", "job-failed", "job-failed"], run.last
    said = f"systemd has lost track of s{lost}.service in a daemon-reload: it reads inactive, but its main process, "
    for step in run.of("step-finished"):
        assert step["reason"].startswith(f"{said}PID {before[1]}, is running"), step["reason"]
        assert step["reason"].endswith("a `kill-orphan` before this step reloads, and then kills that process")
    assert not run.of("step-acting")
    assert not street.exists("/run/swapped")
    assert (_state(street, lost), _serves(street, lost)) == before


def test_it_is_mended_and_systemd_lives(street: Street, lost: int) -> None:
    """Another daemon-reload makes systemd let go of the process; then it is a leftover like any other."""
    old = _serves(street, lost)
    book = f"""
        unit: s{lost}
        port: {lost}
        steps:
          - remediate:
              check: [{{wait-ready: {{healthy-for: 1s}}}}, verify-port-owner]
              fix: [stop, kill-orphan, reset-failed, start]
        """
    plan = runbook(street.machine, "apply", book, "--dry-run")
    fix = next(e for e in plan.of("step-planned") if e["type"] == "kill-orphan")
    assert f"so that systemd forgets PID {old}; then kill" in fix["reason"]
    assert _state(street, lost) == ("inactive", old)
    run = runbook(street.machine, "apply", book)
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert run.step("remediate.fix.kill-orphan")["verdict"] == "killed"
    assert _state(street, lost) == ("active", _serves(street, lost))
    assert _serves(street, lost) != old
