"""A `journal` probe of a unit whose line is not in the journal, because journald or a setting kept it out."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.conftest import StartService
from tests.machine.machine import Machine, until
from tests.machine.readiness.shapes import book, script
from tests.machine.runs import Run, runbook, unit_file

PROBE = "wait-ready: {timeout: 3s, healthy-for: 300ms, probes: [{journal: {pattern: ^ready}}]}"
CHATTERS = "seq 60; echo ready; exec sleep infinity"
LIMIT = {"LogRateLimitBurst": "10", "LogRateLimitIntervalSec": "5s"}
MAY_HAVE = "so journald may have dropped more because of its rate limit (LogRateLimitBurst=, 10 in 5s)"


def reason(run: Run) -> str:
    """Return why the wait did not end well."""
    assert run.exit == 3, run.last
    text: str = run.step("wait-ready")["reason"]
    assert text.startswith("not ready within 3s: journal: ")
    return text


def test_a_rate_limit_that_swallowed_the_line(machine: Machine, service: StartService) -> None:
    """The service is silent from then on, so journald does not report what it dropped."""
    service("silent.service", unit_file(script(CHATTERS), **LIMIT))
    text = reason(runbook(machine, "apply", book("silent", PROBE)))
    assert f" entries of silent.service came within 5s, {MAY_HAVE}" in text


def test_what_journald_reports_as_dropped(machine: Machine, service: StartService) -> None:
    again = "while true; do seq 60; sleep 1; done"
    service("loud.service", unit_file(script(again), LogRateLimitBurst="10", LogRateLimitIntervalSec="1s"))
    reports = ["journalctl", "-q", "_TRANSPORT=driver", "-g", "Suppressed .* from loud.service"]
    until(lambda: machine.run(reports, check=False).stdout, "journald to report what it dropped")
    text = reason(runbook(machine, "apply", book("loud", PROBE)))
    assert (
        " messages of loud.service that it dropped because of its rate limit (LogRateLimitBurst=), and this may" in text
    )


def test_the_same_report_by_another_process_does_not_count(machine: Machine, service: StartService) -> None:
    service("forged.service", unit_file(script("echo hello; exec sleep infinity")))
    until(
        lambda: machine.run(["journalctl", "-q", "-u", "forged", "-g", "hello"], check=False).stdout, "its first entry"
    )
    message = "MESSAGE=Suppressed 88 messages from forged.service\nN_DROPPED=88\n"
    machine.write("/run/forged", f"{message}MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e\n")
    machine.run(["sh", "-c", "logger --journald </run/forged; rm /run/forged"])
    assert "dropped" not in reason(runbook(machine, "apply", book("forged", PROBE)))


def test_a_rate_limit_that_the_invocation_before_used_up(machine: Machine, service: StartService) -> None:
    start = "test -e /run/full && echo ready || seq 60; touch /run/full; exec sleep infinity"
    service("full.service", unit_file(script(start), LogRateLimitBurst="10", LogRateLimitIntervalSec="30s"))
    until(lambda: not machine.run(["test", "-e", "/run/full"], check=False).returncode, "the first invocation to write")
    machine.run(["systemctl", "restart", "full.service"])
    text = reason(runbook(machine, "apply", book("full", PROBE)))
    assert "there is no entry of this invocation yet; " in text
    assert "of its rate limit (LogRateLimitBurst=, 10 in 30s)" in text


def test_what_an_earlier_invocation_lost_is_not_named(machine: Machine, service: StartService) -> None:
    start = "test -e /run/anew && seq 9 || seq 60; touch /run/anew; exec sleep infinity"
    service("anew.service", unit_file(script(start), LogRateLimitBurst="10", LogRateLimitIntervalSec="1s"))
    machine.run(["sleep", "1.5"])
    machine.run(["systemctl", "restart", "anew.service"])
    reports = ["journalctl", "-q", "_TRANSPORT=driver", "-g", "Suppressed .* from anew.service"]
    until(lambda: machine.run(reports, check=False).stdout, "journald to report what it dropped")
    assert "is not in this invocation's 9 entries yet; anew.service is active" in reason(
        runbook(machine, "apply", book("anew", PROBE))
    )


def test_a_rate_limit_that_was_not_reached(machine: Machine, service: StartService) -> None:
    service("calm.service", unit_file(script("seq 9; exec sleep infinity"), **LIMIT))
    assert "is not in this invocation's 9 entries yet; calm.service is active" in reason(
        runbook(machine, "apply", book("calm", PROBE))
    )


@pytest.fixture
def journald_limit(machine: Machine) -> Iterator[None]:
    """Set the rate limit in journald.conf."""
    folder = "/etc/systemd/journald.conf.d"
    machine.write(f"{folder}/limit.conf", "[Journal]\nRateLimitBurst=20\nRateLimitIntervalSec=10s\n")
    machine.run(["systemctl", "restart", "systemd-journald"])
    yield
    machine.run(["rm", "-r", folder])
    machine.run(["systemctl", "restart", "systemd-journald"])


@pytest.mark.usefixtures("journald_limit")
def test_a_rate_limit_of_journald_conf(machine: Machine, service: StartService) -> None:
    service("conf.service", unit_file(script(f"seq 60; {CHATTERS}")))
    assert "its rate limit (RateLimitBurst= in journald.conf, 20 in 10s)" in reason(
        runbook(machine, "apply", book("conf", PROBE))
    )


def test_a_level_that_keeps_the_line_out(machine: Machine, service: StartService) -> None:
    service("level.service", unit_file(script("echo ready; exec sleep infinity"), LogLevelMax="notice"))
    kept = "LogLevelMax=notice of level.service keeps out less important ones, and a line of stdout counts as info"
    text = reason(runbook(machine, "apply", book("level", PROBE)))
    assert f"there is no entry of this invocation yet; {kept}" in text


def test_a_pattern_that_keeps_the_line_out(machine: Machine, service: StartService, suite: str) -> None:
    service("pattern.service", unit_file(script("echo ready; exec sleep infinity"), LogFilterPatterns="~ready"))
    run = runbook(machine, "apply", book("pattern", PROBE))
    if suite == "bookworm":
        assert run.exit == 0, "systemd 253 introduced LogFilterPatterns=, and 252 ignores it"
    else:
        assert "LogFilterPatterns= of pattern.service keeps some out" in reason(run)


def test_a_journal_that_begins_after_the_start(fresh_machine: Machine) -> None:
    """Old entries are removed when the journal reaches its size, or by an operator."""
    machine = fresh_machine
    machine.write("/etc/systemd/system/old.service", unit_file(script("echo ready; exec sleep infinity")))
    machine.run(["systemctl", "start", "old.service"])
    machine.run(["sleep", "3"])
    machine.run(["journalctl", "--rotate"])
    machine.run(["journalctl", "--vacuum-time=1s"])
    text = reason(runbook(machine, "apply", book("old", PROBE)))
    assert "after the start of this invocation, so earlier ones are gone" in text
