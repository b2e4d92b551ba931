"""`runbook doctor` without a unit, after an `apt-get upgrade` that replaced a library under a service that runs."""

from __future__ import annotations

import re

from tests.machine.doctor.doctoring import carry_out, doctor, look
from tests.machine.machine import Machine
from tests.machine.software import nginx, redis, repository


def test_an_upgrade_of_a_library_shows_what_to_restart(fresh_machine: Machine) -> None:
    machine = fresh_machine
    nginx.install(machine)
    new = redis.library_at_hand(machine)
    before = look(machine)
    assert (before["exit"], before["findings"], before["unseen"]) == (0, [], []), before
    machine.run(["apt-get", "upgrade", "-qy"])
    assert repository.installed(machine, redis.LIBRARY) == new
    # Only that service, and nothing of the upgrade but what it left running.
    seen = look(machine)
    assert (seen["exit"], seen["severity"]) == (1, "warning"), seen
    [found] = seen["findings"]
    assert (found["kind"], found["subject"]) == ("old-code-serving", redis.UNIT)
    code = "runs code that was replaced since it began: libjemalloc.so.2"
    assert re.fullmatch(rf"PID \d+ \(redis-server\) {re.escape(code)}", found["reason"])
    assert found["next"] == f"runbook restart {redis.UNIT}"
    assert seen["healthy-services"] == seen["services"] - 1
    text = doctor(machine).stdout
    assert f"  [!]  {redis.UNIT} " in text
    assert text.endswith(f"  [ok] {seen['services'] - 1} more\n\n1 warning\n"), text
    # A user who may not read the process sees that it could not be read, and no health.
    blind = look(machine, "nobody")
    assert (blind["exit"], blind["healthy"], blind["findings"]) == (1, False, [])
    assert any("files that" in what for what in blind["unseen"]), blind
    carry_out(machine, [found["next"]])
    after = look(machine)
    assert (after["exit"], after["findings"], after["unseen"]) == (0, [], []), after
    assert redis.ask(machine, "GET", "written-by") == "unit"
