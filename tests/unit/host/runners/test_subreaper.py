"""Processes that leave their command's process group are killed with it, and no others."""

from __future__ import annotations

import contextlib
import os
import signal
import subprocess
import time

import pytest

from runbook.host.loop import Loop
from runbook.host.queries import Query
from runbook.host.runners.query_runner import QueryRunner
from runbook.host.runners.subreaper import _children
from runbook.model import Deadline, Wake
from tests.unit.host.conftest import PATIENCE, Ask
from tests.unit.host.runners.conftest import Lifeline, script


@pytest.mark.parametrize(
    "away",
    [
        "setsid sleep 60 &",
        "(setsid sh -c 'sleep 60 & sleep 60' &)",
        "setsid --fork env -i setsid --fork sleep 60",
        "set -m; (sleep 60 & sleep 60) &",
    ],
)
@pytest.mark.parametrize("end", ["exit 0", "sleep 60"])
def test_what_left_the_group_is_killed_too(ask: Ask, lifeline: Lifeline, away: str, end: str) -> None:
    answer = ask(script(f"exec 3> {lifeline.path}; {away}\nsleep 0.1; exec 3>&-; {end}"), 0.5)
    assert answer.ok == (end == "exit 0")
    assert lifeline.ended()
    began = time.monotonic()
    while _children():  # They are waited for, too.
        assert time.monotonic() - began < PATIENCE


def test_other_children_are_left_alone(ask: Ask, lifeline: Lifeline) -> None:
    """A child from before the command, one that was started while it ran, and their children."""
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as before:
        with subprocess.Popen(["sh", "-c", "sleep 0.2; sleep 60 & echo $!"], stdout=subprocess.PIPE) as child:
            assert ask(script("sleep 0.5; setsid sleep 60 &")).ok
            assert child.stdout is not None
            pid = int(child.stdout.readline())
            os.kill(pid, signal.SIGTERM)  # It is still there.
        assert before.poll() is None
        before.kill()
    with contextlib.suppress(ChildProcessError):
        os.waitpid(pid, 0)


def test_a_second_command_keeps_its_children(queries: QueryRunner, ask: Ask, loop: Loop) -> None:
    slow = Query(script("(setsid sh -c 'sleep 0.6; echo well' &); sleep 1"), 1, PATIENCE)
    assert queries.query(slow) is None
    assert ask(script("sleep 0.2")).ok
    while (answer := queries.query(slow)) is None:
        loop.wait(Wake(pending=True, within=PATIENCE), Deadline.after(loop.clock, PATIENCE))
    assert answer.value == "well\n"
