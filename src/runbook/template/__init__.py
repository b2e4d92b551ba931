"""`${{ … }}` in texts, and `when`: strict, sandboxed expressions. The only importer of jinja2.

scope.py        what the names stand for, and which of them are known by now
expression.py   one expression, checked and computed
filters.py      what may follow a `|`
text.py         a text with expressions in it, filled in one go or in two
"""

from runbook.template.expression import Expression
from runbook.template.filters import FILTERS
from runbook.template.scope import FACTS, VERSIONS, Reference, TemplateError, TemplateScope
from runbook.template.text import (
    OPEN,
    Template,
    TextFinisher,
    TextRewriter,
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
    "FILTERS",
    "OPEN",
    "VERSIONS",
    "Expression",
    "Reference",
    "Template",
    "TemplateError",
    "TemplateScope",
    "TextFinisher",
    "TextRewriter",
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
