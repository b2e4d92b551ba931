"""Files and standard input: read once, and refused with a message if they cannot be read."""

from __future__ import annotations

import io
import os
from pathlib import Path

import pytest

from runbook.document import Source, parse, read_source
from runbook.document.nodes import MAX_BYTES
from runbook.errors import DocumentError, UsageError

TEXT = "vars: {version: '1'}\nsteps: [run: {run: 'x ${{ vars.version }}'}]\n"


def test_a_file_is_read_with_its_owner_and_mode(tmp_path: Path) -> None:
    path = tmp_path / "up.yaml"
    path.write_text(TEXT)
    source = read_source(str(path))
    assert (source.path, source.data) == (str(path), TEXT.encode())
    assert source.status is not None
    assert source.status.st_ino == path.stat().st_ino


def test_commands_start_in_the_folder_of_the_file(tmp_path: Path) -> None:
    path = tmp_path / "up.yaml"
    book = parse(TEXT, str(path), sets={"version": "2.0"})
    assert (book.path, book.folder, book.vars) == (str(path), tmp_path, {"version": "2.0"})
    assert parse(TEXT, str(path), folder=Path("/srv")).folder == Path("/srv")
    assert parse(TEXT, "-").folder == Path("/")


def test_standard_input_is_read_and_has_no_owner(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(TEXT.encode())))
    assert read_source("-") == Source("-", TEXT.encode(), None)


def test_no_more_is_read_than_a_runbook_may_have(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.stdin", io.TextIOWrapper(io.BytesIO(b"#" * 3_000_000)))
    source = read_source("-")
    assert len(source.data) == MAX_BYTES + 1
    with pytest.raises(DocumentError, match="-:1:1: the file is larger than 1 MiB"):
        parse(source.data, "-")


@pytest.mark.parametrize(
    ("path", "why"),
    [
        ("nope.yaml", "no such file or directory"),
        (".", "is a directory"),
        ("x" * 300, "file name too long"),
        ("nul\0", "embedded null byte"),
    ],
)
def test_a_file_that_cannot_be_read_is_an_error_of_usage(tmp_path: Path, path: str, why: str) -> None:
    with pytest.raises(UsageError, match=f"cannot read .*: {why}") as caught:
        read_source(str(tmp_path / path))
    assert caught.value.exit_status == 2


def test_a_file_without_permission_is_an_error_of_usage(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def denied(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(os, "open", denied)
    with pytest.raises(UsageError, match=r"cannot read .*up.yaml: permission denied"):
        read_source(str(tmp_path / "up.yaml"))


def test_errors_are_sorted_and_reported_once() -> None:
    with pytest.raises(DocumentError) as caught:
        parse("steps: [restrat, restrat]\nunti: x\n", "f")
    assert [(p.line, p.column) for p in caught.value.problems] == [(1, 9), (1, 18), (2, 1)]
