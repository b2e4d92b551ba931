"""The addresses of the bus in each scope, and the error if no bus is there."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from runbook.errors import EXIT_NOT_BEGUN, BusUnavailable
from runbook.host.systemd import addresses
from runbook.host.systemd.addresses import Endpoint, describe_no_linger, find_endpoints, make_unavailable

PRIVATE = Endpoint("unix:path=/run/systemd/private", peer=True)


@pytest.fixture(autouse=True)
def _nowhere(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("DBUS_SYSTEM_BUS_ADDRESS", "XDG_RUNTIME_DIR", "SUDO_UID"):
        monkeypatch.delenv(name, raising=False)


def become(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)


def test_the_systems_bus_and_for_root_systemds_own_socket(monkeypatch: pytest.MonkeyPatch) -> None:
    bus = Endpoint("unix:path=/run/dbus/system_bus_socket")
    become(monkeypatch, 1000)
    assert find_endpoints("system") == (bus,)
    become(monkeypatch, 0)
    assert find_endpoints("system") == (bus, PRIVATE)


def test_a_bus_that_is_named_is_the_only_one(monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, 0)
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/elsewhere")
    assert find_endpoints("system") == (Endpoint("unix:path=/elsewhere"),)


def test_the_users_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, 4711)
    assert [e.address for e in find_endpoints("user")] == [
        "unix:path=/run/user/4711/bus",
        "unix:path=/run/user/4711/systemd/private",
    ]
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/elsewhere")
    assert find_endpoints("user")[0].address == "unix:path=/elsewhere/bus"


@pytest.mark.root
def test_root_does_not_reach_into_a_users_manager(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    os.chown(tmp_path, 4711, 4711)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    with pytest.raises(BusUnavailable) as caught:
        find_endpoints("user")
    assert caught.value.exit_status == EXIT_NOT_BEGUN
    assert caught.value.message == "cannot act on the user manager of 4711 as root"
    assert "sudo -u 4711 XDG_RUNTIME_DIR=/run/user/4711 runbook" in caught.value.hint


def test_root_through_sudo_does_not_either(monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, 0)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    monkeypatch.setenv("SUDO_UID", "4711")
    with pytest.raises(BusUnavailable, match="the user manager of 4711 as root"):
        find_endpoints("user")


def test_root_has_a_manager_of_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, 0)
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/nowhere")
    assert find_endpoints("user")[0].address == "unix:path=/nowhere/bus"


def test_root_gets_a_hint_how_to_run_it_as_the_user(monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, 0)
    error = make_unavailable("user", "there is no bus")
    assert error.message == "cannot reach the user manager of root: there is no bus"
    assert error.hint == "run it as the owner of the units: su - USER -c 'runbook …'"


@pytest.mark.root
def test_the_folder_of_another_user_is_not_used(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """`su` without a dash keeps the caller's XDG_RUNTIME_DIR."""
    os.chown(tmp_path, 4712, 4712)
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    become(monkeypatch, 4712)
    assert find_endpoints("user")[0].address == f"unix:path={tmp_path}/bus"
    become(monkeypatch, 4711)
    assert find_endpoints("user")[0].address == "unix:path=/run/user/4711/bus"
    monkeypatch.setenv("XDG_RUNTIME_DIR", "/run/user/4712")
    assert find_endpoints("user")[0].address == "unix:path=/run/user/4711/bus"


def test_a_manager_that_ends_with_the_last_login(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr(addresses, "_LINGER", tmp_path)
    name = pwd.getpwuid(os.geteuid()).pw_name
    assert f"loginctl enable-linger {name}" in describe_no_linger("user")
    assert describe_no_linger("system") == ""
    (tmp_path / name).touch()
    assert describe_no_linger("user") == ""


def test_a_user_without_linger_gets_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    become(monkeypatch, 4711)
    error = make_unavailable("user", "there is no bus")
    assert error.message == "cannot reach the user manager of 4711: there is no bus"
    assert "loginctl enable-linger 4711" in error.hint


@pytest.mark.parametrize(
    ("booted", "words", "hint"),
    [(True, "cannot reach systemd: why", "dbus.socket"), (False, "not the init of this machine", "PID 1")],
)
def test_a_container_without_systemd(monkeypatch: pytest.MonkeyPatch, booted: bool, words: str, hint: str) -> None:
    monkeypatch.setattr(Path, "is_dir", lambda _self: booted)
    error = make_unavailable("system", "why")
    assert words in error.message
    assert hint in error.hint
