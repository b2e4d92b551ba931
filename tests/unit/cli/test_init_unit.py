"""`runbook init`: its output, the file that it writes, and its exit status."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from runbook import errors
from runbook.cli import init_unit
from runbook.document import parse
from runbook.host.queries import Answer
from tests.unit.cli.invoke import failure, runbook
from tests.unit.document.init.fakes import gateway
from tests.unit.fake_machine import FakeMachine, listen

pytestmark = pytest.mark.usefixtures("home")


@pytest.fixture(autouse=True)
def machine(monkeypatch: pytest.MonkeyPatch) -> FakeMachine:
    """Replace this machine by one with gw.service, whose commands all fail."""
    fake = gateway()
    listen(fake, 100, "0.0.0.0:25")

    class Answers(dict):  # type: ignore[type-arg]
        def __missing__(self, key: str) -> list[object]:
            return [Answer(False, "exited with status 1")]

    fake.answers = Answers()

    @contextlib.contextmanager
    def open_view(scope: str) -> Iterator[FakeMachine]:
        yield fake

    monkeypatch.setattr(init_unit, "open_view", open_view)
    return fake


def test_the_runbook_is_the_only_output() -> None:
    result = runbook("init", "gw")
    book = parse(result.stdout)
    assert (book.unit, result.exit_code) == ("gw.service", 0)
    assert "to be completed: line" in result.stderr
    assert "init gw.service --write gw.yaml" in result.stderr


def test_a_new_file_is_written_as_a_whole(tmp_path: Path) -> None:
    file = tmp_path / "gw.yaml"
    result = runbook("init", "--port", "8080", "gw", "--write", str(file))
    assert (result.exit_code, result.stdout) == (0, "")
    assert f"{file} is written" in result.stderr
    assert "apply --dry-run" in result.stderr
    assert parse(file.read_bytes()).unit == "gw.service"
    assert (file.stat().st_mode & 0o777, list(tmp_path.iterdir())) == (0o644, [file])


@pytest.mark.parametrize("kind", ["file", "link"])
def test_an_existing_file_is_never_replaced(tmp_path: Path, kind: str) -> None:
    file = tmp_path / "gw.yaml"
    if kind == "file":
        file.write_text("mine")
    else:
        file.symlink_to(tmp_path / "nowhere")
    error = failure("init", "gw", "--write", str(file))
    assert (error.exit_status, "it exists already" in error.message) == (5, True)
    assert kind == "link" or file.read_text() == "mine"


def test_a_file_that_comes_meanwhile_is_not_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "gw.yaml"

    def link(source: str, target: Path) -> None:
        target.write_text("mine")
        raise FileExistsError

    monkeypatch.setattr(os, "link", link)
    error = failure("init", "gw", "--write", str(file))
    assert (error.exit_status, file.read_text(), len(list(tmp_path.iterdir()))) == (5, "mine", 1)


def test_a_folder_that_does_not_exist(tmp_path: Path) -> None:
    error = failure("init", "gw", "--write", str(tmp_path / "none" / "gw.yaml"))
    assert (error.exit_status, "no such file or directory" in error.message) == (5, True)


def test_a_name_that_is_none() -> None:
    assert failure("init", "gw.sevice").exit_status == 2
    assert failure("init", "gw", "--port", "x").exit_status == 2
    assert failure("init", "gx").exit_status == 5


def test_a_machine_that_cannot_be_read(machine: FakeMachine, monkeypatch: pytest.MonkeyPatch) -> None:
    def unit(name: str, **_: object) -> None:
        raise errors.HostError("systemd does not answer")

    monkeypatch.setattr(machine, "unit", unit)
    assert failure("init", "gw").exit_status == 5
