"""Small files: what is opened, how much of it is read, and what is not there."""

from __future__ import annotations

import os
from pathlib import Path

from runbook.host.runners.file_text import MAX_FILE_TEXT, FileTextReader


def read(*paths: Path | str) -> list[tuple[str, str, str]]:
    found = FileTextReader(tuple(map(str, paths))).run().value
    assert found is not None
    return [(Path(one.path).name, one.text, one.error) for one in found]


def test_files_that_are_missing_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "a").write_text("one\ntwo")
    assert read(tmp_path / "b", tmp_path / "a" / "c", tmp_path / "a") == [("a", "one\ntwo", "")]


def test_owner_and_time(tmp_path: Path) -> None:
    path = tmp_path / "a"
    path.write_text("")
    os.utime(path, (5, 7))
    answer = FileTextReader((str(path),)).run().value
    assert answer
    assert (answer[0].uid, answer[0].changed) == (os.getuid(), 7)


def test_nothing_but_a_regular_file_is_opened(tmp_path: Path) -> None:
    """To open a pipe for reading would last until another process opens it for writing."""
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "link").symlink_to("/dev/zero")
    wrong = "it is not a regular file"
    assert read(tmp_path / "pipe", tmp_path / "link", tmp_path) == [
        ("pipe", "", wrong),
        ("link", "", wrong),
        (tmp_path.name, "", wrong),
    ]


def test_a_long_file_and_strange_bytes(tmp_path: Path) -> None:
    (tmp_path / "long").write_bytes(b"\xff" + b"x" * MAX_FILE_TEXT)
    [(_, text, _)] = read(tmp_path / "long")
    assert text == r"\xff" + "x" * (MAX_FILE_TEXT - 1)


def test_what_cannot_be_read(tmp_path: Path) -> None:
    (tmp_path / "loop").symlink_to("loop")
    assert read(tmp_path / "loop", "/a\0b") == [
        ("loop", "", "too many levels of symbolic links"),
        ("a\0b", "", "embedded null byte"),
    ]


def test_it_cannot_be_aborted() -> None:
    FileTextReader(()).abort()
