"""The evidence before a kill: never a reason to wait for long, and without the values of the environment."""

from __future__ import annotations

from pathlib import Path

from runbook.actions.kill_evidence import TIMEOUT, EvidenceLookup, make_evidence
from runbook.errors import HostError
from runbook.host.holders import Holder, Role
from runbook.host.queries import JournalLine
from runbook.spec.state import RunState
from tests.unit.fake_machine import FakeMachine, process, unit

HOLDER = Holder(process(74, environment=("PATH", "TOKEN")), Role.ORPHAN, "session-9.scope", "", ())


def test_a_journal_that_does_not_answer_is_given_up() -> None:
    machine, lookup, run = FakeMachine(slow=60.0), EvidenceLookup(), RunState("run-1", Path("/srv"))
    assert lookup.poll(machine, unit(), run, [HOLDER]) is None
    machine.clock.time += TIMEOUT
    assert lookup.poll(machine, unit(), run, [HOLDER]) == ()


def test_a_journal_that_cannot_be_read_is_no_obstacle() -> None:
    class Refusing(FakeMachine):
        def query(self, query: object) -> None:
            raise HostError("no journal")

    assert EvidenceLookup().poll(Refusing(), unit(), RunState("run-1", Path("/srv")), [HOLDER]) == ()


def test_of_the_environment_there_are_the_names_and_of_the_journal_its_own_lines() -> None:
    found = make_evidence(HOLDER, (JournalLine(74, "ready"), JournalLine(75, "another's")))
    assert (found["environment"], found["journal"]) == (["PATH", "TOKEN"], ["ready"])
    assert "journal" not in make_evidence(HOLDER, ())


def test_the_time_for_the_journal_is_counted_over_all_rounds() -> None:
    machine, lookup, run = FakeMachine(slow=0.75 * TIMEOUT), EvidenceLookup(), RunState("run-1", Path("/srv"))
    for answered in (True, False):
        assert lookup.poll(machine, unit(), run, [HOLDER]) is None
        machine.clock.time += 0.75 * TIMEOUT if answered else 0.25 * TIMEOUT
        assert lookup.poll(machine, unit(), run, [HOLDER]) == ()
        lookup.start_over(machine.clock.time)
    assert lookup.poll(machine, unit(), run, [HOLDER]) == ()
    assert len(machine.asked) == 2
