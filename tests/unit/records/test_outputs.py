"""Secrets in what commands printed."""

from __future__ import annotations

from pathlib import Path

import pytest

from runbook.events import Event
from runbook.records import outputs
from runbook.records.outputs import OutputMasker, read_last_lines
from runbook.util.secrets import SecretMask
from tests.unit.recorded import acting, ended, finished


def mask(folder: Path, *secrets: str) -> OutputMasker:
    return OutputMasker(folder, SecretMask(secrets).forms)


def test_a_secret_is_starred_where_it_stands(tmp_path: Path) -> None:
    file = tmp_path / "update.log"
    file.write_bytes(b"token=s3cret!\nand s3cret!s3cret!\n\xff\n")
    mask(tmp_path, "s3cret!").mask_all()
    assert file.read_bytes() == b"token=*******\nand **************\n\xff\n"


@pytest.mark.parametrize("at", range(20))
def test_one_that_lies_across_two_pieces_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    monkeypatch.setattr(outputs, "CHUNK", 8)
    file = tmp_path / "run.log"
    file.write_text("-" * at + "s3cret!" + "-" * (30 - at))
    mask(tmp_path, "s3cret!", "abc").mask_all()
    assert "s3cret!" not in file.read_text()
    assert len(file.read_text()) == 37


def test_the_longest_comes_first(tmp_path: Path) -> None:
    file = tmp_path / "run.log"
    file.write_text("abcdef abc")
    mask(tmp_path, "abc", "abcdef").mask_all()
    assert file.read_text() == "****** ***"


def test_it_comes_with_the_end_of_a_step_and_the_end_of_the_run(tmp_path: Path) -> None:
    names = ["a.log", "a.log.1", "b.log"]
    for name in names:
        (tmp_path / name).write_text("s3cret!")
    sink = mask(tmp_path, "s3cret!")
    sink(Event(0, "", *acting("b")))
    sink(Event(0, "", *finished("a")))
    assert [(tmp_path / name).read_text() for name in names] == ["*******", "*******", "s3cret!"]
    sink(Event(0, "", *ended()))
    assert (tmp_path / "b.log").read_text() == "*******"


def test_neither_links_nor_what_is_given_to_a_command_is_touched(tmp_path: Path) -> None:
    outside = tmp_path / "outside"
    outside.write_text("s3cret!")
    folder = tmp_path / "output"
    folder.mkdir()
    (folder / "a.log").symlink_to(outside)
    (folder / "a.log.start").write_text("s3cret!")
    mask(folder, "s3cret!").mask_all()
    assert outside.read_text() == (folder / "a.log.start").read_text() == "s3cret!"
    assert outputs.list_output_files(tmp_path / "nowhere") == []


def test_without_secrets_nothing_is_opened(tmp_path: Path) -> None:
    (tmp_path / "a.log").write_text("")
    mask(tmp_path).mask_all()
    assert (tmp_path / "a.log").read_text() == ""


@pytest.mark.parametrize("event", ["run-finished", "run-abandoned", "run-superseded"])
@pytest.mark.parametrize("secrets", [(), ("s3cret!",)])
def test_what_a_command_was_given_and_a_power_cut_left_goes_at_the_end(
    tmp_path: Path, event: str, secrets: tuple[str, ...]
) -> None:
    names = ["a.log", "a.log.result", "a.log.script", "a.log.start", "a.log.unit"]
    for name in names:
        (tmp_path / name).write_text("")
    mask(tmp_path, *secrets)(Event(0, "", *finished("a")))
    assert sorted(path.name for path in tmp_path.iterdir()) == names
    mask(tmp_path, *secrets)(Event(0, "", event))
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.log", "a.log.result", "a.log.unit"]


@pytest.mark.parametrize(
    ("written", "shown"),
    [
        (b"one\n\ntwo\n three", ["one", "two", " three"]),
        (b"".join(b"%d\n" % number for number in range(5000)), ["4997", "4998", "4999"]),
        (b"  1 %\r 50 %\r100 %\r\ndone\n", ["100 %", "done"]),
        (b"\x1b[1;31mred\x1b[0m \x1b]0;title\x07and\n", ["red and"]),
        (b"50 %\r" * 2000, ["50 %"]),
        (b"x" * 5000, []),
        (b"\xff\n", ["\N{REPLACEMENT CHARACTER}"]),
        (b"", []),
    ],
)
def test_the_last_lines_of_a_command_that_runs(tmp_path: Path, written: bytes, shown: list[str]) -> None:
    (tmp_path / "update.log").write_bytes(written)
    assert read_last_lines(str(tmp_path / "update.log"), 3) == shown


def test_secrets_in_the_last_lines_are_masked_and_half_a_line_is_left_out(tmp_path: Path) -> None:
    (tmp_path / "update.log").write_text("token geheim\nagain geh")
    assert read_last_lines(str(tmp_path / "update.log"), 3, SecretMask(("geheim",)).mask) == ["token ***"]


def test_no_line_is_read_through_a_link_or_of_nothing(tmp_path: Path) -> None:
    (tmp_path / "link").symlink_to("/etc/passwd")
    assert read_last_lines(str(tmp_path / "link"), 3) == read_last_lines(str(tmp_path / "none"), 3) == []
