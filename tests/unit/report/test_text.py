"""What a person sees of a run and of a plan, line by line."""

from __future__ import annotations

import io
import signal
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import pytest

from runbook.engine.execution.stream import EventStream
from runbook.engine.planner import CHECKS_LATER, Planner
from runbook.errors import Interrupted
from runbook.events import Event, PlanFinished, StepPlanned, Waiting
from runbook.host.facts import ActiveState, JobResult
from runbook.host.queries import Answer, Command, CommandResult, StartEvent, StartEventKind
from runbook.report.layout import WIDTH, Layout, PlainScreen
from runbook.report.terminal import TerminalScreen
from runbook.report.text import TextReport
from runbook.spec.runbook import Runbook
from runbook.spec.state import RunState
from tests.unit.fake_machine import FakeMachine, journal_lines, listen, process, unit
from tests.unit.report.test_layout import Gone
from tests.unit.runs import FIX, incident, plan, remediate, run, step, upgrade


def shown(events: Iterable[Event]) -> str:
    """Show events as plain text."""
    out = io.StringIO()
    text = TextReport(Layout(PlainScreen(out)))
    for event in events:
        text(event)
    return out.getvalue()


def lines(text: str) -> list[str]:
    return text.strip("\n").splitlines()


def test_what_systemd_logged_comes_before_what_the_unit_wrote() -> None:
    machine = FakeMachine(units={"gw.service": unit(active_state=ActiveState.FAILED, sub_state="failed", main_pid=0)})
    machine.answers["what systemd logged of gw.service"] = [journal_lines("gw.service: Failed at step EXEC", pid=1)]
    machine.answers["journal tail of gw.service"] = [journal_lines(*"1234567")]
    _, events = run(machine, step("wait-ready"))
    quoted = [line.strip() for line in lines(shown(events)) if line.strip().startswith("|")]
    assert quoted == ["| systemd: gw.service: Failed at step EXEC", *(f"| {number}" for number in range(2, 8))]


def test_a_remediated_run() -> None:
    _, events = run(
        incident(),
        *upgrade(),
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
        "  fix     kill-orphan        PID 74 (openclaw) exited on TERM; 80 is free   0.5s",
        "  fix     reset-failed       the start-limit counter cleared",
        "  fix     start              new invocation, PID 200",
        "  ok      wait-ready         healthy for 2s, ready after 0.0s                 2s",
        "  ok      verify-port-owner  port 80 is held only by PID 200",
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
        "  --    remediate            not-fixed",
        "          no fix was begun: kill-orphan would fail: port 80 is held by PID 981",
        "          (nginx): nginx.service is a live service; stop it (systemctl stop",
        "          nginx.service) or give one of them another port",
        "",
        "failed at remediate: not-fixed",
        "  now   gw.service is active (running), PID 100; port 80 is held by PID 981",
        "        (nginx), in nginx.service",
        "  next  stop that service, or give one of the two another port",
    ]


def test_a_command_that_failed_shows_what_it_printed_and_its_own_name() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    printed = "one\n" * 9 + "two\n" * 5 + "\nfetching\n\x1b[31mno such version\n"
    machine.on_command = lambda machine, command: CommandResult("exit-code", 7, printed)
    failing = step("run", id="fetch", name="fetch it", run="fetch; unpack", **{"on-failure": "continue"})
    _, events = run(machine, failing, step("run", id="last", run="fetch"))
    assert lines(shown(events))[2:] == [
        "  --    fetch it             command-failed; the run continues",
        '          "fetch it" exited with status 7: \N{REPLACEMENT CHARACTER}[31mno such version',
        *["          | two"] * 5,
        "          | fetching",
        "  --    run                  command-failed",
        "          `fetch` exited with status 7: \N{REPLACEMENT CHARACTER}[31mno such version",
        *["          | two"] * 5,
        "          | fetching",
        "",
        "failed at run: command-failed",
        "  now   gw.service is active (running), PID 100; no process listens on port 80",
        "  next  correct what its output shows, then run this again",
    ]


def test_what_a_unit_wrote_last_stands_below_its_failure() -> None:
    machine = FakeMachine(units={"gw.service": unit(active_state=ActiveState.FAILED, sub_state="failed", restart="no")})
    machine.answers["journal tail of gw.service"] = [journal_lines("starting", "config line 3: no such word")]
    _, events = run(machine, step("wait-ready"))
    assert lines(shown(events))[2:6] == [
        "  --    wait-ready           unit-failed                                    0.2s",
        "          gw.service failed: it is failed, PID 100",
        "          | starting",
        "          | config line 3: no such word",
    ]


def test_a_long_name_has_a_line_of_its_own_and_is_not_repeated() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    _, events = run(machine, step("run", name="tell the load balancer to wait", run="drain"))
    assert lines(shown(events))[2] == "  ok    tell the load balancer to wait  exited with status 0"


def test_a_long_name_leaves_the_line_to_itself_where_the_text_is_long_too() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    listen(machine, 100, "0.0.0.0:80")
    _, events = run(
        machine,
        step("wait-ready", name="wait until the gateway is ready", **{"healthy-for": "200s", "timeout": "5min"}),
    )
    assert lines(shown(events))[-4:-2] == [
        "  ok    wait until the gateway is ready",
        "                             healthy for 200s, ready after 0.0s         3min 20s",
    ]


def test_what_others_wrote_is_wrapped_and_has_an_end() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.on_command = lambda machine, command: CommandResult(
        "exit-code", 1, f"{'file ' * 30}line 7\n{'x' * 999}\nend"
    )
    _, events = run(machine, step("run", run="check"))
    quoted = [line for line in lines(shown(events)) if line.startswith("          | ")]
    assert any(line.endswith("line 7") for line in quoted)
    assert max(map(len, quoted)) <= WIDTH
    assert len(quoted) <= 6


def test_an_interruption_shows_where_and_how_the_unit_comes_up_again() -> None:
    stopped = unit(active_state=ActiveState.INACTIVE, sub_state="dead", main_pid=0, control_group="")
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})

    def stops(machine: FakeMachine, name: str) -> JobResult:
        machine.units[name] = stopped
        machine.processes.clear()
        return JobResult.DONE

    def breaks(machine: FakeMachine, command: Command) -> None:
        raise Interrupted(signal.SIGINT)

    machine.on_job = {"stop": stops}
    machine.on_command = breaks
    _, events = run(machine, step("stop"), step("run", run="swap"), always=(step("start"),))
    assert lines(shown(events))[3:] == [
        "",
        "interrupted by SIGINT at run, which was stopped half way; the `always` steps",
        "  were not run",
        "  now   gw.service is inactive (dead); no process listens on port 80",
        "  next  runbook resume run-1 goes on from there; systemctl start gw.service",
        "        starts it until then",
    ]


def test_a_failure_that_was_passed_over_is_not_passed_over_in_silence() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    machine.on_command = lambda machine, command: CommandResult("exit-code", 1)
    _, events = run(machine, step("run", run="notify", **{"on-failure": "continue"}))
    assert " ".join(shown(events).split()).endswith("but run failed, and the run went on")
    assert events[-1].data["exit"] == 0


def test_a_remediation_does_not_repeat_the_reason_of_its_check() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    _, events = run(machine, remediate(step("verify-port-owner"), fix=(step("reset-failed"),)))
    assert lines(shown(events))[-9:] == [
        "  --      verify-port-owner  not-listening",
        "            no process listens on port 80",
        "  --    remediate            not-fixed",
        "          fixed once, and verify-port-owner still finds not-listening",
        "",
        "failed at remediate: not-fixed",
        "  now   gw.service is active (running), PID 100; no process listens on port 80",
        "  next  ss -tlnp shows where gw.service listens instead, journalctl -u",
        "        gw.service -n 30 its log",
    ]


def test_a_log_shows_what_a_long_wait_is_for_and_how_long_it_may_last() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    listen(machine, 100, "127.0.0.1:8080")
    _, events = run(machine, step("wait-ready", timeout="40s"))
    assert lines(shown(events))[2:] == [
        "  ..    wait-ready           15s: gw.service does not listen on 80 yet; at most",
        "                             25s more",
        "  ..    wait-ready           30s: gw.service does not listen on 80 yet; at most",
        "                             10s more",
        "  --    wait-ready           still-starting                                  40s",
        "          not ready within 40s: gw.service does not listen on 80 yet (it listens",
        "          on 127.0.0.1:8080: is `port` right?); gw.service is active (running),",
        "          PID 100 and was left alone",
        "",
        "still-starting: the unit was left alone; nothing was fixed",
        "  now   gw.service is active (running), PID 100; no process listens on port 80",
        "  next  runbook resume run-1 continues to wait; journalctl -u gw.service -f",
        "        shows what it is doing",
    ]


def test_a_log_shows_one_limit_of_a_wait_for_a_start_limit() -> None:
    machine = FakeMachine(units={"gw.service": unit(inactive_exit_monotonic=995_000_000)})
    starts = tuple(StartEvent(machine.clock.now() - ago, StartEventKind.START) for ago in (20, 15, 10, 7, 5))
    machine.answers["starts of gw.service"] = [Answer(True, "", starts)]
    _, events = run(machine, step("restart"))
    assert lines(shown(events))[2:6] == [
        "  ..    restart              15s: gw.service was started 5 times, and its start",
        "                             limit is 5 in 1min: that may be used up, and a",
        "                             restart now could leave it down; the step waits up",
        "                             to 25s, or until gw.service exits",
    ]


def test_the_end_of_a_remediation_whose_fix_failed_is_a_sentence() -> None:
    down: dict[str, Any] = {"active_state": ActiveState.FAILED, "sub_state": "failed", "main_pid": 0}
    machine = FakeMachine(units={"gw.service": unit(**down)})
    machine.on_job["start"] = lambda machine, name: JobResult.FAILED
    _, events = run(machine, remediate(step("verify-port-owner"), fix=(step("stop"), step("start"))))
    assert "          the fix stopped at its step `start`" in lines(shown(events))


def test_a_log_shows_which_run_is_waited_for() -> None:
    began, reason = 1700000000.0, "gw.service is locked by run x (PID 74)"
    waits = [Waiting(name="lock", reason=reason, seconds=float(at), left=60.0 - at) for at in (0, 15, 17, 30)]
    assert lines(shown([Event.of(began, "", wait) for wait in waits])) == [
        "  ..    lock                 15s: gw.service is locked by run x (PID 74); at",
        "                             most 45s more",
        "  ..    lock                 30s: gw.service is locked by run x (PID 74); at",
        "                             most 30s more",
    ]


def test_the_plan_in_the_incident() -> None:
    machine = incident()
    seen: list[Event] = []
    steps = (step("restart"), remediate(step("wait-ready"), step("verify-port-owner"), fix=tuple(map(step, FIX))))
    book = Runbook.model_validate({"unit": "gw.service", "port": "80", "steps": steps, "name": "upgrade", "path": "x"})
    events = EventStream("run-1", machine.clock, (seen.append,))
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
            "  fix     kill-orphan        would kill PID 74 (openclaw): TERM, KILL after 5s",
            "  fix     reset-failed       would clear the start-limit counter of gw.service",
            "  fix     start              would start gw.service",
            "",
            "nothing was changed",
        ][1:]
    )


def test_the_plan_of_a_healthy_upgrade_shows_the_fixes_last_and_in_one_line() -> None:
    machine = FakeMachine(units={"gw.service": unit()}, processes={100: process(100)})
    listen(machine, 100, "127.0.0.1:80")
    machine.answers["serves"] = [Answer(True, "", "1.0.0")]
    served = step("verify-version", run="serves", expect="1.1.0")
    seen = plan(machine, step("restart"), remediate(served, fix=tuple(map(step, FIX))))
    assert lines(shown(seen))[-7:] == [
        "  2     remediate            would check after step 1, and fix only if a check",
        "                             fails",
        "          verify-version     now version-mismatch: 1.0.0 serves, not 1.1.0",
        "",
        "only if a check of step 2 fails: stop, kill-orphan, reset-failed, start",
        "",
        "nothing was changed",
    ]


def test_a_fix_that_would_be_refused_is_named_in_that_line() -> None:
    planned: dict[str, Any] = {"type": "start", "impact": "undetermined", "verdict": "job-failed", "evidence": {}}
    texts = {"remediate": CHECKS_LATER, "remediate.fix.start": "would fail: it is masked"}
    seen = [
        Event.of(1.0, "run-1", StepPlanned(id=name, reason=text, undetermined_by=("restart",), **planned))
        for name, text in texts.items()
    ]
    seen.append(Event.of(1.0, "run-1", PlanFinished(status="ok", exit=0, reason="nothing was changed")))
    assert "only if a check of step 1 fails: start (would fail: it is masked)" in lines(shown(seen))


def test_workers_of_one_master_are_one_line() -> None:
    machine = FakeMachine(units={"gw.service": unit()})
    machine.processes = {100: process(100), **{pid: process(pid, ppid=100) for pid in range(101, 107)}}
    for pid in machine.processes:
        listen(machine, pid, "0.0.0.0:80", first_inode=7)
    seen: list[Event] = []
    book = Runbook.model_validate({"unit": "gw.service", "port": "80", "steps": (step("restart"),), "path": "x"})
    events = EventStream("run-1", machine.clock, (seen.append,))
    Planner(book, machine, machine, events, RunState("run-1", Path("/srv"))).plan()
    told = shown(seen)
    assert "PID 100: 0.0.0.0:80 for " in told
    assert "PID 101, 102, 103, 104 and 2 more: 0.0.0.0:80 for " in " ".join(told.split())
    assert "each: it descends from the main process, PID 100" in " ".join(told.split())


def test_every_line_fits_and_has_no_escape_codes() -> None:
    machine = FakeMachine(units={"gw.service": unit()})
    machine.on_command = lambda m, command: CommandResult("exit-code", 1, "x" * 500 + "\n" + "word " * 100)
    _, events = run(machine, step("run", run="a-very-long-command " * 10, retries="1"), name="n" * 200)
    text = shown(events)
    assert "\x1b" not in text
    # A word that no line can hold is broken.
    assert max(map(len, text.splitlines())) <= WIDTH


def test_processes_of_one_kind_share_a_line() -> None:
    machine = FakeMachine(units={"gw.service": unit()})
    for pid in (100, 101, 102):
        machine.processes[pid] = process(pid, ppid=1 if pid == 100 else 100)
        listen(machine, pid, "0.0.0.0:80", first_inode=5)
    seen: list[Event] = []
    book = Runbook.model_validate({"unit": "gw.service", "port": "80", "steps": (step("restart"),), "path": "x"})
    events = EventStream("run-1", machine.clock, (seen.append,))
    Planner(book, machine, machine, events, RunState("run-1", Path("/srv"))).plan()
    told = shown(seen)
    assert "PID 100: 0.0.0.0:80 for" in told
    assert "PID 101, 102: 0.0.0.0:80 for" in told
    assert told.count("0.0.0.0:80") == 2


@pytest.mark.parametrize("screen", [PlainScreen(Gone()), TerminalScreen(Gone())])
def test_a_reader_that_went_away_does_not_end_the_run(screen: PlainScreen | TerminalScreen) -> None:
    machine = incident()
    text = TextReport(Layout(screen))
    seen: list[str] = []
    book = Runbook.model_validate({"unit": "gw.service", "steps": (step("restart"),), "path": "x"})
    events = EventStream("r", machine.clock, (text, lambda event: seen.append(event.event)))
    from runbook.engine.runner import Runner

    end = Runner(book, machine, machine, events, RunState("r", Path("/srv"))).run()
    assert (end.status, seen[-1]) == ("changed", "run-finished")
