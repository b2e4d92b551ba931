"""The content of a command's files, their permissions, and the outputs of earlier attempts."""

from __future__ import annotations

import os
import pwd
import subprocess
from pathlib import Path

import pytest

from runbook.errors import HostError
from runbook.host.queries import Command
from runbook.host.systemd.transient_files import CommandFiles

ME = pwd.getpwuid(os.geteuid())
SCRIPT = ("/bin/sh", "-e", "-c")


def files_of(folder: Path, command: Command) -> CommandFiles:
    files = CommandFiles(str(folder / "run it's.log"))
    files.write(command, ME)
    return files


def run_as_unit(files: CommandFiles) -> str:
    """Run what the unit would run; return what it printed."""
    done = subprocess.run(files.start_argv, cwd=files.folder, capture_output=True, check=False)
    ended = {"SERVICE_RESULT": "success", "EXIT_CODE": "exited", "EXIT_STATUS": str(done.returncode)}
    subprocess.run(files.stop_post_argv, cwd=files.folder, env={"PATH": os.environ["PATH"], **ended}, check=True)
    return done.stdout.decode(errors="surrogateescape")


@pytest.mark.parametrize(
    "argv", [("printf", "%s", "$HOME `x` it's\n"), (*SCRIPT, 'printf "%s" "\\$HOME \\`x\\` it\'s\n"')]
)
def test_words_and_scripts_arrive_as_they_are(tmp_path: Path, argv: tuple[str, ...]) -> None:
    assert run_as_unit(files_of(tmp_path, Command(argv))) == "$HOME `x` it's\n"


def test_the_environment_arrives_as_it_is(tmp_path: Path) -> None:
    env = {"A": "it's\n$B", "UID": "7", "PPID": "8", "OPTIND": "x", "B": "\udcff"}
    printed = run_as_unit(files_of(tmp_path, Command(("env", "-0"), env=env)))
    assert "A=it's\n$B\0" in printed
    assert "UID=7\0" in printed
    assert "PPID=8\0" in printed
    assert "B=\udcff\0" in printed


def test_it_starts_in_its_folder(tmp_path: Path) -> None:
    folder = tmp_path / "-a 'b'"
    folder.mkdir()
    assert run_as_unit(files_of(tmp_path, Command((*SCRIPT, "pwd"), cwd=str(folder)))) == f"{folder}\n"


def test_the_unit_s_command_line_contains_nothing_of_the_command(tmp_path: Path) -> None:
    files = files_of(tmp_path, Command((*SCRIPT, "echo sesame"), env={"A": "sesame"}))
    assert "sesame" not in " ".join([*files.start_argv, *files.stop_post_argv])
    assert {path.stat().st_mode & 0o077 for path in tmp_path.iterdir()} == {0}


def test_what_is_left_is_the_output_and_the_result(tmp_path: Path) -> None:
    files = files_of(tmp_path, Command((*SCRIPT, "exit 3")))
    run_as_unit(files)
    assert files.read_result() == ["success", "exited", "3"]
    assert {path.name for path in tmp_path.iterdir()} == {"run it's.log", "run it's.log.result"}


def test_a_command_that_is_not_kept_has_no_output_file(tmp_path: Path) -> None:
    files = files_of(tmp_path, Command((*SCRIPT, "echo sesame"), keep_output=False))
    run_as_unit(files)
    assert {path.name for path in tmp_path.iterdir()} == {"run it's.log.result"}


def test_the_output_of_each_attempt_is_kept(tmp_path: Path) -> None:
    for text in ("one", "two", "", "three"):
        files = files_of(tmp_path, Command((*SCRIPT, "true")))
        assert files.tail(100) == ""
        files.output.write_text(text)
    assert [Path(f"{files.output}{end}").read_text() for end in (".1", ".2", "")] == ["one", "two", "three"]


def test_a_link_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "else").write_text("")
    (tmp_path / "run it's.log.script").symlink_to(tmp_path / "else")
    files_of(tmp_path, Command((*SCRIPT, "echo sesame")))
    assert (tmp_path / "else").read_text() == ""


def test_text_that_is_not_utf_8_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(HostError, match="not valid UTF-8"):
        files_of(tmp_path, Command((*SCRIPT, "echo \ud800")))


def test_the_result_of_an_earlier_attempt_does_not_count(tmp_path: Path) -> None:
    files = CommandFiles(str(tmp_path / "run.log"))
    files.result.write_text("signal killed TERM before\n")
    assert files.read_result("now") == []
    assert files.read_result("before") == ["signal", "killed", "TERM", "before"]
