"""Which other manager has a unit, by the folders of unit files."""

from __future__ import annotations

import os
import pwd
from pathlib import Path

import pytest

from runbook.host.queries import OtherManagers, OtherManagersQuery
from runbook.host.runners import other_managers
from runbook.host.runners.other_managers import OtherManagerSearch

ALICE = 4242


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """The home folder of the only user with a manager; no folder of the real machine is searched."""
    (tmp_path / "run" / str(ALICE)).mkdir(parents=True)
    (tmp_path / "run" / "not-a-user").mkdir()
    home = tmp_path / "alice"
    account = pwd.struct_passwd(("alice", "x", ALICE, ALICE, "", str(home), "/bin/sh"))
    monkeypatch.setattr(other_managers, "RUNTIME", tmp_path / "run")
    monkeypatch.setattr(other_managers, "SYSTEM_FOLDERS", (str(tmp_path / "etc"),))
    monkeypatch.setattr(other_managers, "USER_FOLDERS", (str(tmp_path / "etc"),))
    monkeypatch.setattr(os, "geteuid", lambda: ALICE)
    monkeypatch.delenv("SUDO_UID", raising=False)

    def getpwuid(uid: int) -> pwd.struct_passwd:
        if uid != ALICE:
            raise KeyError(uid)
        return account

    monkeypatch.setattr(pwd, "getpwuid", getpwuid)
    return home


def find(name: str, *, of_user: bool = False) -> OtherManagers | None:
    return OtherManagerSearch(OtherManagersQuery(name, of_user)).run().value


def write(path: Path) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("[Service]\n")


MINE, NONE = OtherManagers(own=True), OtherManagers()


@pytest.mark.parametrize(
    "folder", [".config/systemd/user", ".local/share/systemd/user", f"../run/{ALICE}/systemd/transient", "../etc/user"]
)
def test_a_unit_of_the_caller(home: Path, folder: str) -> None:
    assert find("notes.service") == NONE
    write(home / folder / "notes.service")
    assert find("notes.service") == MINE
    assert find("notes.socket") == NONE


def test_an_instance_has_the_file_of_its_template(home: Path) -> None:
    write(home / ".config/systemd/user/many@.service")
    assert find("many@7.service") == MINE
    assert find("many.service") == NONE


def test_a_masked_unit_and_a_folder_do_not_count(home: Path) -> None:
    folder = home / ".config/systemd/user"
    folder.mkdir(parents=True)
    (folder / "notes.service").symlink_to("/dev/null")
    (folder / "web.service").mkdir()
    (folder / "gone.service").symlink_to("/nowhere")
    assert [find(f"{name}.service") for name in ("notes", "web", "gone")] == [NONE] * 3


@pytest.mark.parametrize("sudo", [False, True])
def test_root_finds_the_users_that_have_a_manager(home: Path, monkeypatch: pytest.MonkeyPatch, sudo: bool) -> None:
    write(home / ".config/systemd/user/notes.service")
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    if sudo:
        monkeypatch.setattr(other_managers, "RUNTIME", home / "none")
        monkeypatch.setenv("SUDO_UID", str(ALICE))
    assert find("notes.service") == OtherManagers(users=("alice",))


def test_a_unit_of_the_system(home: Path) -> None:
    assert find("web.service", of_user=True) == NONE
    write(home.parent / "etc/system/web.service")
    assert find("web.service", of_user=True) == OtherManagers(system=True)
    assert find("web.service") == NONE


def test_it_cannot_be_aborted() -> None:
    OtherManagerSearch(OtherManagersQuery("a.service", of_user=False)).abort()
