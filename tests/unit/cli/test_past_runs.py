"""`history` and `show`: their output, their files and their exit status."""

from __future__ import annotations

import io
import json
import stat
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook import errors
from runbook.cli import past_runs
from runbook.cli.options import Output
from runbook.events import Event
from runbook.records.history import RunRecord
from tests.unit.cli.invoke import failure, runbook
from tests.unit.recorded import BEGAN, STARTED, acting, begun, ended, finished, wrote

pytestmark = pytest.mark.usefixtures("home")


def a_run() -> RunRecord:
    return wrote(begun(), STARTED, acting("x"), finished("x"), ended())


def test_an_empty_history_is_not_a_failure(home: Path) -> None:
    result = runbook("history")
    assert (result.exit_code, result.stdout) == (0, "")
    assert str(home) in result.stderr.replace("\n  ", "")


def test_the_newest_runs_are_listed_and_with_all_every_run() -> None:
    for minute in range(23):
        wrote(begun(BEGAN + 60 * minute), STARTED, ended())
    few, all_ = runbook("history"), runbook("history", "--all")
    assert few.stdout.splitlines()[-1] == "3 older: runbook history --all"
    assert len(few.stdout.splitlines()) == 2 * 20 + 1
    assert len(all_.stdout.splitlines()) == 2 * 23
    assert max(map(len, all_.stdout.splitlines())) <= 80


def test_runs_are_selected_by_number_unit_and_time() -> None:
    now = time.time()
    for hours, name in ((50, "web"), (20, "web"), (3, "db"), (1, "web")):
        units = ("run-started", {"name": f"{name} {hours}", "units": [f"{name}.service"]})
        wrote(begun(now - 3600 * hours), units, ended())

    def listed(*argv: str) -> list[str]:
        lines = runbook("history", *argv, "--output", "json").stdout.splitlines()
        return [json.loads(line)["name"] for line in lines]

    assert listed("-n", "2") == ["web 1", "db 3"]
    assert listed("--unit", "web") == ["web 1", "web 20", "web 50"]
    assert listed("--unit", "web.service", "-n", "1") == ["web 1"]
    assert listed("--since", "2h ago") == listed("--since", "2h") == ["web 1"]
    assert listed("--since", "1d", "--unit", "web") == ["web 1", "web 20"]
    assert listed("--since", "2020-01-01 12:00", "--all") == ["web 1", "db 3", "web 20", "web 50"]
    assert "1 older: runbook history --all" in runbook("history", "--unit", "web", "-n", "2").stdout
    nothing = runbook("history", "--unit", "nosuch")
    assert (nothing.exit_code, nothing.stdout) == (0, "")
    assert "no recorded run fits" in nothing.stderr


@pytest.mark.parametrize(
    ("argv", "why"),
    [
        (("--since", "soon"), "cannot read time `soon`; write 2h, 3d, today, yesterday"),
        (("--since", "2020-13-01"), "cannot read time"),
        (("--unit", "a/b"), "is a path, not a unit name"),
        (("--all", "-n", "3"), "cannot combine --all with -n"),
        (("-n", "0"), "-n"),
    ],
)
def test_a_wrong_selection_is_refused(argv: tuple[str, ...], why: str) -> None:
    result = runbook("history", *argv)
    assert why in result.stderr + str(result.exception)
    assert result.exit_code == 2 or isinstance(result.exception, errors.UsageError)


def test_in_json_each_run_is_an_event() -> None:
    past = a_run()
    [line] = map(json.loads, runbook("history", "--output", "json").stdout.splitlines())
    assert line == {
        "time": "2026-09-21T14:13:20.000Z",
        "run": past.id,
        "event": "run-recorded",
        "name": "upgrade web",
        "file": "/root/upgrade.yaml",
        "units": ["web.service"],
        "scope": "system",
        "user": "root",
        "status": "changed",
        "seconds": 3.0,
        "resumable": False,
        "exit": 0,
        "reason": "web.service runs",
        "folder": str(past.folder.path),
        "printed": [],
    }


def test_an_unreadable_record_is_a_warning() -> None:
    a_run()
    broken = begun()
    broken.header_path.write_text("{")
    result = runbook("history")
    assert result.exit_code == 0
    assert f"{broken.path} cannot be read" in result.stderr.replace("\n  ", " ")


def test_show_prints_the_latest_run_or_the_named_one() -> None:
    first = a_run()
    latest = wrote(begun(BEGAN + 60), STARTED, acting("y"))
    assert f"run {latest.id}" in runbook("show").stdout
    assert f"run {first.id}" in runbook("show", first.id).stdout


def test_in_json_show_prints_the_record() -> None:
    past = a_run()
    assert runbook("show", "--output", "json").stdout == past.folder.events_path.read_text()
    assert runbook("show", "--output", "json", "--follow").stdout == past.folder.events_path.read_text()


def test_there_is_nothing_to_show() -> None:
    assert failure("show").exit_status == errors.EXIT_NOT_BEGUN
    a_run()
    assert failure("show", "20200101-0000-abc").exit_status == errors.EXIT_NOT_BEGUN
    assert failure("show", "../../etc").exit_status == errors.EXIT_INVALID


def test_only_the_owner_can_read_a_page(tmp_path: Path) -> None:
    past = a_run()
    page = tmp_path / "run.html"
    page.write_text("an old one, and a much longer one" * 1000)
    result = runbook("show", "--html", str(page))
    assert result.exit_code == 0
    assert str(page) in result.stdout
    text = page.read_text()
    assert text.startswith("<!DOCTYPE html>")
    assert text.endswith("</html>\n")
    assert past.id in text
    assert stat.S_IMODE(page.stat().st_mode) == 0o600


def test_the_page_of_the_runs_lists_each(tmp_path: Path) -> None:
    past, page = a_run(), tmp_path / "runs.html"
    assert runbook("history", "--html", str(page)).stdout == f"wrote 1 run to {page}; only you can read the file\n"
    assert past.id in page.read_text()
    assert stat.S_IMODE(page.stat().st_mode) == 0o600
    assert "cannot combine --html" in failure("history", "--html", str(page), "--output", "json").message


def test_a_page_has_the_output_of_commands_only_after_the_end_of_the_run(tmp_path: Path) -> None:
    """Before, secrets in it may not be masked yet."""
    page = tmp_path / "run.html"
    for events, is_shown in (((STARTED, acting("x")), False), ((STARTED, finished("x"), ended()), True)):
        past = wrote(begun(), *events)
        past.folder.outputs_path.mkdir(exist_ok=True)
        (past.folder.outputs_path / "x.log").write_text("the password")
        runbook("show", past.id, "--html", str(page))
        assert ("the password" in page.read_text()) is is_shown


def test_a_page_never_replaces_a_link(tmp_path: Path) -> None:
    a_run()
    target = tmp_path / "passwd"
    target.write_text("theirs")
    link = tmp_path / "run.html"
    link.symlink_to(target)
    assert failure("show", "--html", str(link)).exit_status == errors.EXIT_NOT_BEGUN
    assert failure("show", "--html", str(tmp_path)).exit_status == errors.EXIT_NOT_BEGUN
    assert (target.read_text(), link.is_symlink()) == ("theirs", True)


def test_the_junit_of_a_run_is_written(tmp_path: Path) -> None:
    past, file = a_run(), tmp_path / "run.xml"
    assert runbook("show", "--junit", str(file)).stdout == f"wrote run {past.id} to {file}\n"
    assert past.id in file.read_text()
    error = failure("show", "--junit", str(tmp_path / "nowhere" / "run.xml"))
    assert error.message.endswith("run.xml: no such file or directory")
    assert "cannot combine --junit" in failure("show", "--junit", str(file), "--follow").message


def test_a_page_that_cannot_be_written_is_a_failure(tmp_path: Path) -> None:
    a_run()
    error = failure("show", "--html", str(tmp_path / "nowhere" / "run.html"))
    assert error.exit_status == errors.EXIT_NOT_BEGUN
    assert error.message.endswith("run.html: no such file or directory")


@pytest.mark.parametrize("argv", [("--follow",), ("--output", "json")])
def test_html_cannot_be_combined_with_other_output(argv: tuple[str, ...]) -> None:
    a_run()
    assert failure("show", "--html", "x.html", *argv).exit_status == errors.EXIT_INVALID


def test_ctrl_c_ends_following(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without an error message, as typer does by itself."""
    past = a_run()

    def pressed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(RunRecord, "follow", pressed)
    result = runbook("show", "--follow", past.id)
    assert (result.exit_code, result.stderr) == (130, "")


@pytest.mark.parametrize("output", ["plain", "json"])
def test_following_ends_when_the_reader_exits(output: str, monkeypatch: pytest.MonkeyPatch) -> None:
    past = a_run()
    written: list[str] = []

    class Gone(io.StringIO):
        def write(self, text: str) -> int:
            written.append(text)
            raise BrokenPipeError

    def forever(*_: object) -> Iterator[Event]:
        while True:
            yield Event(BEGAN, past.id, "notice", {"text": "it goes on"})

    monkeypatch.setattr(RunRecord, "follow", forever)
    monkeypatch.setattr("sys.stdout", Gone())
    past_runs.show(past.id, follow=True, output=Output(output))
    assert len(written) == 1
