"""How a file is opened, and where its commands start."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from runbook.document.source import MAX_FOLLOWED_LINKS, Source, read_source
from runbook.errors import UsageError

TEXT = b"steps: [restart]\n"


@pytest.fixture
def file(tmp_path: Path) -> Path:
    made = tmp_path / "a" / "b" / "x.yaml"
    made.parent.mkdir(parents=True)
    made.write_bytes(TEXT)
    return made


@pytest.mark.parametrize("path", ["{a}/b/x.yaml", "{a}/./b//x.yaml", "{a}/b/../b/x.yaml", "/../{a}/b/x.yaml"])
def test_every_folder_on_the_way_is_noted(file: Path, path: str) -> None:
    above = file.parent.parent
    source = read_source(path.format(a=above))
    assert (source.data, source.status) == (TEXT, file.stat())
    folders = [str(folder) for folder in reversed(file.resolve().parents)]
    assert list(dict.fromkeys(entry.path for entry in source.above)) == folders


def test_a_relative_path(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(file.parent)
    assert read_source("x.yaml").folder == file.parent
    assert read_source("../b/x.yaml").data == TEXT


def test_links_are_followed_and_noted(file: Path, tmp_path: Path) -> None:
    (tmp_path / "to-folder").symlink_to("a/b")
    (tmp_path / "to-file").symlink_to(tmp_path / "to-folder" / "x.yaml")
    source = read_source(str(tmp_path / "to-file"))
    assert source.data == TEXT
    noted = [entry.path for entry in source.above]
    assert {str(tmp_path / "to-file"), str(tmp_path / "to-folder"), str(file.parent)} <= set(noted)


def test_a_circle_of_links_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "x").symlink_to("y")
    (tmp_path / "y").symlink_to("x")
    with pytest.raises(UsageError, match="too many levels of symbolic links"):
        read_source(str(tmp_path / "x"))
    assert MAX_FOLLOWED_LINKS == 40


@pytest.mark.parametrize(("name", "why"), [("x.yaml/y", "not a directory"), ("", "is a directory"), ("no", "no such")])
def test_what_cannot_be_opened(file: Path, name: str, why: str) -> None:
    with pytest.raises(UsageError, match=why):
        read_source(str(file.parent / name))


def test_a_pipe_of_the_shell_can_be_read() -> None:
    read, write = os.pipe()
    os.write(write, TEXT)
    os.close(write)
    assert read_source(f"/dev/fd/{read}").data == TEXT
    os.close(read)


def test_a_folder_that_is_replaced_meanwhile_has_no_effect(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, folder = os.open, file.parent

    def swap(path: str, *arguments: object, **named: object) -> int:
        if path == "x.yaml" and folder.exists() and not (tmp_path / "moved").exists():
            folder.rename(tmp_path / "moved")
            folder.mkdir()
            (folder / "x.yaml").write_bytes(b"evil")
        return real(path, *arguments, **named)  # type: ignore[arg-type]

    monkeypatch.setattr(os, "open", swap)
    assert read_source(str(file)).data == TEXT


def test_commands_do_not_start_in_a_sticky_folder(file: Path, tmp_path: Path) -> None:
    link = tmp_path / "y.yaml"
    link.symlink_to(file)
    assert read_source(str(file)).folder == file.parent
    assert read_source(str(link)).folder == tmp_path
    file.parent.chmod(0o1777)
    assert read_source(str(file)).folder == Path("/")
    assert read_source(str(link)).folder == Path("/")  # Its own folder is not shared, but that of the file is.


def test_below_a_sticky_folder_only_its_owner_puts_files(file: Path) -> None:
    file.parent.parent.chmod(0o1777)
    assert read_source(str(file)).folder == file.parent


def test_standard_input_has_no_folder() -> None:
    assert Source("-", TEXT, None).folder == Path("/")


def test_a_file_is_read_by_its_name_alone(file: Path) -> None:
    done = subprocess.run(["cat", str(file)], capture_output=True, check=True)
    assert read_source(str(file)).data == done.stdout
