"""A diagnosis as text: the facts of systemd and of the kernel, what they mean, and what to do."""

from __future__ import annotations

from collections.abc import Iterable

from runbook.doctor.findings import MachineDiagnosis, MachineFinding, Severity, UnitDiagnosis
from runbook.report.layout import NARROW, Layout
from runbook.util.stdio import escape_controls
from runbook.util.text_width import break_lines

LABEL = 17  # width of the column with the names
SUBJECT = 33  # width of the column with the units of a machine
STYLES = {Severity.OK: "green", Severity.WARNING: "yellow", Severity.PROBLEM: "red"}

_BOXES = {Severity.OK: "[ok]", Severity.WARNING: "[!]", Severity.PROBLEM: "[x]"}
_AFTER_BOX = 7  # the column in which the text after a box begins


def print_diagnosis(found: UnitDiagnosis, page: Layout) -> None:
    """Print the diagnosis of one unit. Commands and files are not wrapped, so that they can be copied."""
    page.heading(found.unit.name, "healthy" if found.is_healthy else str(found.severity))
    _print_list(page, "systemd reports", found.systemd)
    _print_list(page, "kernel reports", found.kernel)
    _print_list(page, "not seen", found.unseen)
    if found.is_healthy:
        return
    page.line()
    shown = [cause for cause in found.causes if cause.sentence in found.summary]
    _print_list(page, "so", [found.summary + "".join(f" (read from {cause.source})" for cause in shown)])
    others = (cause for cause in found.causes if cause not in shown)
    _print_list(page, "why", (f"{cause.sentence} (read from {cause.source})" for cause in others))
    _print_list(page, "systemd logged", found.systemd_lines)
    _print_list(page, "its log", found.journal)
    page.line()
    text, shows = found.decision
    _print_list(page, "first", [f"{text}:" if shows else text])
    _print_block(page, "", shows)
    _print_block(page, "fix it now", found.commands)
    _print_block(page, "or in one go", [found.proved_restart] if found.proved_restart else [])
    _print_list(page, "keep it so", found.preventions)
    for drop_in, commands in zip(found.drop_ins, found.drop_in_commands, strict=True):
        _print_list(page, "keep it so", [f"so that {drop_in.effect}:"])
        _print_block(page, "", commands)


def _print_list(page: Layout, name: str, texts: Iterable[str]) -> None:
    for text in filter(None, texts):
        page.item(_open(page, name), text, _column(page))
        name = ""


def _print_block(page: Layout, name: str, lines: Iterable[str]) -> None:
    for line in lines:
        page.line((f"  {_open(page, name):<{_column(page)}}", "dim"), (line, ""))
        name = ""


def _column(page: Layout) -> int:
    """Return the width of the column with the names. On a narrow terminal a text begins on the line after its name."""
    return LABEL if page.width >= NARROW else 2


def _open(page: Layout, name: str) -> str:
    """Return the name to print beside a text; on a narrow terminal print it on its own line, and return none."""
    if not name or page.width >= NARROW:
        return name
    page.line((f"  {name}", "dim"))
    return ""


def print_machine(found: MachineDiagnosis, page: Layout) -> None:
    """Print the diagnosis of a whole machine: details only where something is wrong, the count last."""
    page.heading(f"{found.host}: {_describe_size(found)}", f"{found.seconds:.1f}s")
    for one in found.findings:
        _print_finding(page, one)
    healthy = found.healthy_services
    page.line(
        ("  [ok] ", STYLES[Severity.OK]), (f"{healthy} more" if found.findings else _count(healthy, "service"), "")
    )
    page.line()
    page.sentence(_summarize(found))


def _describe_size(found: MachineDiagnosis) -> str:
    managers = f", {_count(found.user_managers, 'user manager')}" if found.user_managers else ""
    return f"{_count(found.services, 'service')}, {_count(found.ports, 'port')}{managers}"


def _print_finding(page: Layout, found: MachineFinding) -> None:
    subject = f"{found.subject} of {found.user}" if found.user else found.subject
    mark = (f"  {_BOXES[found.severity]:<4} ", STYLES[found.severity])
    column = SUBJECT if page.width >= NARROW else _AFTER_BOX
    if column == SUBJECT and len(subject) + _AFTER_BOX + 2 <= SUBJECT:
        first, *rest = break_lines(escape_controls(found.reason), page.width - column) or [""]
        page.line(mark, (f"{subject:<{column - _AFTER_BOX}}", "bold"), (first, ""))
    else:
        rest = break_lines(escape_controls(found.reason), page.width - column)
        page.line(mark, (subject, "bold"))
    for line in rest:
        page.line((" " * column, ""), (line, ""))
    for line in break_lines(f"first: {found.advice}", page.width - column) if found.advice else ():
        page.line((" " * column, ""), (line, ""))
    page.line((" " * column, ""), ("next: ", "dim"), (found.next, ""))


def _summarize(found: MachineDiagnosis) -> str:
    """Return the count of findings, and what could not be read."""
    counts = [
        _count(count, str(severity))
        for severity in (Severity.PROBLEM, Severity.WARNING)
        if (count := found.count(severity))
    ]
    what = ", ".join(counts) or ("nothing is wrong" if not found.unseen else "nothing was found")
    return what + (f"; not seen: {'; '.join(found.unseen)}" if found.unseen else "")


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'' if number == 1 else 's'}"
