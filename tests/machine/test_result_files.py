"""The result of a run in files: of the incident, of a run that continues, and on a disk that fills up."""

from __future__ import annotations

import json
import re
import signal
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import junitparser
import pytest

from tests.machine.incident import Incident, loop
from tests.machine.machine import Machine
from tests.machine.runs import RUNBOOK, interrupted, parsed, runbook, write_runbook
from tests.machine.tree import CHECKOUT

FILE = "/root/result.xml"


@pytest.fixture
def read(machine: Machine, tmp_path: Path) -> Iterator[type[Result]]:
    """Read the file by its name in the machine, and remove it afterwards."""
    Result.machine, Result.folder = machine, tmp_path
    yield Result
    machine.run(["rm", "-f", FILE])


class Result:
    """The one suite of a file, read by a parser that others use."""

    machine: Machine
    folder: Path

    def __init__(self) -> None:
        copy = self.folder / "result.xml"
        copy.write_text(self.machine.read(FILE))
        (suite,) = junitparser.JUnitXml.fromfile(str(copy))
        properties: Any = suite
        self.status = {one.name: one.value for one in properties.properties()}["status"]
        self.cases = {case.name: case for case in suite}

    def outcomes(self) -> dict[str, str]:
        """Return by the name of each case the type of its failure, `skipped`, or an empty text."""
        return {
            name: next((one.type or one.__class__.__name__.lower() for one in case.result), "")
            for name, case in self.cases.items()
        }


def test_the_incident(machine: Machine, incident: Incident, read: type[Result]) -> None:
    """A check of it fails, the upgrade is remediated, and the record makes the same file again."""
    loop(machine)
    book = (CHECKOUT / "tests/machine/demo.yaml").read_text()
    assert runbook(machine, "check", book, "--junit", FILE).exit == 1
    checked = read()
    assert checked.outcomes()["remediate.check.verify-port-owner"] == "orphan-holds-port"

    assert runbook(machine, "apply", book, "--junit", FILE).exit == 0
    result = read()
    assert (result.status, set(result.outcomes().values())) == ("remediated", {""})
    assert (
        "failed (orphan-holds-port): port 18789 is held by PID" in result.cases["remediate.check.wait-ready"].system_out
    )
    assert result.cases["remediate"].system_out == "remediated (fixed): orphan-holds-port was fixed"
    first = machine.read(FILE)
    machine.run(["runbook", "show", "--junit", FILE])
    # The record has the times of the events in milliseconds, so the sum may differ in the last one.
    assert re.sub(r' time="[^"]*"', "", machine.read(FILE)) == re.sub(r' time="[^"]*"', "", first)


def test_what_failed_is_at_its_line_and_in_the_summary(machine: Machine, incident: Incident) -> None:
    """Of the incident, which a check finds and a run fixes; what the service prints is no command of GitHub."""
    loop(machine)
    machine.run(["mkdir", "-p", "/srv/ops"])
    machine.write("/srv/ops/up.yaml", (CHECKOUT / "tests/machine/demo.yaml").read_text())
    options = "--annotate --code-quality q.json --summary s.md up.yaml"
    try:
        checked = machine.run(["sh", "-c", f"cd /srv/ops && runbook check {options}"], check=False)
        assert checked.returncode == 1
        stop, *_, go_on, first, second = checked.stdout.splitlines()
        assert go_on == f"::{stop.removeprefix('::stop-commands::')}::"
        lines = machine.read("/srv/ops/up.yaml").splitlines()
        for annotation in (first, second):
            found = re.match(r"::error file=up\.yaml,line=(\d+),title=remediate\.check\.([a-z-]+)%3A ", annotation)
            assert found, annotation
            assert found[2] in lines[int(found[1]) - 1]
        assert [issue["location"]["path"] for issue in json.loads(machine.read("/srv/ops/q.json"))] == ["up.yaml"] * 2
        assert machine.read("/srv/ops/s.md").startswith("### ❌ failed: remediate")

        machine.run(["touch", "/srv/ops/page.md"])
        env = {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": "/srv/ops/page.md"}
        applied = machine.run(["sh", "-c", "cd /srv/ops && runbook apply up.yaml --code-quality q.json"], env=env)
        assert "::error" not in applied.stdout
        assert json.loads(machine.read("/srv/ops/q.json")) == []
        summary = machine.read("/srv/ops/page.md")
        assert summary.startswith("### ✅ remediated: ")
        assert "| remediate.fix.kill-orphan | changed | " in summary
        assert "<details><summary>remediate.check." in summary
    finally:
        machine.run(["rm", "-rf", "/srv/ops"])


def test_a_resumed_run_has_its_earlier_parts(machine: Machine, read: type[Result]) -> None:
    write_runbook(machine, "steps: [run: {id: first, run: 'true'}, run: {id: second, run: sleep 4322}]\n")
    run, _ = interrupted(machine, signal.SIGTERM, "sleep 4322")
    machine.run(["sed", "-i", "s/sleep 4322/true/", RUNBOOK])
    argv = ["runbook", "resume", str(run.last["run"]), "--as-recorded", "--rerun", "second", "--output", "json"]
    with machine.popen([*argv, "--junit", FILE]) as process:
        machine.run(["sh", "-c", "until pkill -f '[s]leep 4322'; do sleep 0.05; done"])
        process.communicate(timeout=30)
    outcomes = read().outcomes()
    assert outcomes["first"] == ""
    assert "second" in outcomes


def test_a_file_that_cannot_be_written_prevents_the_run(machine: Machine) -> None:
    write_runbook(machine, "steps: [run: {run: touch /root/changed}]\n")
    done = machine.run(["runbook", "apply", RUNBOOK, "--junit", "/proc/result.xml", "--output", "json"], check=False)
    run = parsed(done.stdout, done.returncode)
    assert (run.exit, run.last["status"]) == (5, "not-begun")
    assert run.last["reason"].startswith("cannot write /proc/result.xml: ")
    assert machine.run(["test", "-e", "/root/changed"], check=False).returncode == 1


def test_a_disk_that_fills_up_does_not_change_the_result(machine: Machine) -> None:
    machine.run(["mkdir", "-p", "/mnt/small"])
    machine.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", "/mnt/small"])
    try:
        fills = "dd if=/dev/zero of=/mnt/small/zero bs=4k 2>/dev/null || true"
        write_runbook(machine, f"steps: [run: {{run: '{fills}'}}]\n")
        machine.run(["touch", "/mnt/small/page.md"])
        argv = ["runbook", "apply", RUNBOOK, "--junit", "/mnt/small/result.xml"]
        done = machine.run(argv, check=False, env={"GITHUB_STEP_SUMMARY": "/mnt/small/page.md"})
        assert done.returncode == 0
        assert "cannot write /mnt/small/page.md: no space left on device" in " ".join(done.stderr.split())
        assert "cannot write /mnt/small/result.xml: no space left on device" in " ".join(done.stderr.split())
    finally:
        machine.run(["umount", "/mnt/small"])
