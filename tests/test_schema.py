"""The JSON Schema in the hands of validators that editors and CI use: jsonschema, check-jsonschema, and ajv of Node."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable, Sequence
from pathlib import Path

import jsonschema
import pytest
import yaml

from runbook.document.reference import make_schema
from tests.test_docs import blocks, name_of, whole

ROOT = Path(__file__).parent.parent
SCRIPT = ROOT / "tests" / "validators" / "validate.cjs"
NODE_MODULES = Path(sys.prefix) / "node" / "node_modules"

EVERYTHING = """\
format: 1
name: 2026
unit: gw
scope: system
port: [18789, "udp:53", "[::1]:80"]
vars: {version: 1.10, flag: true, list: [a, 2]}
env: {A: 1, B: "${{ vars.version }}", C: false}
secrets: TOKEN
timeout: 600
steps:
  - stop:
  - update:
      run: [npm, install, 3]
      version: app
      to: 1.10
      pattern: '(?P<x>\\d+)${{ vars.version }}(?i:x)'
      stop-first: yes
  - start
  - wait-ready:
      healthy-for: ${{ vars.version }}
      max-restarts: "1"
      retries: 2
      backoff: 1.5
      when: true
      probes:
        - http: {url: "http://127.0.0.1/", status: [200, 204], body: "${{ vars.version }}", headers: {A: 1}}
        - tcp: {port: 80, timeout: 1.5}
  - kill-orphan: {signal: TERM, expect: {user: 0, command: "^a{${{ vars.version }}}"}}
  - verify-version: {run: app, expect: 2, newer-than: [/a, /b]}
rollback: off
always:
  - run: {run: x, read-only: "${{ vars.flag }}"}
"""

WRONG = [
    "unit: gw\n",
    "unit: gw\nsteps: []\n",
    "unit: gw\nsteps: [restrat]\n",
    "unit: gw\nsteps: [restart: {retry: 1}]\n",
    "unit: gw\nsteps: [{restart: {}, stop: {}}]\n",
    "unit: gw\nsteps: [update: {run: x}]\n",
    "unit: gw\nsteps: [run]\n",
    "unti: gw\nsteps: [restart]\n",
    "unit: gw\nrollback: maybe\nsteps: [restart]\n",
    "unit: gw\nport: 70000\nsteps: [restart]\n",
    "unit: gw\nsteps: [wait-ready: {probes: [http: {}]}]\n",
    "unit: gw\nsteps: [kill-orphan: {signal: WINCH}]\n",
]

Validator = Callable[[Path, Sequence[Path]], set[Path]]  # gets the schema and files, and returns the wrong ones


def by_jsonschema(schema: Path, files: Sequence[Path]) -> set[Path]:
    """Read YAML 1.1, where `off` is a boolean."""
    found = jsonschema.Draft202012Validator(
        json.loads(schema.read_text()), format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    return {file for file in files if not found.is_valid(yaml.safe_load(file.read_text()))}


def by_check_jsonschema(schema: Path, files: Sequence[Path]) -> set[Path]:
    program = Path(sys.executable).parent / "check-jsonschema"
    argv = [str(word) for word in (program, "--schemafile", schema, "--output-format", "json", *files)]
    done = subprocess.run(argv, capture_output=True, text=True, timeout=100, check=False)
    report = json.loads(done.stdout)
    assert not report.get("parse_errors"), report
    return {Path(error["filename"]) for error in report.get("errors", [])}


def by_ajv(schema: Path, files: Sequence[Path]) -> set[Path]:
    assert NODE_MODULES.is_dir(), "`make setup` installs the validators of Node"
    done = subprocess.run(
        ["node", SCRIPT, schema, *files],
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
        env={**os.environ, "NODE_PATH": str(NODE_MODULES)},
    )
    assert (done.returncode, done.stderr) == (0, ""), done.stderr
    return {Path(line.partition(": ")[0]) for line in done.stdout.splitlines()}


@pytest.fixture(scope="module")
def schema(tmp_path_factory: pytest.TempPathFactory) -> Path:
    made = tmp_path_factory.mktemp("schema") / "schema.json"
    made.write_text(json.dumps(make_schema()))
    return made


def written(texts: Sequence[str], folder: Path) -> list[Path]:
    files = [folder / f"{number}.yaml" for number in range(len(texts))]
    for file, text in zip(files, texts, strict=True):
        file.write_text(text)
    return files


@pytest.mark.parametrize("validator", [by_jsonschema, by_check_jsonschema, by_ajv])
def test_valid_runbooks_pass_and_wrong_ones_do_not(validator: Validator, schema: Path, tmp_path: Path) -> None:
    shipped = sorted((ROOT / "runbooks").glob("*.yaml"))
    examples = [whole(block.text) for block in blocks("yaml") if not block.kind]
    assert len(shipped) > 7
    assert len(examples) > 20
    assert validator(schema, [*shipped, *written([EVERYTHING, *examples], tmp_path)]) == set()
    wrong = tmp_path / "wrong"
    wrong.mkdir()
    files = written(WRONG, wrong)
    assert set(files) - validator(schema, files) == set()


@pytest.mark.parametrize("block", [b for b in blocks("yaml") if b.kind == "wrong"], ids=name_of)
def test_a_wrong_example_is_wrong_for_the_schema_too(block: object, schema: Path, tmp_path: Path) -> None:
    (file,) = written([getattr(block, "text")], tmp_path)  # noqa: B009 - a block of any page
    assert by_jsonschema(schema, [file]) == {file}


def test_the_example_is_a_valid_runbook() -> None:
    from runbook.document import parse

    assert parse(EVERYTHING, environ={}).steps
