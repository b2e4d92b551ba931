"""A diagnosis as text: at most 80 columns, but no command and no file is wrapped."""

from __future__ import annotations

import io
from typing import Any

from runbook.doctor.findings import FindingKind, MachineDiagnosis, MachineFinding, Severity
from runbook.report.doctor import print_diagnosis, print_machine
from runbook.report.layout import Collector, Layout, PlainScreen
from tests.unit.doctor.diagnosed import FAILED, diagnose, healthy, incident
from tests.unit.fake_machine import EARLIER, FakeMachine, journal_lines, listen, process


def printed(machine: FakeMachine, **options: Any) -> str:
    out = io.StringIO()
    print_diagnosis(diagnose(machine, **options), Layout(PlainScreen(out)))
    return out.getvalue()


def test_the_incident() -> None:
    machine = incident(**FAILED)
    machine.answers["journal tail of gw.service"] = [journal_lines("[gateway] port 18789 is already in use")]
    text = printed(machine)
    assert max(map(len, text.splitlines())) <= 80
    assert text.splitlines()[0].split() == ["gw.service", "problem"]
    names = [line[2:19].strip() for line in text.splitlines()[1:] if line[2:19].strip()]
    assert names == [
        "systemd reports",
        "kernel reports",
        "so",
        "why",
        "its log",
        "fix it now",
        "or in one go",
        "keep it so",
    ]
    assert "  fix it now       systemctl reset-failed gw.service\n" in text


def test_on_a_narrow_terminal_a_text_begins_below_its_name() -> None:
    screen = Collector(40)
    print_diagnosis(diagnose(incident(**FAILED)), Layout(screen))
    lines = ["".join(text for text, _ in pieces) for pieces in screen.lines]
    at = lines.index("  fix it now")
    assert lines[at + 1] == "    systemctl reset-failed gw.service"
    assert max(len(line) for line in lines if "/dev/null" not in line and "--fix" not in line) <= 40


def test_a_healthy_unit_is_three_lines() -> None:
    lines = printed(healthy()).splitlines()
    assert lines[0].endswith("healthy")
    assert [line[2:19].strip() for line in lines[2:]] == ["systemd reports", "kernel reports"]


def test_a_drop_in_is_ready_to_paste() -> None:
    machine = healthy(send_sigkill=False)
    machine.processes[90] = process(90, invocation_id=EARLIER, started=100.0)
    machine.processes[100] = process(100, invocation_id="a" * 32)
    machine.processes[91] = process(91, invocation_id=EARLIER, started=101.0)
    listen(machine, 91, "127.0.0.1:18789", first_inode=900)
    text = printed(machine)
    folder = "/etc/systemd/system/gw.service.d"
    assert (
        "  keep it so       so that a stop kills what ignores SIGTERM, as PID 90, 91\n"
        "                   (gateway):\n"
        f"                   mkdir -p {folder}\n"
        f"                   printf '[Service]\\nSendSIGKILL=yes\\n' > {folder}/zz-runbook-kill-mode.conf\n"
        "                   systemctl daemon-reload\n"
    ) in text
    assert "  first            if PID 90 is no longer needed:\n                   kill 90\n" in text


def test_what_could_not_be_seen_is_listed() -> None:
    machine = healthy()
    machine.sockets[9999] = machine.sockets.pop(100)
    machine.hidden = 1
    machine.refused_ports["gw.service"] = (diagnose(healthy()).ports[0].port,)
    assert "not seen" in printed(machine, uid=1000)


FAILED_UNIT = MachineFinding(
    FindingKind.FAILED,
    Severity.PROBLEM,
    "openclaw-gateway.service",
    "port 18789 is held by PID 74 (node), in session-9.scope of user agentops; its start limit is reached",
    "runbook doctor openclaw-gateway.service",
)
OLD = MachineFinding(
    FindingKind.OLD_CODE,
    Severity.WARNING,
    "a-service-with-a-very-long-name.service",
    "PID 812 (web) runs code that was replaced since it began: libssl.so.3",
    "runbook restart --user a-service-with-a-very-long-name.service",
    "agentops",
)


def printed_machine(*findings: MachineFinding, unseen: tuple[str, ...] = (), width: int = 80) -> list[str]:
    page = Collector(width)
    print_machine(MachineDiagnosis("web1", 40, 23, 2, findings, unseen, 0.61), Layout(page))
    return ["".join(text for text, _ in line).rstrip() for line in page.lines]


def test_a_machine() -> None:
    unseen = ("the user manager of bob (not root)",)
    assert printed_machine(FAILED_UNIT, OLD, unseen=unseen) == [
        "web1: 40 services, 23 ports, 2 user managers                                0.6s",
        "",
        "  [x]  openclaw-gateway.service  port 18789 is held by PID 74 (node), in",
        "                                 session-9.scope of user agentops; its start",
        "                                 limit is reached",
        "                                 next: runbook doctor openclaw-gateway.service",
        "  [!]  a-service-with-a-very-long-name.service of agentops",
        "                                 PID 812 (web) runs code that was replaced since",
        "                                 it began: libssl.so.3",
        "                                 next: runbook restart --user a-service-with-a-very-long-name.service",
        "  [ok] 38 more",
        "",
        "1 problem, 1 warning; not seen: the user manager of bob (not root)",
    ]


def test_a_healthy_machine_has_no_detail() -> None:
    assert printed_machine()[2:] == ["  [ok] 40 services", "", "nothing is wrong"]
    assert printed_machine(unseen=("the journal",))[-1] == "nothing was found; not seen: the journal"


def test_a_machine_on_a_narrow_terminal() -> None:
    lines = printed_machine(FAILED_UNIT, width=50)
    assert lines[2:4] == ["  [x]  openclaw-gateway.service", "       port 18789 is held by PID 74 (node), in"]
    assert max(map(len, lines)) <= 52
