"""JUnit XML in the hands of others: the schema of Jenkins, and two parsers, of Python and of Node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import junitparser
import pytest
import xmlschema

from tests.unit.recorded import STARTED, acting, ended, finished
from tests.unit.report.test_junit import FIXED, NOT_BEGUN, ODD, REACHED_ONE, Named, report_of

ROOT = Path(__file__).parent.parent
SCHEMA = Path(sys.prefix) / "junit-10.xsd"
RUNS: Mapping[str, Sequence[Named]] = {
    "passed": (STARTED, acting("a"), finished("a"), ended()),
    "fixed": FIXED,
    "failed": REACHED_ONE,
    "not begun": NOT_BEGUN,
    "cut short": (STARTED, acting("a")),
    "odd characters": ODD,
}


@pytest.fixture(params=list(RUNS.values()), ids=list(RUNS))
def file(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    written = tmp_path / "junit.xml"
    written.write_bytes(report_of(*request.param))
    return written


def read_with_node(file: Path) -> dict[str, Any]:
    script, modules = ROOT / "tests/validators/junit.cjs", Path(sys.prefix) / "node" / "node_modules"
    env = {**os.environ, "NODE_PATH": str(modules)}
    done = subprocess.run(["node", script, file], capture_output=True, text=True, check=True, env=env)
    found: dict[str, Any] = json.loads(done.stdout)
    return found


def test_it_fits_the_schema_of_jenkins(file: Path) -> None:
    assert SCHEMA.is_file(), "`make setup` fetches the schema"
    xmlschema.XMLSchema(str(SCHEMA)).validate(str(file))


def test_two_parsers_read_the_same_counts(file: Path) -> None:
    (of_python,) = junitparser.JUnitXml.fromfile(str(file))
    (of_node,) = read_with_node(file)["testsuite"]
    kinds = ("tests", "failures", "errors", "skipped")
    assert [getattr(of_python, kind) for kind in kinds] == [of_node[kind] for kind in kinds]
    cases = [case.name for case in of_python]
    assert [case["name"] for case in of_node["testcase"]] == cases
    assert len(cases) == of_python.tests


def test_what_failed_is_read_with_its_verdict_and_sentence(tmp_path: Path) -> None:
    file = tmp_path / "junit.xml"
    file.write_bytes(report_of(*REACHED_ONE))
    (suite,) = junitparser.JUnitXml.fromfile(str(file))
    failed, skipped = list(suite)
    assert [(one.type, one.message) for one in failed.result] == [("port-not-owned", "port 80 is <not> owned")]
    assert isinstance(skipped.result[0], junitparser.Skipped)
    (of_node,) = read_with_node(file)["testsuite"]
    assert of_node["testcase"][0]["failure"][0]["message"] == "port 80 is <not> owned"
