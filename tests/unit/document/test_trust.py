"""Which users root trusts to write what it runs: real files and folders, with given user ids."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from runbook.document.source import Source, read_source
from runbook.document.trust import find_distrust

OTHER_USER = 65534

pytestmark = pytest.mark.root


@pytest.fixture
def file(tmp_path: Path) -> Path:
    """A file of root's, in a folder of root's."""
    folder = tmp_path / "runbooks"
    folder.mkdir(0o755)
    made = folder / "x.yaml"
    made.write_text("steps: [restart]\n")
    made.chmod(0o644)
    return made


def asked(file: Path, *, euid: int = 0, sudo_uid: int | None = None) -> str:
    return find_distrust(read_source(str(file)), euid=euid, sudo_uid=sudo_uid)


def test_a_file_of_root_is_trusted(file: Path) -> None:
    assert asked(file) == ""


@pytest.mark.parametrize(("mode", "who"), [(0o666, "every user"), (0o646, "every user")])
def test_a_file_that_others_can_write_is_not_trusted(file: Path, mode: int, who: str) -> None:
    file.chmod(mode)
    assert who in asked(file)


def test_the_owner_s_own_group_may_write(file: Path) -> None:
    file.chmod(0o664)
    assert asked(file) == ""  # root's own group
    os.chown(file, 0, OTHER_USER)
    assert "is writable by the group" in asked(file)


def test_a_file_of_another_user_is_trusted_only_if_that_user_is_behind_sudo(file: Path) -> None:
    os.chown(file, OTHER_USER, 0)
    file.chmod(0o644)
    assert "belongs to nobody" in asked(file)
    assert asked(file, sudo_uid=OTHER_USER) == ""


def test_the_folder_is_checked_like_the_file(file: Path) -> None:
    file.parent.chmod(0o777)
    assert f"its folder {file.parent} is writable by every user" in asked(file)
    file.parent.chmod(0o1777)
    assert asked(file) == ""


def test_the_folder_of_a_link_is_checked_too(file: Path, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    loose.mkdir()
    loose.chmod(0o777)
    link = loose / "y.yaml"
    link.symlink_to(file)
    assert f"its folder {loose}" in asked(link)


def test_other_users_may_run_any_file(file: Path) -> None:
    file.chmod(0o666)
    assert asked(file, euid=1000) == ""


@pytest.mark.parametrize("levels", [1, 2, 3])
def test_every_folder_above_is_checked(tmp_path: Path, levels: int) -> None:
    folders = [tmp_path / "a", tmp_path / "a" / "b", tmp_path / "a" / "b" / "c"]
    for folder in folders:
        folder.mkdir()
        folder.chmod(0o755)
    made = folders[-1] / "x.yaml"
    made.write_text("steps: [restart]\n")
    loose = folders[-levels]
    assert asked(made) == ""
    loose.chmod(0o777)
    assert asked(made) == f"its folder {loose} is writable by every user"
    loose.chmod(0o775)
    os.chown(loose, 0, OTHER_USER)
    assert "is writable by the group" in asked(made)
    loose.chmod(0o755)
    os.chown(loose, OTHER_USER, 0)
    assert asked(made).startswith(f"its folder {loose} belongs to nobody")
    assert asked(made, sudo_uid=OTHER_USER) == ""


def test_the_folders_that_a_link_leads_through_are_checked(file: Path, tmp_path: Path) -> None:
    loose = tmp_path / "loose"
    (loose / "deep").mkdir(parents=True)
    target = loose / "deep" / "x.yaml"
    file.rename(target)
    file.symlink_to(f"../{loose.name}/deep/x.yaml")
    assert asked(file) == ""
    loose.chmod(0o777)
    assert asked(file) == f"its folder {loose} is writable by every user"


def test_a_link_of_another_user_in_a_sticky_folder_is_not_trusted(file: Path, tmp_path: Path) -> None:
    sticky = tmp_path / "sticky"
    sticky.mkdir()
    sticky.chmod(0o1777)
    link = sticky / "y.yaml"
    link.symlink_to(file)
    assert asked(link) == ""
    os.chown(link, OTHER_USER, 0, follow_symlinks=False)
    assert asked(link).startswith(f"the link {link} belongs to nobody")


def test_a_sticky_folder_of_another_user_is_not_trusted(file: Path) -> None:
    file.parent.chmod(0o1777)
    os.chown(file.parent, OTHER_USER, 0)
    assert "belongs to nobody" in asked(file)


def test_standard_input_is_the_caller_s() -> None:
    assert find_distrust(Source("-", b"", None), euid=0, sudo_uid=None) == ""
