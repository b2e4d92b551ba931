"""The names of users."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from runbook.host.kernel import accounts


def test_a_user_whom_a_name_server_would_have_to_name(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "passwd"
    file.write_text("root:x:0:0:root:/root:/bin/sh\nbroken\n+::::::\nanna:x:1000:1000::/:/bin/sh\n")
    monkeypatch.setattr(accounts, "USERS", file)
    assert [accounts.listed(uid) for uid in (0, 1000, 10001)] == ["root", "anna", "UID 10001"]
    monkeypatch.setattr(accounts, "USERS", tmp_path / "none")
    assert accounts.listed(0) == "UID 0"


def test_a_number_that_is_too_long_is_nobodys(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    file = tmp_path / "passwd"
    file.write_text("anna:x:1000:1000::/:/bin/sh\nlong:x:" + "9" * 5000 + ":1::/:/bin/sh\n")
    monkeypatch.setattr(accounts, "USERS", file)
    assert accounts.listed(1000) == "UID 1000"


def test_a_user_without_a_name_is_a_number() -> None:
    assert accounts.name_of(os.geteuid()) == pwd.getpwuid(os.geteuid()).pw_name
    assert accounts.name_of(3_999_999_999) == "3999999999"
    assert accounts.name_of(-1) == "-1"
