"""What a person sees of a run and of a plan, line by line."""

from __future__ import annotations

import io
from collections.abc import Iterable
from pathlib import Path

import pytest

from runbook.engine.events import Events
from runbook.engine.planner import Planner
from runbook.host.tasks import CommandResult
from runbook.model import Event
from runbook.report.layout import WIDTH, Page, Plain, Terminal
from runbook.report.text import Text
from runbook.step import Runbook, RunState
from tests.unit.fake_machine import FakeMachine, listen, process, unit
from tests.unit.runs import FIX, incident, remediate, run, step


def shown(events: Iterable[Event]) -> str:
    """Show events as plain text."""
    out = io.StringIO()
    text = Text(Page(Plain(out)))
    for event in events:
        text(event)
    return out.getvalue()


def lines(text: str) -> list[str]:
    return text.strip("\n").splitlines()


def test_a_remediated_run() -> None:
    _, events = run(
        incident(),
        step("restart"),
        remediate(step("wait-ready", **{"healthy-for": "2s"}), step("verify-port-owner"), fix=tuple(map(step, FIX))),
        name="upgrade the gateway",
    )
    assert lines(shown(events)) == [
        "upgrade the gateway                                                    run run-1",
        "",
        "  ok    restart              new invocation, PID 200",
        "        remediate",
        "  --      wait-ready         orphan-holds-port                                2s",
        "            port 80 is held by PID 74 (openclaw), in session-9.scope of user",
        "            agentops: not this unit",
        "  fix     stop               gw.service is inactive",
        "  fix     kill-orphan        PID 74 (openclaw) ended on TERM; 80 is free",
        "  fix     reset-failed       the start limit cleared",
        "  fix     start              new invocation, PID 200",
        "  ok      wait-ready         healthy for 2s, ready after 0.0s                 2s",
        "  ok      verify-port-owner  port 80 is PID 200's alone",
        "",
        "remediated: gw.service is active (running), PID 200, port 80",
    ]


def test_a_refusal() -> None:
    machine = FakeMachine(units={"gw.service": unit(), "nginx.service": unit("nginx.service", main_pid=981)})
    machine.processes = {100: process(100), 981: process(981, name="nginx", cgroup="/system.slice/nginx.service")}
    listen(machine, 981, "0.0.0.0:80")
    _, events = run(machine, remediate(step("wait-ready"), fix=tuple(map(step, FIX))))
    assert lines(shown(events))[2:] == [
        "        remediate",
        "  --      wait-ready         other-unit-holds-port",
        "            port 80 is held by PID 981 (nginx), in nginx.service",
        "  --    remediate            not-mended",
        "          kill-orphan would fail: port 80 is held by PID 981 (nginx):",
        "          nginx.service is a live service; stop it (systemctl stop",
        "          nginx.service) or give one of them another port; nothing was stopped",
        "",
        "failed: remediate: kill-orphan would fail: port 80 is held by PID 981 (nginx):",
        "  nginx.service is a live service; stop it (systemctl stop nginx.service) or",
        "  give one of them another port; nothing was stopped",
    ]


def test_the_plan_in_the_incident() -> None:
    machine = incident()
    seen: list[Event] = []
    steps = (step("restart"), remediate(step("wait-ready"), step("verify-port-owner"), fix=tuple(map(step, FIX))))
    book = Runbook.model_validate({"unit": "gw.service", "port": "80", "steps": steps, "name": "upgrade", "path": "x"})
    events = Events("run-1", machine.clock, (seen.append,))
    Planner(book, machine, machine, events, RunState("run-1", Path("/srv"))).plan()
    # The two lines before say since when, by the clock of the machine that runs the test.
    assert (
        lines(shown(seen))[-14:]
        == [
            "",
            "  1     restart              would restart gw.service, now active (running), PID",
            "                             100",
            "  2     remediate            would fix, unless step 1 changes this",
            "          wait-ready         orphan-holds-port: port 80 is held by PID 74",
            "                             (openclaw), in session-9.scope of user agentops:",
            "                             not this unit",
            "          verify-port-owner  orphan-holds-port",
            "  fix     stop               would stop gw.service, now active (running), PID",
            "                             100",
            "  fix     kill-orphan        would end PID 74 (openclaw): TERM, KILL after 5s",
            "  fix     reset-failed       would clear the start limit of gw.service",
            "  fix     start              would start gw.service",
            "",
            "nothing was changed",
        ][1:]
    )


def test_every_line_fits_and_has_no_escape_codes() -> None:
    machine = FakeMachine(units={"gw.service": unit()})
    machine.on_command = lambda m, command: CommandResult("exit-code", 1, "x" * 500 + "\n" + "word " * 100)
    _, events = run(machine, step("run", run="a-very-long-command " * 10, retries="1"), name="n" * 200)
    text = shown(events)
    assert "\x1b" not in text
    # A word that no line can hold is broken.
    assert max(map(len, text.splitlines())) <= WIDTH


class Gone(io.StringIO):
    """A reader that went away."""

    def write(self, text: str) -> int:
        raise BrokenPipeError


@pytest.mark.parametrize("screen", [Plain(Gone()), Terminal(Gone())])
def test_a_reader_that_went_away_does_not_end_the_run(screen: Plain | Terminal) -> None:
    machine = incident()
    text = Text(Page(screen))
    seen: list[str] = []
    book = Runbook.model_validate({"unit": "gw.service", "steps": (step("restart"),), "path": "x"})
    events = Events("r", machine.clock, (text, lambda event: seen.append(event.event)))
    from runbook.engine.runner import Runner

    end = Runner(book, machine, machine, events, RunState("r", Path("/srv"))).run()
    assert (end.status, seen[-1]) == ("changed", "run-finished")


@pytest.mark.parametrize("screen", [Plain, Terminal])
def test_what_others_wrote_does_not_steer_the_terminal(screen: type[Plain | Terminal]) -> None:
    evil = "a\x1b[2J\x07b\x9b31mc\r\nd\te\x7f"
    out = io.StringIO()
    with Page(screen(out)) as page:
        page.heading(evil, evil)
        page.entry("--", evil, evil)
        page.below(evil)
        page.words(evil)
        page.line((evil, ""))
    printed = out.getvalue()
    assert {c for c in printed if not c.isprintable()} == {"\n"}
    assert printed.count("a\\x1b[2J\\x07b\\x9b31mc") == 7
    assert "\n          d       e\\x7f\n" in printed.replace("d   e", "d       e")


def test_the_status_of_a_terminal_is_plain_text() -> None:
    seen: list[str] = []

    class Screen(Plain):
        def status(self, text: str) -> None:
            seen.append(text)

    Page(Screen(io.StringIO())).status("run \x1b]0;evil\x07")
    assert seen == ["run \\x1b]0;evil\\x07"]
