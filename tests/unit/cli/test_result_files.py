"""A file that cannot be written prevents the run; one that cannot be written any more does not change its result."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from xml.etree import ElementTree

import pytest

from runbook import errors
from runbook.cli.judged_folder import check_file
from runbook.cli.options import Output
from runbook.cli.result_files import NO_FILES, ResultFiles, choose_files
from runbook.events import Event

BEGIN = Event(0.5, "20261130-2000-x6q", "run-started", {})
END = Event(1.0, "20261130-2000-x6q", "run-finished", {"status": "ok", "exit": 0, "reason": "everything holds"})


def ready(file: Path, *events: Event) -> ResultFiles:
    files = ResultFiles(junit=str(file))
    files.check()
    files.add(*events)
    return files


def test_the_events_become_the_file(tmp_path: Path) -> None:
    file, passed_on = tmp_path / "a b.xml", list[Event]()
    files = ready(file)
    files.collect(passed_on.append)(END)
    assert list(files.write()) == []
    assert passed_on == [END]
    assert ElementTree.parse(file).getroot().tag == "testsuites"
    assert list(tmp_path.iterdir()) == [file]


def test_it_has_the_mode_of_the_umask(tmp_path: Path) -> None:
    former = os.umask(0o027)
    try:
        list(ready(tmp_path / "a.xml", END).write())
    finally:
        os.umask(former)
    assert (tmp_path / "a.xml").stat().st_mode & 0o777 == 0o640


def test_without_a_file_the_report_is_the_same_and_nothing_is_written() -> None:
    assert NO_FILES.collect(print) is print
    assert not NO_FILES.are_wanted
    assert list(NO_FILES.write()) == []


def test_nothing_is_written_if_a_child_carried_the_run_out_or_the_check_failed(tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    assert list(ready(file).write()) == []
    files = ResultFiles(junit=str(tmp_path))
    with pytest.raises(errors.NotBegun):
        files.check()
    files.add(END)
    assert list(files.write()) == []
    assert not file.exists()


def test_what_writes_it_is_loaded_before_the_run(tmp_path: Path) -> None:
    script = "import sys; from runbook.cli.result_files import ResultFiles; ResultFiles(junit=sys.argv[1]).check(); "
    loaded = "print('runbook.report.junit' in sys.modules, 'runbook.records.store' in sys.modules)"
    argv = [sys.executable, "-c", script + loaded, str(tmp_path / "a.xml")]
    assert subprocess.run(argv, capture_output=True, text=True, check=True).stdout == "True True\n"


def test_a_check_leaves_what_is_there(tmp_path: Path) -> None:
    file = tmp_path / "a.xml"
    file.write_text("former")
    check_file(file)
    assert file.read_text() == "former"
    assert list(tmp_path.iterdir()) == [file]


@pytest.mark.parametrize("kind", ["link", "pipe", "folder", "no name", "no folder", "below a file", "a long name"])
def test_what_cannot_be_written(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "a.xml"
    match kind:
        case "link":
            file.symlink_to("/etc/passwd")
        case "pipe":
            os.mkfifo(file)
        case "folder":
            file.mkdir()
        case "no name":
            file = Path("/")
        case "no folder":
            file = tmp_path / "none" / "a.xml"
        case "below a file":
            (tmp_path / "none").touch()
            file = tmp_path / "none" / "a.xml"
        case "a long name":
            file = tmp_path / ("a" * 300)
    with pytest.raises(errors.NotBegun, match="cannot write"):
        check_file(file)


def test_a_file_that_cannot_be_written_any_more_is_named(tmp_path: Path) -> None:
    folder = tmp_path / "gone"
    folder.mkdir()
    files, of_check = ready(folder / "a.xml", BEGIN, END), ready(folder / "b.xml", END)
    folder.rmdir()
    (problem,) = files.write()
    assert problem.startswith(f"cannot write {folder}/a.xml: no such file or directory; runbook show 20261130-2000-x6q")
    # A check has no record that could make the file again.
    assert list(of_check.write()) == [f"cannot write {folder}/b.xml: no such file or directory"]


@pytest.fixture
def page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file that a runner of GitHub makes for each step."""
    file = tmp_path / "step_summary"
    file.write_text("of an earlier command\n")
    monkeypatch.setenv("GITHUB_STEP_SUMMARY", str(file))
    monkeypatch.delenv("SUDO_UID", raising=False)
    return file


def wrote(files: ResultFiles, *events: Event) -> list[str]:
    files.check()
    files.add(*events)
    return list(files.write())


def test_a_summary_is_added_to_the_file_of_the_runner(page: Path) -> None:
    inode = page.stat().st_ino
    assert wrote(choose_files(Output.JSON), END) == []
    assert wrote(choose_files(Output.AUTO, summary=str(page)), END) == []
    text = page.read_text()
    assert text.startswith("of an earlier command\n\n### ✅ ok: everything holds\n")
    assert text.count("### ✅") == 2
    assert page.stat().st_ino == inode


def test_another_summary_is_written_instead(page: Path, tmp_path: Path) -> None:
    other = tmp_path / "other.md"
    other.write_text("former")
    assert wrote(choose_files(Output.AUTO, summary=str(other)), END) == []
    assert other.read_text().startswith("### ✅ ok")
    assert page.read_text() == "of an earlier command\n"


@pytest.mark.parametrize("kind", ["link", "pipe", "missing", "of another user"])
def test_a_file_of_the_runner_that_cannot_be_written(page: Path, monkeypatch: pytest.MonkeyPatch, kind: str) -> None:
    match kind:
        case "link":
            page.rename(page.with_name("real"))
            page.symlink_to("real")
        case "pipe":
            page.unlink()
            os.mkfifo(page)
        case "missing":
            page.unlink()
        case "of another user":
            # Through sudo, the name is one that the user chose, and root could write to any file.
            monkeypatch.setattr(os, "geteuid", lambda: 0)
            monkeypatch.setenv("SUDO_UID", str(page.stat().st_uid + 1))
    with pytest.raises(errors.NotBegun, match=r"cannot write .*step_summary") as caught:
        choose_files(Output.AUTO).check()
    assert caught.value.hint == "unset GITHUB_STEP_SUMMARY to run without it"


def test_a_full_summary_is_left_as_it_is_and_named(page: Path) -> None:
    with page.open("ab") as file:
        file.truncate(1024 * 1024 - 20)
    (problem,) = wrote(choose_files(Output.AUTO), BEGIN, END)
    assert "it has 1048556 bytes already" in problem
    assert problem.endswith("runbook show 20261130-2000-x6q --summary FILE tries it again")
    assert page.stat().st_size == 1024 * 1024 - 20


@pytest.mark.parametrize(
    ("environment", "output", "option", "annotates"),
    [
        ("true", Output.AUTO, False, True),
        ("true", Output.JSON, False, False),
        ("", Output.AUTO, False, False),
        ("", Output.PLAIN, True, True),
    ],
)
def test_what_is_annotated(
    monkeypatch: pytest.MonkeyPatch, environment: str, output: Output, option: bool, annotates: bool
) -> None:
    monkeypatch.setenv("GITHUB_ACTIONS", environment)
    assert choose_files(output, annotate=option).annotates is annotates


def test_annotations_would_break_json() -> None:
    with pytest.raises(errors.UsageError, match="cannot combine --annotate with --output json"):
        choose_files(Output.JSON, annotate=True).check()


def test_each_kind_is_loaded_before_the_run(tmp_path: Path) -> None:
    script = (
        "import sys; from runbook.cli.result_files import FILE_KINDS, ResultFiles\n"
        f"ResultFiles(summary={str(tmp_path / 'a')!r}, annotates=True).check()\n"
        "print([module in sys.modules for module, _ in FILE_KINDS.values()])"
    )
    printed = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert printed == "[False, True, True]\n"
