"""Templates as other tools write them: `{{ to }}`, `${vars.version}`, `{% if … %}`. They would stay as they are.

`{{.Names}}` of Go, `${HOME}` in a script, and everything else that names nothing of a runbook is text for a command.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator

from runbook.template.expression import FOREIGN_NAMES, compile_expression
from runbook.template.namespace import ROOTS, TemplateError
from runbook.util.wording import shorten

_PARTS = r"(?:vars|env|steps|run)(?:\.[A-Za-z][\w-]*|\[\s*['\"][^'\"\n]*['\"]\s*\])+"  # a name with parts
_OWN = r"(?:vars\.[A-Za-z][\w-]*|steps\.[\w.-]+\.\w+)"  # one that is no program or file: `env.sh`, `run.log`
_SINGLE = ("unit", "port", "host", "to", "from")  # names without parts

_BRACES = r"(?<!\$)\{\{-?([^{}\n]*?)-?\}\}"
_BEGINS_WITH_NAME = rf"\s*({_PARTS}|(?:{'|'.join(ROOTS)})(?=\s*\|))"
_DOLLAR = rf"(?<!\$)\$\{{\s*({_PARTS})[^{{}}\n]*\}}"
_OTHER = rf"(?:\$\(|\$\[|[#%]\{{|%\(|<%=?|(?<![{{$])\{{)\s*({_OWN})\s*(?:\)s?|\]|\}}|%>)|\$({_OWN})"
_PLAIN = r"\$(?:\{\s*([A-Za-z][\w-]*)\s*\}|([A-Za-z]\w*))"
_STATEMENT = rf"\{{%-?\s*(?:if|elif|for|set)\b[^%\n]*\b(?:{_PARTS}|{'|'.join(_SINGLE)})\b[^%\n]*%\}}"


def check_foreign(text: str, variables: Collection[str] = (), *, script: bool = False) -> None:
    """Raise TemplateError if a text contains a template that lacks its `$`, or is written as in another tool.

    `variables` are the names in `vars`. In a `script`, `$NAME` and `${NAME}` are variables of the shell.
    """
    # Most texts have none of these characters.
    if "{" in text or "$" in text or "<%" in text or "%(" in text:
        for found, meant in _find_foreign(text, variables, script):
            raise TemplateError(f"`{shorten(found)}` is not replaced; write `{shorten(meant)}`", source=found)


def find_unset_variable(script: str, names: Collection[str], known: Collection[str]) -> str:
    """Return the `$to` of a script that was meant as `${{ to }}`: nothing in it can set that variable; or nothing.

    `names` are those that a template could insert, `known` the variables of its environment.
    """
    if re.search(r"(?:^|[\s;&|({])(?:\.|source|eval|read|getopts)\s", script):
        return ""
    for match in re.finditer(r"\$(?:(\w+)|\{(\w+)\})", script):
        name = match[1] or match[2]
        sets = rf"\b{name}=|\bfor\s+{name}\b"
        if name in names and name not in known and not re.search(sets, script):
            return match[0]
    return ""


def names_template(text: str) -> bool:
    """True if a text contains a template that lacks its `$`, or is written as in another tool."""
    return any(_find_foreign(text, (), script=True))


def _find_foreign(text: str, variables: Collection[str], script: bool) -> Iterator[tuple[str, str]]:
    """Yield each such template, and what was meant."""
    for match in re.finditer(_BRACES, text):
        if meant := _name_in_braces(match[1].strip(), variables):
            yield match[0], f"${{{{ {meant} }}}}"
    for match in re.finditer(_DOLLAR, text):
        yield match[0], f"${{{{ {match[1]} }}}}"
    for match in re.finditer(_OTHER, text):
        name = match[1] or match[2]
        # `$vars.x` may be a variable of the shell with a dot behind it.
        if match[1] or name.partition(".")[2] in variables:
            yield match[0], f"${{{{ {name} }}}}"
    for match in re.finditer(_STATEMENT, text):
        yield match[0], "${{ 'A' if CONDITION else 'B' }}"
    for match in re.finditer(_PLAIN, text) if not script else ():
        name = match[1] or match[2]
        if name in _SINGLE or name in variables:
            yield match[0], f"${{{{ {name if name in _SINGLE else f'vars.{name}'} }}}}"


def _name_in_braces(inner: str, variables: Collection[str]) -> str:
    """Return the expression that was meant by what is between `{{` and `}}`; empty if that is another tool's."""
    name = re.match(r"([\w-]*)\s*(?:\||$)", inner)
    if name and name[1] in variables:
        return f"vars.{inner}"
    if name and FOREIGN_NAMES.get(name[1]) == "`host`":
        return "host"
    if re.match(_BEGINS_WITH_NAME, inner):
        return inner
    try:
        return inner if compile_expression(inner).references else ""
    except TemplateError:
        return ""
