"""The names of user accounts."""

from __future__ import annotations

import os
import pwd
import threading
import time
from pathlib import Path

import pytest

from runbook.host.kernel import accounts


def test_a_user_who_is_not_in_etc_passwd(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "passwd"
    file.write_text("root:x:0:0:root:/root:/bin/sh\nbroken\n+::::::\nanna:x:1000:1000::/:/bin/sh\n")
    monkeypatch.setattr(accounts, "PASSWD", file)
    assert [accounts.find_local_user_name(uid) for uid in (0, 1000, 10001)] == ["root", "anna", "UID 10001"]
    monkeypatch.setattr(accounts, "PASSWD", tmp_path / "none")
    assert accounts.find_local_user_name(0) == "UID 0"


def test_a_uid_that_is_too_long_has_no_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "passwd"
    file.write_text("anna:x:1000:1000::/:/bin/sh\nlong:x:" + "9" * 5000 + ":1::/:/bin/sh\n")
    monkeypatch.setattr(accounts, "PASSWD", file)
    assert accounts.find_local_user_name(1000) == "UID 1000"


def test_a_user_without_a_name_is_a_number() -> None:
    assert accounts.find_user_name(os.geteuid()) == pwd.getpwuid(os.geteuid()).pw_name
    assert accounts.find_user_name(3_999_999_999) == "3999999999"
    assert accounts.find_user_name(-1) == "-1"


def test_a_name_server_that_is_silent_is_not_waited_for_twice(monkeypatch: pytest.MonkeyPatch) -> None:
    answer = threading.Event()
    monkeypatch.setattr(accounts, "NAME_TIMEOUT", 0.1)
    monkeypatch.setattr(accounts, "_names", {})
    monkeypatch.setattr(accounts, "_silent", [])
    monkeypatch.setattr(
        pwd, "getpwuid", lambda uid: answer.wait() and pwd.struct_passwd(("anna", "", uid, 0, "", "", ""))
    )
    assert accounts.find_user_name(3_999_999_998) == "3999999998"
    began = time.monotonic()
    assert accounts.find_user_name(3_999_999_997) == "3999999997"
    assert time.monotonic() - began < 0.1
    (query,) = accounts._silent
    answer.set()
    query.join(10)
    assert [accounts.find_user_name(uid) for uid in (3_999_999_998, 3_999_999_997)] == ["anna", "anna"]


@pytest.mark.parametrize(
    ("login", "environ", "expected"),
    [
        ("1000", {"SUDO_USER": "mallory"}, ("anna", "loginuid")),
        ("0", {"SUDO_USER": "mallory"}, ("root", "loginuid")),
        ("4294967295", {"SUDO_USER": "bob"}, ("bob", "sudo")),
        (None, {"SUDO_USER": "bob"}, ("bob", "sudo")),
        ("4294967295", {"USER": "mallory", "LOGNAME": "mallory"}, ("root", "uid")),
    ],
)
def test_who_started_the_program(
    login: str | None,
    environ: dict[str, str],
    expected: tuple[str, str],
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    (tmp_path / "passwd").write_text("root:x:0:0:root:/root:/bin/sh\nanna:x:1000:1000::/:/bin/sh\n")
    monkeypatch.setattr(accounts, "PASSWD", tmp_path / "passwd")
    monkeypatch.setattr(accounts, "LOGIN", tmp_path / "loginuid")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    if login is not None:
        (tmp_path / "loginuid").write_text(login)
    found = accounts.find_operator(environ)
    assert (found.name, found.source) == expected


def test_a_user_without_privileges_cannot_be_another_by_a_variable(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    (tmp_path / "passwd").write_text("anna:x:1000:1000::/:/bin/sh\n")
    monkeypatch.setattr(accounts, "PASSWD", tmp_path / "passwd")
    monkeypatch.setattr(accounts, "LOGIN", tmp_path / "none")
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    assert accounts.find_operator({"SUDO_USER": "root"}) == accounts.Operator("anna", "uid")
