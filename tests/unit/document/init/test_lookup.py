"""Queries that are answered one after the other, and files that root must not run."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runbook.document.init.lookup import Lookup, find_danger
from runbook.host.queries import Answer, FileText, TcpProbe
from tests.unit.document.init.fakes import gateway


def test_a_command_is_waited_for() -> None:
    machine = gateway()
    machine.slow = 3.0
    machine.answers["dpkg-query -W"] = [Answer(True, "exited with status 0", "nginx\n")]
    assert Lookup(machine, machine).run("dpkg-query", "-W") == "nginx\n"


def test_what_a_failed_command_printed_does_not_count() -> None:
    machine = gateway()
    machine.answers["dpkg-query -W"] = [Answer(False, "exited with status 1", "nginx\n")]
    assert Lookup(machine, machine).run("dpkg-query", "-W") == ""


def test_a_query_without_an_answer_ends() -> None:
    machine = gateway()
    machine.slow = 60.0
    machine.answers["tcp 127.0.0.1:80"] = [Answer(True, "connected", "")]
    answer = Lookup(machine, machine).query(TcpProbe("127.0.0.1", 80), 2.0)
    assert (answer.ok, answer.detail) == (False, "no answer in time")


def test_a_small_file() -> None:
    machine = gateway()
    machine.files["/etc/app"] = FileText("/etc/app", "text", uid=os.geteuid())
    machine.files["/etc/other"] = FileText("/etc/other", "text", uid=64000)
    lookup = Lookup(machine, machine)
    assert (lookup.read("/etc/app"), lookup.read("/etc/none")) == ("text", "")
    assert lookup.find_other_owner("/etc/app") == lookup.find_other_owner("/etc/none") == ""
    assert lookup.find_other_owner("/etc/other") == "64000"


def test_root_runs_only_what_no_other_user_can_write(tmp_path: Path) -> None:
    program = tmp_path / "app"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o777)
    assert "writable" in find_danger(str(program)) or "belongs to" in find_danger(str(program))
    assert find_danger(str(tmp_path / "none")).endswith("no such file or directory")
    if os.geteuid() == 0:
        assert find_danger("/usr/bin/env") == ""


def test_a_link_of_root_to_a_file_of_another_user(tmp_path: Path) -> None:
    theirs, link = tmp_path / "python3", tmp_path / "python"
    theirs.write_text("")
    theirs.chmod(0o777)
    link.symlink_to(theirs)
    assert find_danger(str(link))


@pytest.mark.parametrize("path", ["", "/nowhere"])
def test_a_path_that_is_none(path: str) -> None:
    assert find_danger(path)
