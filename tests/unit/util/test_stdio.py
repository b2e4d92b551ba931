"""The command with streams that are closed, full or without a reader: no traceback, and its usual exit status."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

from runbook.util.stdio import escape_controls, split_lines

GOOD = "steps: [{run: {run: x}}]\n"
BAD = "steps: [{nosuch: {}}]\n"
BOTH_GONE = ">&- 2>&-"


def shell(script: str, folder: Path, text: str = GOOD) -> tuple[int, str]:
    """Run a line of shell in which `runbook` is the command. Return its exit status and its whole output."""
    (folder / "good.yaml").write_text(text)
    program = folder / "runbook"
    python = shlex.quote(sys.executable)
    program.write_text(f'#!/bin/sh\nexec {python} -c "from runbook.cli import main; main()" "$@"\n')
    program.chmod(0o755)
    done = subprocess.run(
        ["bash", "-o", "pipefail", "-c", script],
        cwd=folder,
        env={**os.environ, "PATH": f"{folder}:{os.environ['PATH']}"},
        input=text,
        capture_output=True,
        text=True,
        check=False,
    )
    return done.returncode, done.stdout + done.stderr


@pytest.mark.parametrize("where", [">&-", "2>&-", BOTH_GONE, "<&- >&- 2>&-", "2>/dev/full"])
@pytest.mark.parametrize(("text", "status"), [(GOOD, 0), (BAD, 2)])
def test_a_closed_stream_changes_nothing(tmp_path: Path, where: str, text: str, status: int) -> None:
    code, output = shell(f"runbook validate good.yaml {where}", tmp_path, text)
    assert code == status
    assert "Traceback" not in output
    assert "Exception" not in output


@pytest.mark.parametrize("command", ["steps", "steps run", "schema", "validate good.yaml", "--help"])
@pytest.mark.parametrize("where", [">/dev/full", ">/dev/full 2>&1"])
def test_a_full_disk_is_reported(tmp_path: Path, command: str, where: str) -> None:
    code, output = shell(f"runbook {command} {where}", tmp_path)
    assert code == 1
    assert output == ("" if "2>" in where else "runbook: cannot print: no space left on device\n")


def test_a_pipe_without_a_reader(tmp_path: Path) -> None:
    code, output = shell("runbook schema | true; exit ${PIPESTATUS[0]}", tmp_path)
    assert code in (0, 1)  # It may have been faster.
    assert output == ""


@pytest.mark.parametrize("where", ["<&-", "</dev/null"])
def test_no_standard_input(tmp_path: Path, where: str) -> None:
    code, output = shell(f"runbook validate - {where}", tmp_path)
    assert code == 2
    assert output.startswith("-:1:1: ")


def test_standard_input_that_cannot_be_read(tmp_path: Path) -> None:
    code, output = shell("runbook validate - 0>there", tmp_path)
    assert (code, "cannot read -: " in output, "Traceback" in output) == (2, True, False)


def test_a_removed_working_directory(tmp_path: Path) -> None:
    code, output = shell("mkdir gone; cd gone; rmdir ../gone; runbook validate up.yaml", tmp_path)
    assert code == 2
    assert "cannot read up.yaml: the working directory does not exist any more" in output
    assert "Traceback" not in output


def test_control_characters_become_escapes() -> None:
    assert escape_controls("a\x1b[0m\x9b\x7f\x00é☃\t\n") == "a\\x1b[0m\\x9b\\x7f\\x00é☃\t\n"
    assert escape_controls("a\r\u202eb\u2066\u2028\u200f") == "a\\r\\u202eb\\u2066\\u2028\\u200f"


def test_only_a_newline_ends_a_line() -> None:
    assert split_lines("") == []
    assert split_lines("a\n\nb\n") == ["a", "", "b"]
    assert split_lines("a\x0bb") == ["a\x0bb"]
