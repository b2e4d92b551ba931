"""A tree in the cache is complete, or does not exist."""

from __future__ import annotations

import fcntl
import os
import subprocess
import sys
from pathlib import Path

import pytest

from tests.machine.machine import until
from tests.machine.tree import CHECKOUT, Recipe, locked


@pytest.mark.parametrize(
    ("old", "new", "same"),
    [
        ('"tenacity>=8.2"', '"tenacity>=9.0"', False),
        ('runbook = "runbook.cli:main"', 'runbook = "runbook.other:main"', False),
        ("timeout = 120", "timeout = 121", True),
    ],
)
def test_the_key_depends_on_the_content_of_the_tree(tmp_path: Path, old: str, new: str, same: bool) -> None:
    before = (CHECKOUT / "pyproject.toml").read_text()
    assert old in before
    (tmp_path / "pyproject.toml").write_text(before.replace(old, new))
    changed = Recipe.of("bookworm", pyproject=tmp_path / "pyproject.toml")
    assert (changed.key == Recipe.of("bookworm").key) is same
    assert changed.key != Recipe.of("trixie", pyproject=tmp_path / "pyproject.toml").key


def test_a_build_that_is_killed_leaves_no_tree_no_mount_and_no_process(tmp_path: Path) -> None:
    builder = subprocess.Popen(
        [sys.executable, "-m", "tests.machine.tree", "bookworm"],
        cwd=CHECKOUT,
        env={**os.environ, "XDG_CACHE_HOME": str(tmp_path)},
        stderr=subprocess.DEVNULL,
    )
    trees, key = tmp_path / "runbook/trees", Recipe.of("bookworm").key
    until(lambda: list(trees.glob(f"{key}.partial/root/*")), "the build to have begun", 30)
    builder.kill()
    builder.wait()

    # Its children hold the lock until the last one has exited.
    def free() -> bool:
        with (trees / f".{key}.lock").open() as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
        return True

    until(free, "the build's processes to be gone")
    assert not (trees / key).exists()
    assert str(tmp_path) not in Path("/proc/self/mountinfo").read_text()


def test_the_lock_is_exclusive(tmp_path: Path) -> None:
    with locked(tmp_path / "lock"), (tmp_path / "lock").open() as other, pytest.raises(BlockingIOError):
        fcntl.flock(other, fcntl.LOCK_EX | fcntl.LOCK_NB)
