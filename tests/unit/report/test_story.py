"""What a person reads of a run afterwards."""

from __future__ import annotations

import io
import re
import time
from collections.abc import Iterator
from typing import Any

import pytest

from runbook.records import store
from runbook.records.history import RunRecord
from runbook.report import story
from runbook.report.layout import WIDTH, Layout, PlainScreen
from runbook.report.story import StoryReport
from tests.unit.recorded import BEGAN, STARTED, acting, begun, ended, finished, header, wrote
from tests.unit.runs import incident, run, upgrade

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(autouse=True)
def _utc(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def told(past: RunRecord) -> list[str]:
    out = io.StringIO()
    teller = StoryReport(Layout(PlainScreen(out)))
    teller.begin(past.summary_event())
    for event in past.read():
        teller(event)
    teller.end(past.summary_event())
    lines = out.getvalue().replace(str(past.folder.path), "FOLDER").replace(past.id, "ID").splitlines()
    assert [line for line in lines if len(line) > WIDTH] == []
    return lines


def listed(*pasts: RunRecord) -> list[str]:
    out = io.StringIO()
    story.print_history((past.summary_event() for past in pasts), Layout(PlainScreen(out)))
    return out.getvalue().splitlines()


def test_the_incident_as_it_is_read_afterwards() -> None:
    _, events = run(
        incident(),
        *upgrade(),
        name="upgrade the gateway",
    )
    known = [(e.event, {**e.data, **({"booted": BEGAN - 7200} if "booted" in e.data else {})}) for e in events]
    lines = told(wrote(begun(), *known))
    assert re.fullmatch(r"  ended 2026-09-21 14:13:\d\d, with exit status 0", lines.pop(-3))
    assert lines == [
        "upgrade the gateway                                        run ID",
        "",
        "  began 2026-09-21 14:13:20, by root",
        "  file  /root/upgrade.yaml",
        "  unit  gw.service",
        "",
        "  ok    restart              new invocation, PID 200",
        "        remediate",
        "  --      wait-ready         orphan-holds-port                                2s",
        "            port 80 is held by PID 74 (openclaw), in session-9.scope of user",
        "            agentops: not this unit",
        "            holds: PID 74 in session-9.scope of user agentops, since 2026-09-21",
        "            12:29:10: 127.0.0.1:80, [::1]:80",
        "            | /usr/bin/gateway",
        "  fix     stop               gw.service is inactive",
        "  fix     kill-orphan        PID 74 (openclaw) exited on TERM; 80 is free   0.5s",
        "            killed: PID 74 in session-9.scope of user agentops, since 2026-09-21",
        "            12:29:10: 127.0.0.1:80, [::1]:80",
        "            | /usr/bin/gateway",
        "  fix     reset-failed       the start-limit counter cleared",
        "  fix     start              new invocation, PID 200",
        "  ok      wait-ready         healthy for 2s, ready after 0.0s                 2s",
        "  ok      verify-port-owner  port 80 is held only by PID 200",
        "",
        "remediated: gw.service is active (running), PID 200, port 80",
        "",
        "  files FOLDER",
    ]


def test_one_that_was_cut_short_names_the_step_and_the_way_on() -> None:
    past = wrote(begun(), STARTED, finished("update"), acting("migrate"))
    (past.folder.outputs_path / "migrate.log").write_text("half way\n")
    text = " ".join(" ".join(told(past)).split())
    assert (
        "cut short: its program was killed, or the machine went down; its last event is from 2026-09-21 14:13:22"
        in text
    )
    assert "cut migrate began to act, and its end is not recorded" in text
    assert "next runbook resume ID continues it; if it cannot determine how migrate ended: --rerun migrate or" in text
    ids = "ids --skip and --rerun take: update, migrate"
    files = "files FOLDER files output/migrate.log: output of a command, 9 bytes"
    assert text.endswith(f"--abandon closes it {ids} {files}")


def test_steps_are_shown_by_the_ids_that_skip_takes() -> None:
    steps = [{"id": "restart", "type": "restart"}, {"id": "restart-2", "type": "restart"}, {"id": "x", "type": "run"}]
    began = [
        ("step-started", {"id": "restart-2", "type": "restart", "name": "restart", "units": []}),
        finished("restart-2", type="restart"),
        ("step-started", {"id": "x", "type": "run", "name": "migrate it", "units": []}),
        finished("x"),
        ("step-started", {"id": "fix.check.y", "type": "run", "name": "run", "units": []}),
        acting("fix.check.y"),
    ]
    text = "\n".join(told(wrote(begun(), ("run-started", {**STARTED[1], "steps": steps}), *began)))
    assert "  ok    restart-2  " in text
    assert "  ok    migrate it  " in text
    assert "--skip and --rerun take: restart, restart-2, x, fix.check.y" in " ".join(text.split())


def test_a_name_that_root_may_have_set_itself_is_marked() -> None:
    folder = store.create_folder(BEGAN)
    folder.write_header(header(folder.id, user="bob", user_source="sudo"), "steps: [restart]\n")
    assert ", by bob, according to SUDO_USER" in "\n".join(told(wrote(folder, STARTED, ended())))


def test_a_resumed_part_has_a_line_of_its_own() -> None:
    past = wrote(begun(), STARTED, ended("interrupted", 143), ("run-resumed", STARTED[1]), ended())
    lines = told(past)
    assert "  note                       resumed, 2026-09-21 14:13:22" in lines
    assert [line for line in lines if "next" in line] == []


@pytest.mark.parametrize(
    ("event", "says", "next_"),
    [
        (("run-superseded", {"by": "X", "unit": "web.service"}), "a later run, X, has acted on web.service since", ""),
        (("run-abandoned", {}), "abandoned by the operator", ""),
        (("record-lost", {"reason": "no space left on device"}), "incomplete: no space left on device", "begins anew"),
    ],
)
def test_a_run_that_cannot_be_resumed_shows_why(event: Any, says: str, next_: str) -> None:
    text = " ".join(" ".join(told(wrote(begun(), STARTED, acting("x"), event))).split())
    assert says in text
    assert "runbook resume" not in text
    assert next_ in text


@pytest.mark.parametrize("data", [{}, {"id": 7}, {"id": "x", "type": "run", "status": [], "evidence": None}])
@pytest.mark.parametrize("event", ["step-finished", "step-waiting", "notice", "run-finished", "unheard-of"])
def test_what_another_version_wrote_hides_nothing_after_it(event: str, data: dict[str, Any]) -> None:
    lines = told(wrote(begun(), STARTED, (event, data), finished("late", reason="late is told")))
    assert any("late is told" in line for line in lines)


def test_what_others_wrote_cannot_move_the_cursor() -> None:
    evil = "\x1b[2J\x07 evil"
    failed = finished("x", "failed", reason=evil, evidence={"output": evil, "killed": [{"pid": evil, "command": evil}]})
    text = "\n".join(told(wrote(begun(), ("run-started", {"name": evil, "units": [evil]}), failed)))
    assert "\x1b" not in text
    assert "evil" in text


def test_a_list_of_runs() -> None:
    good = wrote(begun(), STARTED, ended())
    bad = wrote(begun(BEGAN + 3600), ("run-started", {"name": "n" * 90, "units": ["a.service"]}), ended("failed", 1))
    lines = listed(bad, good)
    assert lines == [
        f"{bad.id}  2026-09-21 15:13:20  failed{'0s'.rjust(34)}",
        f"{' ' * 19}{'n' * 49}...  by root",
        f"{good.id}  2026-09-21 14:13:20  changed{'1s'.rjust(33)}",
        f"{' ' * 19}upgrade web: web.service{'by root'.rjust(37)}",
    ]
