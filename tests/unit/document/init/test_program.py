"""Which file a unit runs."""

from __future__ import annotations

from pathlib import Path

import pytest

from runbook.document.init.program import find_program, is_interpreter
from tests.unit.fake_machine import process, unit


@pytest.mark.parametrize(
    ("words", "exe", "found"),
    [
        (("/usr/sbin/nginx", "-g", "daemon on;"), "/usr/sbin/nginx", ("/usr/sbin/nginx", "/usr/sbin/nginx", "", "")),
        # The unit's command only starts the program.
        (("/usr/bin/pg_ctlcluster",), "/opt/pg/postgres", ("/usr/bin/pg_ctlcluster", "/opt/pg/postgres", "", "")),
        # A script, by its first line and by its interpreter.
        (("/opt/app/bin/app",), "/usr/bin/python3.11", ("/opt/app/bin/app", "", "/usr/bin/python3.11", "")),
        (("/usr/bin/node", "--x", "/srv/app.js"), "/usr/bin/node", ("/srv/app.js", "", "/usr/bin/node", "")),
        (("/opt/app/bin/python", "-m", "app.web"), "/usr/bin/python3.11", ("", "", "/opt/app/bin/python", "app.web")),
        (("/usr/bin/java", "-jar", "/opt/a.jar"), "", ("/opt/a.jar", "", "/usr/bin/java", "")),
        # It does not run, and has no command.
        (("/usr/sbin/nginx",), "", ("/usr/sbin/nginx", "", "", "")),
        ((), "", ("", "", "", "")),
    ],
)
def test_what_a_unit_runs(words: tuple[str, ...], exe: str, found: tuple[str, ...]) -> None:
    main = process(100, exe=exe) if exe else None
    program = find_program(unit(start_arguments=words), main)
    assert (program.named, program.exe, program.interpreter, program.module) == found


def test_a_program_that_an_upgrade_has_replaced() -> None:
    program = find_program(unit(start_arguments=("/usr/sbin/gw",)), process(100, exe="/usr/sbin/gw (deleted)"))
    assert (program.exe, program.name) == ("/usr/sbin/gw", "gw")


def test_a_server_for_an_application() -> None:
    main = process(100, exe="/usr/bin/python3.11")
    assert find_program(unit(start_arguments=("/usr/bin/gunicorn", "app:app")), main).serves_an_app
    assert find_program(unit(start_arguments=("/v/bin/python", "-m", "uvicorn", "a:a")), main).serves_an_app
    assert not find_program(unit(start_arguments=("/usr/bin/gateway",)), main).serves_an_app


@pytest.mark.parametrize("path", ["/usr/bin/python3.13", "/usr/local/bin/node", "/bin/sh", "/usr/bin/php8.2"])
def test_an_interpreter(path: str) -> None:
    assert is_interpreter(path)
    assert not is_interpreter(f"{path}-server")


def test_a_link_of_a_folder_stays_a_link_and_one_of_the_file_is_followed(tmp_path: Path) -> None:
    for path in ("1.0/bin", "1.0/lib/node_modules/gw"):
        (tmp_path / path).mkdir(parents=True)
    real = tmp_path / "1.0/lib/node_modules/gw/gw.js"
    real.touch()
    (tmp_path / "1.0/bin/gw").symlink_to("../lib/node_modules/gw/gw.js")
    (tmp_path / "current").symlink_to("1.0")
    named = f"{tmp_path}/current/bin/gw"
    program = find_program(unit(start_arguments=(named,)), process(100, exe="/usr/bin/node"))
    assert program[:2] == (named, str(real))
    assert program.target == f"{tmp_path}/current/lib/node_modules/gw/gw.js"
    assert (program.keep_links(str(real)), program.keep_links("/usr/bin/node")) == (named, "/usr/bin/node")
    # Behind a linked folder, `..` leads elsewhere.
    (tmp_path / "bin").symlink_to("1.0/bin")
    there = find_program(unit(start_arguments=(f"{tmp_path}/bin/gw",)), process(100, exe="/usr/bin/node"))
    assert there.target == str(real)


def test_links_that_lead_in_a_circle_are_left(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    assert find_program(unit(start_arguments=(f"{tmp_path}/a",)), None).named == f"{tmp_path}/a"
