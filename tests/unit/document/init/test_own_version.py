"""The version that a program prints itself, and which programs are not asked."""

from __future__ import annotations

import os

import pytest

from runbook.document.init import own_version
from runbook.document.init.own_version import find_own_version
from runbook.document.init.program import Program
from tests.unit.document.init.fakes import FakeLookup, lookup

APP = Program("/usr/local/bin/app", "/opt/app/1.4.2/app")


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> FakeLookup:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(own_version, "find_danger", lambda path: "")
    return lookup(outputs={"--version": "app 1.4.2 (linux)\n"})


def test_it_runs_alone_and_without_rights(asked: FakeLookup) -> None:
    assert find_own_version(asked, APP) == ("1.4.2", "")
    [command] = asked.ran
    assert command.startswith("unshare --net --ipc --pid")
    assert "--reuid=65534" in command
    assert command.endswith("-- /usr/local/bin/app --version")


def test_a_server_that_begins_to_log_prints_no_version(asked: FakeLookup) -> None:
    asked.outputs["--version"] = "1.2.3\n" * 1000
    assert find_own_version(asked, APP) == ("", "")


def test_a_program_that_another_user_can_write_is_not_run(asked: FakeLookup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(own_version, "find_danger", lambda path: f"{path} is writable by every user")
    assert find_own_version(asked, APP) == (
        "",
        "/usr/local/bin/app --version was not tried, because /usr/local/bin/app is writable by every user",
    )
    assert asked.ran == []


def test_only_root_runs_it_without_rights(asked: FakeLookup, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    version, why = find_own_version(asked, APP)
    assert (version, asked.ran) == ("", [])
    assert "only root" in why


@pytest.mark.parametrize("path", ["", "/usr/bin/python3", "/opt/my app", "/opt/${{ x }}"])
def test_programs_that_are_not_asked(asked: FakeLookup, path: str) -> None:
    assert find_own_version(asked, Program(path, path)) == ("", "")
    assert asked.ran == []
