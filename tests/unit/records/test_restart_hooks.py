"""The hooks of needrestart: what they run, and that no file of others is touched."""

from __future__ import annotations

import shlex
import stat
import subprocess
from pathlib import Path

import pytest

from runbook.errors import NotBegun
from runbook.records.restart_hooks import MARKER, list_hooks, remove_hook, write_hook

UNIT = "gw@a\\x2db.service"


@pytest.fixture
def programs(tmp_path: Path) -> Path:
    """A folder with stand-ins of programs, which note their arguments in `called`."""
    folder = tmp_path / "bin"
    folder.mkdir()
    for name in ("runbook", "logger", "systemctl"):
        note = f'echo "{name} $*" >>{shlex.quote(str(tmp_path / "called"))}'
        version = '[ "$1" != --version ] || exit 0; ' if name == "runbook" else ""
        (folder / name).write_text(f"#!/bin/sh\n{version}{note}; exit $STATUS\n")
        (folder / name).chmod(0o755)
    return folder


def called(tmp_path: Path, programs: Path, status: int, program: str) -> tuple[int, list[str]]:
    hooks = tmp_path / "restart.d"
    hooks.mkdir(exist_ok=True)
    write_hook(hooks, UNIT, program, ["--fix"])
    environment = {"PATH": f"{programs}:/usr/bin:/bin", "STATUS": str(status)}
    done = subprocess.run([hooks / UNIT], env=environment, check=False, timeout=20)
    return done.returncode, (tmp_path / "called").read_text().splitlines()


@pytest.mark.parametrize("status", [0, 1, 3, 6])
def test_a_hook_restarts_its_unit(tmp_path: Path, programs: Path, status: int) -> None:
    found = called(tmp_path, programs, status, str(programs / "runbook"))
    assert found == (status, [f"runbook restart --lock-wait 10min --fix {UNIT}"])


@pytest.mark.parametrize(
    ("status", "why"),
    [
        (2, "user.err {} was not restarted: no run began (status 2)"),
        (5, "user.err {} was not restarted: no run began (status 5)"),
        (75, "user.warning {} was not restarted: another run acts on it"),
    ],
)
def test_a_run_that_did_not_begin_is_logged(tmp_path: Path, programs: Path, status: int, why: str) -> None:
    """It has no record and no entry in the journal."""
    code, (_, logged) = called(tmp_path, programs, status, str(programs / "runbook"))
    assert (code, logged) == (status, f"logger -t runbook -p {why.format(UNIT)}")


def test_a_program_that_does_not_run_is_replaced(tmp_path: Path, programs: Path) -> None:
    code, (logged, restarted) = called(tmp_path, programs, 0, "/nonexistent/runbook")
    assert (code, restarted) == (0, f"systemctl restart {UNIT}")
    assert logged.endswith(f"/nonexistent/runbook does not run, so {UNIT} is restarted without proof")


def test_a_hook_is_written_once(tmp_path: Path) -> None:
    assert write_hook(tmp_path, "a.service", "/bin/runbook", ["--fix"])
    assert not write_hook(tmp_path, "a.service", "/bin/runbook", ["--fix"])
    assert write_hook(tmp_path, "a.service", "/bin/runbook", [])
    assert stat.S_IMODE((tmp_path / "a.service").stat().st_mode) == 0o755
    assert (tmp_path / "a.service").read_text().splitlines()[1] == MARKER
    (tmp_path / "a.service").chmod(0o644)
    assert not write_hook(tmp_path, "a.service", "/bin/runbook", [])
    assert stat.S_IMODE((tmp_path / "a.service").stat().st_mode) == 0o755


def test_own_hooks_are_listed_and_removed(tmp_path: Path) -> None:
    (tmp_path / "dbus.service").write_text("#!/bin/bash\n")
    (tmp_path / ".a.service.01234567").write_text(f"#!/bin/sh\n{MARKER}\n")
    (tmp_path / "folder").mkdir()
    write_hook(tmp_path, "b.service", "/opt/my programs/runbook", [])
    write_hook(tmp_path, "a.service", "/bin/runbook", [])
    assert list(list_hooks(tmp_path)) == [("a.service", "/bin/runbook"), ("b.service", "/opt/my programs/runbook")]
    hook = tmp_path / "a.service"
    hook.write_text(hook.read_text().replace("/bin/runbook", "'/bin/runbook", 1))
    assert next(list_hooks(tmp_path)) == ("a.service", "")
    assert remove_hook(tmp_path, "a.service")
    assert not remove_hook(tmp_path, "a.service")
    assert [unit for unit, _ in list_hooks(tmp_path)] == ["b.service"]
    assert list(list_hooks(tmp_path / "none")) == []


@pytest.mark.parametrize("kind", ["file", "link", "link to a hook", "folder", "pipe"])
def test_what_this_program_did_not_write_is_left_alone(tmp_path: Path, kind: str) -> None:
    path = tmp_path / "a.service"
    match kind:
        case "file":
            path.write_text(f"#!/bin/sh\n# {MARKER}\n")
        case "link":
            path.symlink_to("/etc/passwd")
        case "link to a hook":
            write_hook(tmp_path, "b.service", "/bin/runbook", [])
            path.symlink_to("b.service")
        case "folder":
            path.mkdir()
        case "pipe":
            subprocess.run(["mkfifo", path], check=True)
    before = path.lstat()
    why = r"a\.service is not a hook of this program, so it is left as it is"
    with pytest.raises(NotBegun, match=why):
        write_hook(tmp_path, "a.service", "/x", [])
    with pytest.raises(NotBegun, match=why):
        remove_hook(tmp_path, "a.service")
    assert path.lstat() == before


def test_a_folder_that_is_missing(tmp_path: Path) -> None:
    with pytest.raises(NotBegun, match=r"cannot write .*: no such file or directory"):
        write_hook(tmp_path / "none", "a.service", "/bin/runbook", [])
