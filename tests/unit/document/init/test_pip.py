"""The distribution in a virtual environment that brought a program."""

from __future__ import annotations

from typing import Any

from runbook.document.init.pip import find_environment, find_pip_package
from runbook.document.init.program import Program
from tests.unit.document.init.fakes import FakeLookup, lookup

SCRIPT = Program("/opt/app/bin/app", "/opt/app/bin/app", interpreter="/usr/bin/python3.11")
FOLDER = "/opt/app/lib/python3.11/site-packages/app_web-1.2.3.dist-info"


def environment(**changes: Any) -> FakeLookup:
    files = {
        "/opt/app/pyvenv.cfg": "home = /usr/bin\n",
        f"{FOLDER}/METADATA": "Metadata-Version: 2.1\nName: app-web\nVersion: 1.2.3\n\nVersion: 9\n",
    }
    record = "python3.11/site-packages/app_web-1.2.3.dist-info/RECORD\n"
    facts: dict[str, Any] = {"files": files, "outputs": {"grep": record}}
    return lookup(**{**facts, **changes})


def test_the_distribution_and_its_update() -> None:
    found = environment()
    package = find_pip_package(found, SCRIPT)
    assert package is not None
    assert package.run == (
        "rm -rf /opt/app/lib/python3.11/site-packages/~*",
        "/opt/app/bin/python -m pip install --no-input app-web==${{ to }}",
    )
    assert package.version == "1.2.3"
    assert package.executes == ("/opt/app/bin/python",)
    assert package.newer_than == ("/opt/app/lib/python3.11/site-packages/app_web-*.dist-info",)
    assert found.ran[0].endswith(r"sh /opt/app ^\.\./\.\./\.\./bin/app,")


def test_a_module_of_the_environments_interpreter() -> None:
    found = environment()
    program = Program(interpreter="/opt/app/bin/python", module="app.web")
    assert find_environment(found, program) == "/opt/app"
    assert find_pip_package(found, program) is not None
    assert found.ran[0].endswith("sh /opt/app ^app/")


def test_no_environment_or_no_distribution() -> None:
    assert find_environment(lookup(), SCRIPT) == ""
    assert find_pip_package(lookup(), SCRIPT) is None
    assert find_pip_package(environment(outputs={}), SCRIPT) is None
    assert find_pip_package(environment(), SCRIPT._replace(named="/opt/app/bin/a b")) is None


def test_what_was_installed_from_a_folder_is_not_fetched_from_an_index() -> None:
    found = environment()
    found.files[f"{FOLDER}/direct_url.json"] = "{}"
    assert find_pip_package(found, SCRIPT) is None
