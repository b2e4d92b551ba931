"""The types of fields: what an editor shows of them."""

from __future__ import annotations

from typing import Annotated, Any, get_origin

import pytest
from pydantic import TypeAdapter

from runbook.spec import fields
from runbook.template.namespace import TemplateNamespace

TYPES = {
    name: made for name, made in vars(fields).items() if not name.startswith("_") and get_origin(made) is Annotated
}
SCOPE = TemplateNamespace(
    vars={"stage": "staging"}, template_vars=("to",), earlier_steps={"update": frozenset({"changed"})}
)


@pytest.mark.parametrize("field", TYPES.values(), ids=TYPES)
def test_a_type_reads_its_own_examples(field: Any) -> None:
    adapter = TypeAdapter(field)
    schema = adapter.json_schema()
    assert schema["title"]
    for example in schema.get("examples", []):
        adapter.validate_python(example, context=SCOPE)
