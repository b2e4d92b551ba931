"""`${{ … }}` in texts, and `when`: strict, sandboxed expressions.

namespace.py    the values of the names, and which of them are known already
expression.py   one expression: checked, evaluated
filters.py      the filters, which follow a `|`
quotes.py       where a value is in a shell script, and how it is quoted there
shell_check.py  quotes of a script that are not closed, or only look like quotes
foreign.py      templates as other tools write them, which would stay as they are
text.py         a text with expressions in it, filled at once or in two passes
"""
