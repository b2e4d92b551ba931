"""Texts with `${{ … }}` in them: split into parts, and filled at once or in two passes.

A text whose values are all known when the file is read becomes a plain str. Any other text stays a `Template`, a
str of its source that also has its parts, until `fill` or `fill_own` inserts the rest. An inserted value is never
read as a template again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import replace
from functools import lru_cache
from operator import is_
from typing import Any, TypeVar

from pydantic import BaseModel

from runbook.template.expression import Expression, compile_expression
from runbook.template.filters import MAX_TEXT
from runbook.template.foreign import check_foreign
from runbook.template.namespace import Reference, TemplateError, TemplateNamespace, Word
from runbook.template.quotes import Quotes, ShellContext, ShellReader
from runbook.template.shell_check import check_quotes, check_script

OPEN, CLOSE = "${{", "}}"

Part = str | Expression
ValueWriter = Callable[[Any, Expression], str]
TextFinisher = Callable[[str], str]
TextChange = Callable[[str, str], str]  # gets a text and the name of its field, and returns the new text
Model = TypeVar("Model", bound=BaseModel)

NOTHING_KNOWN = TemplateNamespace(results={}, partial=True)


class Template(str):
    """A text with values that are not known yet. As a str it is its source."""

    parts: tuple[Part, ...]  # its texts and expressions, in order
    write_value: ValueWriter  # writes a value as it is inserted: plain, or quoted for a shell or a pattern
    finish: TextFinisher  # gets the whole text last and returns it, or raises ValueError
    known_namespace: TemplateNamespace  # the namespace that it was filled from so far

    def __new__(
        cls,
        parts: tuple[Part, ...],
        put: ValueWriter,
        finish: TextFinisher = str,
        known: TemplateNamespace = NOTHING_KNOWN,
    ) -> Template:
        """Make the str: the source, as it is in the file."""
        shown = (part if isinstance(part, str) else f"{OPEN} {part.source} {CLOSE}" for part in parts)
        template = super().__new__(cls, "".join(shown))
        template.parts, template.write_value, template.finish, template.known_namespace = parts, put, finish, known
        return template

    def __deepcopy__(self, memo: object) -> Template:
        return self

    @property
    def references(self) -> tuple[Reference, ...]:
        """The names in its expressions."""
        return tuple(r for part in self.parts if isinstance(part, Expression) for r in part.references)

    def fill(self, namespace: TemplateNamespace) -> str:
        """Insert the values that are known. Return a plain str if that is all of them, else a Template of the rest.

        Raises TemplateError, and what `finish` raises.
        """
        parts: list[Part] = []
        for part in self.parts:
            if isinstance(part, str):
                parts.append(part)
                continue
            try:
                value = part.value(namespace)
                parts.append(part if value is None else self.write_value(value, part))
            except TemplateError as error:
                error.source = f"{OPEN} {part.source}"
                raise
        if any(isinstance(part, Expression) for part in parts):
            return Template(tuple(parts), self.write_value, self.finish, namespace)
        return self.finish("".join(str(part) for part in parts))


def write_plain(value: Any, piece: Expression) -> str:
    """Return a value as a text. Raises TemplateError if no text can hold it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, int)):
        raise TemplateError(f"`{piece}` is a list; choose one with `| first` or `[0]`, or write `| join(' ')`")
    text = str(value)
    if len(text) > MAX_TEXT:
        raise TemplateError(f"the value of `{piece}` has more than {MAX_TEXT} characters")
    if "\0" in text:
        raise TemplateError(f"the value of `{piece}` contains a NUL, which no command accepts")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise TemplateError(f"the value of `{piece}` cannot be encoded as UTF-8") from error
    return text


def write_quoted(value: Any, piece: Expression) -> str:
    """Return a value quoted for its place in a script, unless it is `| raw`; each item of a list is one word."""
    if piece.raw:
        return write_plain(value, piece)
    items = value if isinstance(value, (tuple, list)) else (value,)
    try:
        return " ".join(piece.context.quote(write_plain(item, piece)) for item in items)
    except TemplateError:
        raise
    except ValueError as error:
        how = 'put it into the `env` of the step, and write "$NAME" there, with the script in single quotes'
        raise TemplateError(f"`{piece}` is {error}; {how}") from error


def write_plain_word(value: Any, piece: Expression) -> str:
    """Return a value for an argument that a shell or another program reads as a script. Raises TemplateError."""
    unquotable = replace(piece, context=ShellContext(Quotes.UNKNOWN))
    return write_plain(value, piece) if piece.raw else write_quoted(value, unquotable)


def write_literal(value: Any, piece: Expression) -> str:
    """Return a value for a pattern, where it matches only itself unless it is `| raw`."""
    text = write_plain(value, piece)
    return text if piece.raw else re.escape(text)


def parse_text(
    text: str,
    put: ValueWriter = write_plain,
    finish: TextFinisher = str,
    *,
    variables: Collection[str] = (),
    script: bool = False,
) -> str:
    """Return a text as a Template, or unchanged if it has no expression. Raises TemplateError.

    `variables` are the names in `vars`. In a `script`, `$NAME` is a variable of the shell.
    """
    if isinstance(text, Template):
        return text
    parts = _parts(text) if OPEN in text else (text,)
    for part in parts:
        if isinstance(part, str):
            check_foreign(part, variables, script=script or put is write_quoted)
    if OPEN not in text:
        if put is write_quoted:
            check_script(text)
        return text
    return Template(_add_contexts(parts) if put is write_quoted else parts, put, finish)


def _add_contexts(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Return the parts of a script; each expression with its place in the shell's grammar."""
    texts = ["", *(part if isinstance(part, str) else "" for part in parts), ""]
    shell = ShellReader("\n".join(texts))
    for part, before, behind in zip(parts, texts, texts[2:], strict=False):
        if isinstance(part, str):
            shell.read(part)
        else:
            shell.pass_value(before, behind, raw=part.raw)
    check_quotes(shell, "".join(part if isinstance(part, str) else "\0" for part in parts))
    places = iter(shell.places)
    return tuple(part if isinstance(part, str) else replace(part, context=next(places)) for part in parts)


def parse_expression(text: str) -> Expression:
    """Check a bare expression, the value of `when`. Raises TemplateError."""
    if found := re.search(r"\$?\{\{|[$#%]\{", text):
        end = CLOSE if "{{" in found[0] else "}"
        raise TemplateError(f"`when` is an expression already; write it without `{found[0]}` and `{end}`")
    return compile_expression(text.strip())


def is_true(text: str, namespace: TemplateNamespace) -> bool:
    """True if a bare expression is true. Raises TemplateError if a name in it is not known yet."""
    checked = parse_expression(text)
    value = checked.value(namespace)
    if value is None:
        raise TemplateError(f"cannot evaluate `{checked}` yet")
    return bool(Word(value)) if isinstance(value, str) else bool(value)


def fill(step: Model, namespace: TemplateNamespace) -> Model:
    """Return a step with the values that are known now. A step without templates is returned unchanged.

    An update's own `to` is filled first, so that its other fields can use it; `from` stays until the update itself
    fills it. Nested steps stay: each is filled when it runs.
    Raises TemplateError, also for a value that the field refuses.
    """
    offers = getattr(type(step), "template_vars", ())
    inner = namespace.for_step(getattr(step, "unit", None), getattr(step, "port", None), offers)
    if "to" in offers:
        to = _fill_text(getattr(step, "to", ""), "to", inner)
        if not isinstance(to, Template):
            inner = replace(inner, own_values={**inner.own_values, "to": to})
    return _map_fields(step, lambda text, name: _fill_text(text, name, inner))


def fill_own(step: Model, **own: str) -> Model:
    """Return a step with the values that it found out itself: `fill_own(self, **{"from": before})`."""

    def fill_one(text: str, name: str) -> str:
        if not isinstance(text, Template):
            return text
        known = text.known_namespace
        names, values = (*known.template_vars, *own), {**known.own_values, **own}
        return _fill_text(text, name, replace(known, template_vars=names, own_values=values))

    return _map_fields(step, fill_one)


def _fill_text(text: str, name: str, namespace: TemplateNamespace) -> str:
    try:
        return text.fill(namespace) if isinstance(text, Template) else text
    except TemplateError:
        raise
    except ValueError as error:
        raise TemplateError(f"`{name.replace('_', '-')}`: {error}") from error


def map_texts(value: Any, name: str, change: TextChange) -> Any:
    """Return a value of the field `name` with every text in it changed, also in nested mappings, but not in steps.

    What holds no text that changes is returned itself, so that no default of a mapping becomes a value of the file.
    """
    match value:
        case str():
            return change(value, name)
        case tuple():
            items = tuple(map_texts(item, name, change) for item in value)
            return value if all(map(is_, items, value)) else items
        case Mapping():
            entries = {key: map_texts(item, name, change) for key, item in value.items()}
            return value if all(map(is_, entries.values(), value.values())) else entries
        # Only step types have a `type_name`. This module cannot import them: they import this module.
        case BaseModel() if not hasattr(type(value), "type_name"):
            return _map_fields(value, change)
    return value


def _map_fields(model: Model, change: TextChange) -> Model:
    found = ((name, value, map_texts(value, name, change)) for name, value in model)
    changed = {name: new for name, value, new in found if new is not value}
    return model.model_copy(update=changed) if changed else model


# The alternatives begin with different characters, so that a match takes linear time.
_PIECE_END = re.compile(r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?!\}\})[^'"])*\}\}""", re.DOTALL)


@lru_cache(maxsize=1024)
def _parts(text: str) -> tuple[Part, ...]:
    parts: list[Part] = []
    at = 0
    while (start := text.find(OPEN, at)) >= 0:
        if start > at:
            parts.append(text[at:start])
        end = _PIECE_END.match(text, start + len(OPEN))
        if end is None:
            what = "a quote in a template" if CLOSE in text[start:] else f"`{OPEN}`"
            raise TemplateError(f"{what} is not closed; write `{OPEN} vars.NAME {CLOSE}`")
        try:
            parts.append(compile_expression(end[0].removesuffix(CLOSE).strip()))
        except TemplateError as error:
            error.source = text[start : end.end()]
            raise
        at = end.end()
    if at < len(text):
        parts.append(text[at:])
    return tuple(parts)
