"""`${{ … }}` in texts, and `when`: strict, sandboxed expressions. The only importer of jinja2.

scope.py        what the names stand for, and which of them are known by now
expression.py   one expression, checked and computed
filters.py      what may follow a `|`
text.py         a text with expressions in it, filled in one go or in two
"""

from runbook.template.expression import Expression
from runbook.template.filters import FILTERS
from runbook.template.scope import FACTS, VERSIONS, Reference, Scope, TemplateError
from runbook.template.text import (
    OPEN,
    Change,
    Finish,
    Put,
    Template,
    complete,
    expression,
    fill,
    holds,
    literal,
    plain,
    quoted,
    read,
    rewritten,
)

__all__ = [
    "FACTS",
    "FILTERS",
    "OPEN",
    "VERSIONS",
    "Change",
    "Expression",
    "Finish",
    "Put",
    "Reference",
    "Scope",
    "Template",
    "TemplateError",
    "complete",
    "expression",
    "fill",
    "holds",
    "literal",
    "plain",
    "quoted",
    "read",
    "rewritten",
]
