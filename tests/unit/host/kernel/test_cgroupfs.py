"""Reading cgroups: real ones, and folders that look like them."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest

from runbook.errors import LookLimitExceeded
from runbook.host.kernel import cgroupfs
from runbook.host.kernel.cgroupfs import list_cgroup_pids
from runbook.host.kernel.look_limit import LookLimit
from runbook.host.kernel.processes import read_cgroup, read_process

from .family import Family

ROOT = pytest.mark.root


@ROOT
def test_the_processes_of_a_cgroup_and_below(family: Family) -> None:
    group = cgroupfs.find_cgroup_mount() / f"runbook-test-{os.getpid()}.slice"
    (group / "below").mkdir(parents=True)
    one, other = sorted((family.bear(), family.bear()))
    try:
        (group / "cgroup.procs").write_text(str(one))
        (group / "below" / "cgroup.procs").write_text(str(other))
        assert list_cgroup_pids(f"/{group.name}") == (one, other)
        assert list_cgroup_pids(f"/{group.name}/below") == (other,)
        seen = read_process(other)
        assert seen is not None
        assert seen.cgroup == read_cgroup(other) == f"/{group.name}/below"
        number = group.stat().st_ino
        assert cgroupfs.find_cgroup(number, LookLimit()) == f"/{group.name}"
        assert cgroupfs.is_inside(f"/{group.name}/below", number)
        assert not cgroupfs.is_inside(f"/{group.name}", (group / "below").stat().st_ino)
    finally:
        family.end(one)
        family.end(other)
        (group / "below").rmdir()
        group.rmdir()
    assert list_cgroup_pids(f"/{group.name}") == ()
    assert cgroupfs.find_cgroup(number, LookLimit()) == ""


@pytest.mark.parametrize(
    ("files", "mount"),
    [
        (["cgroup.controllers"], ""),
        (["unified/cgroup.controllers", "systemd/cgroup.procs"], "unified"),
        (["systemd/cgroup.controllers"], "systemd"),
        (["systemd/cgroup.procs"], "systemd"),
    ],
)
def test_the_mount_is_found_by_systemd_s_rules(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, files: list[str], mount: str
) -> None:
    for file in files:
        (tmp_path / file).parent.mkdir(exist_ok=True)
        (tmp_path / file).touch()
    monkeypatch.setattr(cgroupfs, "CGROUP_ROOT", tmp_path)
    assert cgroupfs.find_cgroup_mount.__wrapped__() == tmp_path / mount


def test_thousands_of_cgroups_in_one_another(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """os.walk() would call itself for each."""
    folder = tmp_path
    for _ in range(1500):
        folder /= "a"
    monkeypatch.setattr(cgroupfs, "find_cgroup_mount", lambda: tmp_path)
    here = os.open(tmp_path, os.O_RDONLY)
    for depth in range(1500):
        os.mkdir("a", dir_fd=here)
        here, above = os.open("a", os.O_RDONLY, dir_fd=here), here
        os.close(above)
        if depth == 1499:
            os.close(os.open("cgroup.procs", os.O_WRONLY | os.O_CREAT, dir_fd=here))
    os.close(here)
    (folder / "cgroup.procs").write_text("74\n75\n0\n")
    assert cgroupfs.read_cgroup_procs("/") == (0, 74, 75)
    assert list_cgroup_pids("/a") == (74, 75)
    with pytest.raises(LookLimitExceeded):
        cgroupfs.read_cgroup_procs("/", LookLimit(0))
    subprocess.run(["rm", "-rf", tmp_path / "a"], check=True)
