"""`${{ … }}` in texts, and `when`: strict, sandboxed expressions. The only importer of jinja2.

scope.py        the values of the names, and which of them are known already
expression.py   one expression: checked, evaluated
filters.py      the filters, which follow a `|`
quotes.py       where a value is in a shell script, and how it is quoted there
text.py         a text with expressions in it, filled at once or in two passes
"""

from runbook.template.scope import FACTS, VERSIONS, Reference, TemplateError, TemplateScope
from runbook.template.text import (
    OPEN,
    Template,
    TextFinisher,
    ValueWriter,
    fill,
    fill_own,
    is_true,
    parse,
    parse_expression,
    rewrite,
    write_literal,
    write_plain,
    write_quoted,
)

__all__ = [
    "FACTS",
    "OPEN",
    "VERSIONS",
    "Reference",
    "Template",
    "TemplateError",
    "TemplateScope",
    "TextFinisher",
    "ValueWriter",
    "fill",
    "fill_own",
    "is_true",
    "parse",
    "parse_expression",
    "rewrite",
    "write_literal",
    "write_plain",
    "write_quoted",
]
