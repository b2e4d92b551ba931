"""The schema for editors and the tables of fields, both from the models."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import jsonschema
import pytest

from runbook.document import reference
from runbook.document.wording import fields_of
from runbook.spec.runbook import Runbook
from runbook.steps import registry

SCHEMA = reference.make_schema()


def parts(schema: Any) -> Iterator[dict[str, Any]]:
    """Yield every mapping in a schema."""
    if isinstance(schema, dict):
        yield schema
        for part in schema.values():
            yield from parts(part)
    elif isinstance(schema, list):
        for part in schema:
            yield from parts(part)


def test_it_is_json_of_the_draft_that_editors_know() -> None:
    assert json.loads(json.dumps(SCHEMA)) == SCHEMA
    assert SCHEMA["$schema"] == "https://json-schema.org/draft/2020-12/schema"


def test_every_reference_leads_somewhere() -> None:
    references = {part["$ref"] for part in parts(SCHEMA) if isinstance(part.get("$ref"), str)}
    assert references == {f"#/$defs/{name}" for name in SCHEMA["$defs"]}


def test_each_key_has_a_description_and_examples_that_are_valid() -> None:
    resolver = {"$schema": SCHEMA["$schema"], "$defs": SCHEMA["$defs"]}
    # Once for all parts: with each example it would take a minute.
    jsonschema.Draft202012Validator.check_schema(SCHEMA)
    for part in parts(SCHEMA):
        keys = part["properties"].items() if isinstance(part.get("properties"), dict) else ()
        for key, value in keys:
            assert value["description"], key
            assert value["examples"], key
            for example in value["examples"]:
                jsonschema.Draft202012Validator({**resolver, **value}).validate(example)


def test_it_has_the_keys_that_the_document_accepts() -> None:
    assert set(SCHEMA["properties"]) == set(fields_of(Runbook))
    assert SCHEMA["required"] == ["steps"]
    for kind, cls in registry().items():
        made = SCHEMA["$defs"][kind]
        assert set(made["properties"]) == set(fields_of(cls))
        assert made["additionalProperties"] is False
    assert set(SCHEMA["$defs"]["update"]["required"]) == {"run", "version", "to"}
    assert set(SCHEMA["$defs"]["remediate"]["required"]) == {"check", "fix"}


def test_a_step_is_a_bare_name_or_a_mapping_with_one_key() -> None:
    bare, mapping = SCHEMA["$defs"]["step"]["anyOf"]
    assert {"restart", "wait-ready"} <= set(bare["enum"])
    assert not {"update", "run", "remediate"} & set(bare["enum"])
    assert set(mapping["properties"]) == set(registry())
    assert (mapping["minProperties"], mapping["maxProperties"]) == (1, 1)
    assert mapping["properties"]["update"]["anyOf"] == [{"$ref": "#/$defs/update"}]


def test_no_python_names_are_in_it() -> None:
    text = json.dumps(SCHEMA)
    assert not re.search(r"_restarts|healthy_for|on_failure|NoneType|check_steps", text)
    assert all(made["description"] for made in (SCHEMA, *SCHEMA["$defs"].values()))


@pytest.mark.parametrize("kind", sorted(registry()))
def test_every_field_is_described(kind: str) -> None:
    entry = reference.describe_type(kind)
    assert entry.summary.endswith(".")
    assert [row.key for row in entry.rows if row.common][:3] == ["id", "name", "when"]
    for row in (*entry.rows, *(inner for outer in entry.rows for inner in outer.fields)):
        assert re.fullmatch(r"[a-z]+(-[a-z]+)*", row.key)
        assert row.description.endswith("."), row
        assert row.type, row


def test_defaults_are_written_as_a_runbook_writes_them() -> None:
    rows = {row.key: row for row in reference.describe_type("wait-ready").rows}
    assert rows["healthy-for"].default == "5s"
    assert rows["timeout"].default == "2min"
    assert rows["on-timeout"].type == "`leave` or `fail`"
    assert rows["unit"].default == "that of the runbook"
    assert rows["secret"].default == "false"
    assert [row.key for row in rows["probes"].fields][:2] == ["tcp", "http"]
    required = {row.key for row in reference.describe_type("update").rows if row.required}
    assert required == {"run", "version", "to"}


def test_an_unknown_type_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        reference.describe_type("restrat")


def test_the_top_level_is_described() -> None:
    rows = {row.key: row for row in reference.describe_top_level()}
    assert set(rows) == set(fields_of(Runbook))
    assert rows["rollback"].type == "`off` or `auto` or list of steps"
    assert [entry.type_name for entry in reference.describe_types()] == sorted(registry())
