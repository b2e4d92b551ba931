"""`schema` and `steps`."""

from __future__ import annotations

import json

from typer.testing import CliRunner

from runbook import cli, errors
from runbook.document import reference
from runbook.report.event_schema import make_event_schema
from runbook.steps import registry


def test_the_schema_is_printed_as_json() -> None:
    assert json.loads(CliRunner().invoke(cli.app, ["schema"]).stdout) == reference.make_schema()


def test_the_schema_of_the_events_is_printed_as_json() -> None:
    assert json.loads(CliRunner().invoke(cli.app, ["schema", "--events"]).stdout) == json.loads(
        json.dumps(make_event_schema())
    )


def test_every_step_type_is_listed() -> None:
    printed = CliRunner().invoke(cli.app, ["steps"]).stdout
    assert [line.split()[0] for line in printed.splitlines() if line[2:3].strip()][: len(registry())] == sorted(
        registry()
    )


def test_a_step_type_is_printed_with_its_fields() -> None:
    printed = CliRunner().invoke(cli.app, ["steps", "wait-ready"]).stdout
    assert printed.startswith("wait-ready\n")
    assert "healthy-for" in printed


def test_an_unknown_step_type_is_an_error_of_usage() -> None:
    error = CliRunner().invoke(cli.app, ["steps", "restrat"]).exception
    assert isinstance(error, errors.UsageError)
    assert error.message == "unknown step type `restrat`; did you mean `restart`?"
