"""The record of a run before anything is changed, and the reasons why a run cannot be resumed."""

from __future__ import annotations

import json
import signal
import tracemalloc
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import pytest

from runbook import document
from runbook.engine import launch, resume
from runbook.errors import Interrupted, NotBegun, UsageError
from runbook.events import Event, RunFinished
from runbook.host.queries import Command, CommandResult
from runbook.model import Port
from runbook.records import history
from runbook.records.history import RunRecord
from runbook.records.store import EventWriter
from runbook.spec.runbook import Runbook
from tests.unit.fake_machine import FakeMachine, process, unit
from tests.unit.recorded import BEGAN, STARTED, acting, begun, ended, finished, wrote

pytestmark = pytest.mark.usefixtures("home")

TOKEN = "my 't0ken'"

BOOK = """
unit: gw
secrets: [TOKEN]
vars: {key: ""}
env: {T: "${{ env.TOKEN }}"}
steps:
  - run: {id: prints, run: "print ${{ vars.key }} ${{ env.PLAIN }}"}
  - run: {id: breaks, run: "break"}
  - run: {id: uses, run: "use ${{ steps.prints.output }}"}
"""

ENV = {"TOKEN": TOKEN, "PLAIN": "plain"}


def machine(breaks: Callable[[], None] = lambda: None) -> FakeMachine:
    """Make a machine whose commands print the secret, into their files too; `break` breaks."""
    made = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})

    def command(made: FakeMachine, command: Command) -> CommandResult:
        Path(command.output).write_text(f"it is {TOKEN}\n")
        if "break" in str(command):
            breaks()
        return CommandResult("success", 0, f"it is {TOKEN}\n")

    made.on_command = command
    return made


def book(text: str = BOOK, env: Mapping[str, str] = ENV, **sets: str) -> Runbook:
    return document.parse(text.encode(), "/root/x.yaml", sets=sets, environ=env)


def begin(host: FakeMachine, made: Runbook, **sets: str) -> tuple[RunFinished, list[Event]]:
    seen: list[Event] = []
    order = launch.RunRequest("system", sets, ENV)
    return launch.start_run(made, order, host, host, (seen.append,)), seen


def interrupt() -> None:
    raise Interrupted(signal.SIGTERM)


def retrying(name: str) -> dict[str, Any]:
    reason = "x" * 250_000
    return {"id": name, "type": "run", "attempt": 1, "pause": 1.0, "verdict": "command-failed", "reason": reason}


def go_on(
    found: RunRecord,
    *,
    skip: tuple[str, ...] = (),
    env: Mapping[str, str] = ENV,
    text: str = BOOK,
    host: FakeMachine | None = None,
) -> RunFinished:
    known = resume.restore_environment(found, env)
    host = host or machine()
    order, said = launch.RunRequest("system", {}, known), resume.ResumeOptions(skip=skip)
    return resume.resume_run(found, book(text, known), order, said, host, host, ())


def everything(kept: RunRecord) -> str:
    return "\n".join(path.read_text() for path in kept.folder.path.rglob("*") if path.is_file())


def test_a_secret_goes_nowhere_wherever_it_came_from() -> None:
    end, events = begin(machine(), book(key=TOKEN), key=TOKEN)
    kept = history.find_run(None)
    assert end.exit == 0
    assert "t0ken" not in everything(kept) + json.dumps([event.data for event in events])
    assert (kept.folder.outputs_path / "prints.log").read_text() == f"it is {'*' * len(TOKEN)}\n"
    assert (kept.header.sets, kept.header.env, set(kept.header.withheld)) == (
        {"key": "***"},
        {"PLAIN": "plain"},
        {"key", "TOKEN"},
    )


def test_a_wrong_id_of_a_step_gets_a_suggestion() -> None:
    begin(machine(interrupt), book())
    for wrong, near in (("print", "did you mean `prints`? "), ("nothing-near", "")):
        with pytest.raises(UsageError, match=f"no step has the id `{wrong}`") as refused:
            go_on(history.find_run(None), skip=(wrong,))
        assert refused.value.hint == f"{near}runbook show {history.find_run(None).id} lists the ids"


def test_what_an_interrupted_command_printed_is_starred_too() -> None:
    end, _ = begin(machine(interrupt), book())
    assert end.status == "interrupted"
    assert "t0ken" not in everything(history.find_run(None))


def test_a_secret_that_was_not_kept_is_asked_for() -> None:
    begin(machine(interrupt), book())
    with pytest.raises(NotBegun, match="TOKEN is not set"):
        go_on(history.find_run(None), env={})


def test_one_that_came_with_set_cannot_be_asked_for() -> None:
    begin(machine(interrupt), book(key=TOKEN), key=TOKEN)
    with pytest.raises(NotBegun, match="--set key contained a secret"):
        go_on(history.find_run(None))


def test_no_mask_goes_into_a_command() -> None:
    """`steps.prints.output` contained the secret, so the record has only its mask."""
    begin(machine(interrupt), book())
    with pytest.raises(NotBegun, match="the result of prints contains a secret, which is not recorded") as refused:
        go_on(history.find_run(None))
    assert "--rerun prints" in refused.value.hint


def test_every_variable_that_a_template_names_is_recorded() -> None:
    """YAML may need other quotes around the name than the template has."""
    text = r"""
unit: gw
steps:
  - run: {when: "env[ 'WHEN' ] == 'x'", run: "a ${{ env.DOT }} ${{ env[\"DOUBLE\"] }} ${{ env['WITH-DASH'] }}"}
  - run: {run: 'b ${{ env[''SINGLE''] }}'}
"""
    env = dict.fromkeys(("WHEN", "DOT", "DOUBLE", "WITH-DASH", "SINGLE"), "x")
    order = launch.RunRequest("system", {}, {**env, "OTHER": "x"})
    host = machine()
    launch.start_run(book(text, env), order, host, host, ())
    assert history.find_run(None).header.env == env


def test_a_record_of_another_version_is_not_resumed() -> None:
    found = wrote(begun(), STARTED, ("step-finished", {"id": "prints", "verdict": "from-the-future", "status": "ok"}))
    with pytest.raises(NotBegun, match="its record cannot be read; runbook 1 wrote it"):
        go_on(found)


def test_a_run_that_another_process_has_resumed_meanwhile_is_left_to_it(monkeypatch: pytest.MonkeyPatch) -> None:
    found = wrote(begun(), STARTED, ended("interrupted", 143))

    def resumed_elsewhere(*_: object) -> None:
        wrote(found.folder, ("run-resumed", STARTED[1]), ended("interrupted", 143))

    monkeypatch.setattr(resume, "refuse_running_commands", resumed_elsewhere)
    with pytest.raises(NotBegun, match="another process has resumed it"):
        go_on(found)


TWO_COMMANDS = "steps: [run: {id: first, run: first}, run: {id: breaks, run: break}]"


def test_a_run_whose_record_is_larger_than_64_mib_is_resumed_in_bounded_memory() -> None:
    begin(machine(interrupt), book(TWO_COMMANDS))
    found = history.find_run(None)
    again = [Event(BEGAN, found.id, *acting("breaks")), Event(BEGAN, found.id, "step-retrying", retrying("breaks"))]
    lines = "".join(event.to_line() + "\n" for event in again).encode()
    with found.folder.events_path.open("ab") as file:
        file.writelines([lines] * (65 * 1024**2 // len(lines) + 1))
        file.write(Event(BEGAN, found.id, *ended("interrupted", 143)).to_line().encode() + b"\n")
    assert found.folder.events_path.stat().st_size > 65 * 1024**2
    host = machine()
    tracemalloc.start()
    assert go_on(history.find_run(None), text=TWO_COMMANDS, host=host).status == "changed"
    assert tracemalloc.get_traced_memory()[1] < 32 * 1024**2
    tracemalloc.stop()
    assert host.written == ["command break"]


@pytest.mark.parametrize(
    ("events", "why"),
    [
        ([STARTED, ended()], "it has ended: changed"),
        ([STARTED, ("run-superseded", {"by": "X", "unit": "u"})], "a later run, X, has acted on u since"),
        ([STARTED, ("run-abandoned", {})], "it was abandoned"),
        ([STARTED, ("record-lost", {"reason": "disk full"})], r"\(disk full\): its last actions are not known"),
        ([STARTED, ("record-lost", {"reason": "disk full"}), ended("interrupted", 143)], r"incomplete \(disk full\)$"),
    ],
)  # fmt: skip
def test_why_a_run_is_not_resumed(events: list[Any], why: str) -> None:
    with pytest.raises(NotBegun, match=why):
        resume.require_resumable(wrote(begun(), *events))


def test_a_later_run_takes_the_place_of_an_unfinished_one() -> None:
    units = {"name": "x", "units": ["gw.service"]}
    old = wrote(begun(BEGAN), ("run-started", units), acting("x"))
    other = wrote(begun(BEGAN), ("run-started", {**units, "units": ["web.service"]}), acting("x"))
    _, events = begin(machine(), book("unit: gw\nsteps: [reset-failed]\n"))
    [told] = [event.data["text"] for event in events if event.event == "notice"]
    assert told == (
        f"run {old.id}, which acted on gw.service too, was cut short: this run supersedes it, and it cannot be resumed"
        f" any more; runbook show {old.id} shows how far it came"
    )
    assert [event.event for event in events[:2]] == ["run-started", "notice"]
    assert [old.reload().status, other.reload().status] == ["superseded", "cut-short"]


def test_a_resumed_run_supersedes_earlier_ones_too() -> None:
    """Its program may have been killed after it recorded its beginning, and before it closed the earlier runs."""
    units = {"name": "x", "units": ["gw.service"]}
    first, between, last = (wrote(begun(BEGAN + at), ("run-started", units), acting("x")) for at in (0, 10, 20))
    go_on(between, text="unit: gw\nsteps: [reset-failed]\n")
    assert [one.reload().status for one in (first, last)] == ["superseded", "cut-short"]


def test_a_run_that_could_not_begin_supersedes_no_other() -> None:
    """It changed nothing, so the earlier run can still be resumed."""
    units = {"name": "x", "units": ["gone.service"]}
    old = wrote(begun(BEGAN), ("run-started", units), acting("x"))
    end, _ = begin(machine(), book("unit: gone\nsteps: [restart]\n"))
    assert (end.status, old.reload().status) == ("not-begun", "cut-short")


def test_a_run_that_begins_reads_only_the_ends_of_those_that_have_ended(monkeypatch: pytest.MonkeyPatch) -> None:
    unit = {"name": "x", "units": ["gw.service"]}
    for events in ([ended()], [ended("interrupted", 130), ("run-abandoned", {})]):
        wrote(begun(BEGAN), ("run-started", unit), *events)
    whole = wrote(begun(BEGAN), ("run-started", unit), ended("still-starting", 3))
    read = set[Path]()

    def nothing(path: Path) -> Iterator[None]:
        read.add(path)
        return iter(())

    monkeypatch.setattr(history, "read_events", nothing)
    begin(machine(), book("unit: gw\nsteps: [reset-failed]\n"))
    assert read == {whole.folder.events_path}


def test_a_run_that_cannot_be_superseded_is_reported_and_prevents_no_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    old = wrote(begun(BEGAN), ("run-started", {"units": ["gw.service"]}), finished("x"))

    def writer(kept: Any, lost: Any) -> Any:
        if kept.id == old.id:
            raise NotBegun(f"cannot begin: run {old.id} is under way")
        return EventWriter(kept, lost)

    monkeypatch.setattr("runbook.engine.launch.EventWriter", writer)
    end, events = begin(machine(), book("unit: gw\nsteps: [reset-failed]\n"))
    assert end.exit == 0
    [told] = [event.data["text"] for event in events if event.event == "notice"]
    why = f"cannot begin: run {old.id} is under way"
    assert told == f"run {old.id}, which acted on gw.service too, is not closed: {why}"


def test_the_end_of_an_interrupted_run_names_the_way_on() -> None:
    end, _ = begin(machine(interrupt), book())
    assert end.hint == f"runbook resume {history.find_run(None).id} goes on from there"


def test_the_ports_that_a_unit_must_own() -> None:
    """Those of the file and of the steps, by unit."""
    book = document.parse(
        "unit: gw\nport: 80\nsteps:\n"
        "  - restart\n"
        "  - wait-ready: {port: [80, 81]}\n"
        "  - remediate: {check: [wait-ready: {unit: db, port: 5432}], fix: [start: {unit: db}]}\n"
    )
    assert launch.find_owned_ports(book) == {"gw.service": (Port(80), Port(81)), "db.service": (Port(5432),)}


@pytest.mark.parametrize("field", ["owner: epmd", "owner: kernel", "owner: {4369: epmd}", "shared-with: kresd@*"])
def test_a_port_that_another_unit_may_own(field: str) -> None:
    book = document.parse(f"unit: gw\nsteps:\n  - verify-port-owner: {{port: 4369, {field}}}\n  - restart\n")
    assert launch.find_owned_ports(book)["gw.service"] == ()


def test_a_runbook_without_a_file_is_recorded_under_its_command() -> None:
    written = document.parse("unit: gw\nsteps: [restart]\n", "restart gw.service", folder=Path("/"))
    request = launch.RunRequest("system", command="restart", has_file=False)
    host = machine()
    launch.start_run(written, request, host, host, ())
    [found] = history.list_runs()
    assert (found.header.file, found.header.command, found.title) == (
        "restart gw.service",
        "restart",
        "restart gw.service",
    )
