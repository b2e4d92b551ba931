"""After a daemon-reload systemd no longer tracks a running unit, and would crash if its main process exited.

That happens when the running unit gets an alias that systemd had before as a name without a file, for example from
another unit's After=. systemd saves two states over the reload, and the later one counts. Their order is different on
each boot, so about half of the units are affected, on 252 and on 257.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.incident import holders
from tests.machine.machine import Machine
from tests.machine.ownership.staging import ACTOR, PortCase, Stage, ask, assert_verdict
from tests.machine.runs import runbook, unit_file

AT_ONCE = 6
"""Number of units that are tried at a time."""

MANY_TIMES = 8


@pytest.fixture(scope="module")
def stage(machine: Machine) -> Iterator[Stage]:
    with Stage(machine) as made:
        made.start("idle.service")
        yield made


@pytest.fixture(scope="module")
def lost(stage: Stage) -> int:
    """Return the number of a unit that systemd no longer tracks. It is the number of its port, too."""
    for first in range(9300, 9300 + MANY_TIMES * AT_ONCE, AT_ONCE):
        numbers = range(first, first + AT_ONCE)
        for number in numbers:
            stage.write(f"s{number}.service", unit_file(f"{ACTOR} listen=127.0.0.1:{number}") + _install(number))
        others = " ".join(f"alias{number}.service" for number in numbers)
        stage.service(f"after{first}.service", "/usr/bin/sleep 1h", Unit_After=others)
        stage.start(*(f"s{number}.service" for number in numbers), f"after{first}.service")
        stage.listening(*numbers)
        stage.machine.run(["systemctl", "enable", "--quiet", *(f"s{number}.service" for number in numbers)])
        for number in numbers:
            if _state(stage, number)[0] == "inactive":
                return number
    raise AssertionError("systemd still tracks all units")


def _install(number: int) -> str:
    return f"[Install]\nAlias=alias{number}.service\n"


def _state(stage: Stage, number: int) -> tuple[str, int]:
    shown = stage.machine.show(f"s{number}.service", "ActiveState", "MainPID")
    return shown["ActiveState"], int(shown["MainPID"])


def _serves(stage: Stage, number: int) -> int:
    (one,) = holders(stage.machine, number)
    return one.pid


def test_each_step_reports_the_untracked_process(stage: Stage, lost: int) -> None:
    """No step reports the unit only as down."""
    assert _state(stage, lost) == ("inactive", _serves(stage, lost))
    first = "first run systemctl daemon-reload again"
    reason = rf"lost track of s{lost}\.service .*PID {_serves(stage, lost)}, is running; .*{first}"
    for step in ("verify-port-owner", "wait-ready"):
        case = PortCase(f"alias{lost}", str(lost), "leftover-holds-port", reason)
        assert_verdict(ask(stage.machine, "check", step, [case])[str(case)], case)
    stop = runbook(stage.machine, "apply", f"unit: s{lost}\nsteps: [stop]\n").step("stop")
    assert (stop["status"], stop["verdict"]) == ("ok", "already-so")
    assert "has lost track of" in stop["reason"]


def test_the_advice_for_another_unit_is_not_to_kill_it(stage: Stage, lost: int) -> None:
    case = PortCase("idle", str(lost), "refused-to-kill", r"first run systemctl daemon-reload again$")
    assert_verdict(ask(stage.machine, "plan", "kill-orphan", [case])[str(case)], case)


UPDATE = "update: {stop-first: true, run: touch /run/swapped, version: echo 1.0, to: 1.1, on-failure: continue}"


def test_no_process_is_started_beside_the_untracked_one(stage: Stage, lost: int) -> None:
    """A restart would stop nothing, and a start would run a second process. So would an update with stop-first."""
    before = _state(stage, lost), _serves(stage, lost)
    steps = [UPDATE, "start: {on-failure: continue}", "restart: {retries: 1, delay: 0}"]
    run = runbook(stage.machine, "apply", f"unit: s{lost}\nsteps:\n" + "".join(f"  - {step}\n" for step in steps))
    assert [verdict for *_, verdict in run.verdicts] == ["update-failed", "job-failed", "job-failed"], run.last
    lead = f"systemd has lost track of s{lost}.service in a daemon-reload: it reads inactive, but its main process, "
    for step in run.of("step-finished"):
        assert step["reason"].startswith(f"{lead}PID {before[1]}, is running"), step["reason"]
        assert step["reason"].endswith("a `kill-orphan` before this step reloads, and then kills that process")
    assert not run.of("step-acting")
    assert not stage.exists("/run/swapped")
    assert (_state(stage, lost), _serves(stage, lost)) == before


def test_kill_orphan_reloads_first_and_systemd_does_not_crash(stage: Stage, lost: int) -> None:
    """After another daemon-reload systemd no longer has the PID. Then the process is a leftover like any other."""
    old = _serves(stage, lost)
    book = f"""
        unit: s{lost}
        port: {lost}
        steps:
          - remediate:
              check: [{{wait-ready: {{healthy-for: 1s}}}}, verify-port-owner]
              fix: [stop, kill-orphan, reset-failed, start]
        """
    plan = runbook(stage.machine, "apply", book, "--dry-run")
    fix = next(e for e in plan.of("step-planned") if e["type"] == "kill-orphan")
    assert f"so that systemd forgets PID {old}; then kill" in fix["reason"]
    assert _state(stage, lost) == ("inactive", old)
    run = runbook(stage.machine, "apply", book)
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert run.step("remediate.fix.kill-orphan")["verdict"] == "killed"
    assert _state(stage, lost) == ("active", _serves(stage, lost))
    assert _serves(stage, lost) != old
