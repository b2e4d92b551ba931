"""Where the log of a unit is, and the command that shows it."""

from __future__ import annotations

from typing import Any

import pytest

from runbook.checks.log_files import describe_discarded, describe_log_command
from runbook.host.queries import FileText
from tests.unit.fake_machine import FakeMachine, unit

FILE, DROP_IN = "/etc/systemd/system/gw.service", "/etc/systemd/system/gw.service.d/log.conf"
JOURNAL = "journalctl -u gw.service -n 30"
APPENDS = {"standard_output": "append", "standard_error": "inherit", "fragment_path": FILE}
TO_JOURNAL = {"standard_output": "journal", "standard_error": "inherit"}


def command(facts: dict[str, Any], *texts: str, logs: tuple[str, ...] = (), follow: bool = False) -> str:
    files = {path: FileText(path, text) for path, text in zip((FILE, DROP_IN), texts, strict=False)}
    return describe_log_command(FakeMachine(files=files, open_logs=logs), unit(**facts), follow=follow)


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("[Service]\nStandardOutput=append:/var/log/gw.log\n", "tail -n 30 /var/log/gw.log"),
        ("StandardOutput = truncate:/var/log/%N/a b.log", "tail -n 30 '/var/log/gw/a b.log'"),
        ("StandardOutput=file:/a.log\nStandardError=file:/b.log", "tail -n 30 /a.log /b.log"),
        ("StandardOutput=file:%L/%n", "tail -n 30 /var/log/gw.service"),
        ("StandardOutput=file:%h/x", "tail -n 30 /root/x"),
        ("StandardOutput=file:%U/x", "the file of StandardOutput= in systemctl cat gw.service"),
        ("", "the file of StandardOutput= in systemctl cat gw.service"),
    ],
)
def test_a_file_by_the_settings(text: str, shown: str) -> None:
    assert command(APPENDS, text) == shown


def test_a_drop_in_replaces_the_setting() -> None:
    facts = {**APPENDS, "drop_in_paths": (DROP_IN,)}
    assert command(facts, "StandardOutput=file:/a.log", "StandardOutput=append:/b.log") == "tail -n 30 /b.log"


def test_only_one_of_both_goes_to_a_file() -> None:
    facts = {**APPENDS, "standard_error": "journal"}
    assert command(facts, "StandardOutput=file:/a.log") == f"{JOURNAL} or tail -n 30 /a.log"


def test_files_that_the_service_itself_opens() -> None:
    assert command(TO_JOURNAL, logs=("/var/log/access.log", "/var/log/error.log")) == (
        f"{JOURNAL} or tail -n 30 /var/log/error.log /var/log/access.log"
    )


def test_a_file_that_its_command_names() -> None:
    words = ("/usr/bin/gw", "--log-file=/var/log/gw.log", "--data=/var/lib/gw", "--logs=/var/log/gw")
    assert command({**TO_JOURNAL, "start_arguments": words}) == f"{JOURNAL} or tail -n 30 /var/log/gw.log"
    script = ("/bin/sh", "-c", "exec gw >>/srv/gw.log 2>&1")
    assert command({**TO_JOURNAL, "start_arguments": script}) == f"{JOURNAL} or tail -n 30 /srv/gw.log"


def test_a_folder_for_logs() -> None:
    facts = {**TO_JOURNAL, "logs_directory": ("gw",)}
    assert command(facts) == f"{JOURNAL} or the newest file in /var/log/gw"


def test_the_home_folder_of_a_user(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/alice")
    text = "StandardOutput=append:%h/gw.log"
    assert command({**APPENDS, "of_user": True}, text) == "tail -n 30 /home/alice/gw.log"
    assert command({**APPENDS, "of_user": True}, "StandardOutput=append:%t/x").endswith(
        "systemctl --user cat gw.service"
    )


@pytest.mark.parametrize("follow", [False, True])
def test_a_journal_of_its_own(follow: bool) -> None:
    facts = {**TO_JOURNAL, "log_namespace": "gw", "of_user": True}
    how = "-f" if follow else "-n 30"
    assert command(facts, follow=follow) == f"journalctl --user --namespace=gw -u gw.service {how}"
    assert command(APPENDS, "StandardOutput=file:/a.log", follow=follow) == f"tail {how} /a.log"


@pytest.mark.parametrize(
    ("out", "error", "is_discarded"),
    [("null", "inherit", True), ("null", "null", True), ("null", "journal", False), ("journal", "inherit", False)],
)
def test_what_is_discarded(out: str, error: str, is_discarded: bool) -> None:
    said = describe_discarded(unit(standard_output=out, standard_error=error))
    assert said.startswith("; what it prints is discarded (StandardOutput=null)") is is_discarded
