"""Texts with `${{ … }}` in them: split into parts, and filled at once or in two passes.

A text whose values are all known when the file is read becomes a plain str. Any other text stays a `Template`, a
str of its source that also has its parts, until `fill` or `fill_own` inserts the rest. An inserted value is never
read as a template again.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from functools import lru_cache
from typing import Any, Protocol, TypeVar, cast

from pydantic import BaseModel

from runbook.template.expression import Expression, compile_expression
from runbook.template.filters import MAX_TEXT
from runbook.template.quotes import ShellReader
from runbook.template.scope import Reference, TemplateError, TemplateScope, Word

OPEN, CLOSE = "${{", "}}"

Part = str | Expression
ValueWriter = Callable[[Any, Expression], str]
TextFinisher = Callable[[str], str]
Model = TypeVar("Model", bound=BaseModel)


NOTHING_KNOWN = TemplateScope(results={}, partial=True)


def _same(text: str) -> str:
    return text


class Template(str):
    """A text with values that are not known yet. As a str it is its source."""

    parts: tuple[Part, ...]
    """Its texts and expressions, in order."""
    write_value: ValueWriter
    """Writes a value as it is inserted: plain, or quoted for a shell or a pattern."""
    finish: TextFinisher
    """Gets the whole text last and returns it. It may raise ValueError."""
    known_scope: TemplateScope
    """The scope from which it was filled, except the names that were not known there."""

    def __new__(
        cls,
        parts: tuple[Part, ...],
        put: ValueWriter,
        finish: TextFinisher = _same,
        known: TemplateScope = NOTHING_KNOWN,
    ) -> Template:
        """Make the str: the source, as it is in the file."""
        shown = (part if isinstance(part, str) else f"{OPEN} {part.source} {CLOSE}" for part in parts)
        template = super().__new__(cls, "".join(shown))
        template.parts, template.write_value, template.finish, template.known_scope = parts, put, finish, known
        return template

    def __deepcopy__(self, memo: object) -> Template:
        return self

    @property
    def references(self) -> tuple[Reference, ...]:
        """The names in its expressions."""
        return tuple(r for part in self.parts if isinstance(part, Expression) for r in part.references)

    def fill(self, scope: TemplateScope) -> str:
        """Insert the values that are known. Return a plain str if that is all of them, else a Template of the rest.

        Raises TemplateError, and what `finish` raises.
        """
        parts: list[Part] = []
        for part in self.parts:
            value = part if isinstance(part, str) else part.value(scope)
            if value is None or isinstance(part, str):
                parts.append(part)
            else:
                parts.append(self.write_value(value, part))
        if any(isinstance(part, Expression) for part in parts):
            return Template(tuple(parts), self.write_value, self.finish, scope)
        return self.finish("".join(str(part) for part in parts))


def write_plain(value: Any, piece: Expression) -> str:
    """Return a value as a text. Raises TemplateError if no text can hold it."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if not isinstance(value, (str, int)):
        how = "choose one with `| first` or `[0]`, or write `| join(' ')`"
        raise TemplateError(f"`{piece}` is a list; {how}")
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
        how = "put it into the `env` of the step, and write $NAME there"
        raise TemplateError(f"`{piece}` is {error}; {how}") from error


def write_literal(value: Any, piece: Expression) -> str:
    """Return a value for a pattern, where it matches only itself unless it is `| raw`."""
    text = write_plain(value, piece)
    return text if piece.raw else re.escape(text)


def parse(text: str, put: ValueWriter = write_plain, finish: TextFinisher = _same) -> str:
    """Return a text as a Template, or unchanged if it has no expression. Raises TemplateError."""
    if isinstance(text, Template) or OPEN not in text:
        return text
    parts = _parts(text)
    return Template(_add_contexts(parts) if put is write_quoted else parts, put, finish)


def _add_contexts(parts: tuple[Part, ...]) -> tuple[Part, ...]:
    """Return the parts of a script; each expression with its place in the shell's grammar."""
    texts = ["", *(part if isinstance(part, str) else "" for part in parts), ""]
    shell, placed = ShellReader("\n".join(texts)), list[Part]()
    for part, before, behind in zip(parts, texts, texts[2:], strict=False):
        if isinstance(part, str):
            shell.read(part)
            placed.append(part)
        else:
            placed.append(replace(part, context=shell.find_context(before, behind)))
            shell.pass_value(raw=part.raw)
    return tuple(placed)


def parse_expression(text: str) -> Expression:
    """Check a bare expression, the value of `when`. Raises TemplateError."""
    if OPEN in text:
        raise TemplateError(f"`when` is an expression already; write it without `{OPEN}` and `{CLOSE}`")
    return compile_expression(text.strip())


def is_true(text: str, scope: TemplateScope) -> bool:
    """True if a bare expression is true. Raises TemplateError if a name in it is not known yet."""
    checked = parse_expression(text)
    value = checked.value(scope)
    if value is None:
        raise TemplateError(f"cannot evaluate `{checked}` yet")
    return bool(Word(value)) if isinstance(value, str) else bool(value)


def fill(step: Model, scope: TemplateScope) -> Model:
    """Return a step with the values that are known now. A step without templates is returned unchanged.

    An update's own `to` is filled first, so that its other fields can use it; `from` stays until the update itself
    fills it. Nested steps stay: each is filled when it runs.
    Raises TemplateError, also for a value that the field refuses.
    """
    if not _has_template(dict(step)):
        return step
    offers = getattr(type(step), "template_vars", ())
    inner = scope.for_step(getattr(step, "unit", None), getattr(step, "port", None), offers)
    if "to" in offers:
        to = _fill(getattr(step, "to", None), inner)
        if isinstance(to, str) and not isinstance(to, Template):
            inner = replace(inner, own_values={**inner.own_values, "to": to})
    return cast(Model, _fill(step, inner))


def fill_own(value: Any, **own: str) -> Any:
    """Return a field with the values that its step found out: `fill_own(self.run, **{"from": before})`."""
    return _fill(value, own)


class TextRewriter(Protocol):
    """Changes the texts of a field, and the values before they are inserted and quoted."""

    def text(self, text: str, name: str) -> str:
        """Return a whole text of the field `name`, changed."""

    def value(self, value: str, name: str, references: Iterable[Reference], *, quoted: bool) -> str:
        """Return a value of the field `name`, changed.

        `references` are the names that it was made of. `quoted` if it will be quoted for a shell.
        """


def rewrite(value: Any, change: TextRewriter, name: str) -> Any:
    """Return a field with every text in it changed; a Template changes its text when it is filled."""
    if isinstance(value, Template):
        put, finish = value.write_value, value.finish

        def changed(it: Any, piece: Expression) -> str:
            if isinstance(it, str):
                it = change.value(str(it), name, piece.references, quoted=put is write_quoted and not piece.raw)
            return put(it, piece)

        return Template(value.parts, changed, lambda text: finish(change.text(text, name)), value.known_scope)
    if isinstance(value, str):
        text = change.text(value, name)
        return value if text == value else text
    if isinstance(value, tuple):
        return tuple(rewrite(item, change, name) for item in value)
    if isinstance(value, Mapping):
        return {key: rewrite(item, change, name) for key, item in value.items()}
    if isinstance(value, BaseModel) and not _is_step(value):
        return value.model_copy(update={inner: rewrite(held, change, inner) for inner, held in value})
    return value


def _is_step(value: BaseModel) -> bool:
    # Only step types have a `kind`. This module cannot import them: they import this module.
    return hasattr(type(value), "kind")


def _has_template(value: Any) -> bool:
    """True if there is a Template in a value, outside of nested steps."""
    if isinstance(value, str):
        return isinstance(value, Template)
    if isinstance(value, (tuple, list)):
        return any(_has_template(item) for item in value)
    if isinstance(value, Mapping):
        return any(_has_template(item) for item in value.values())
    return isinstance(value, BaseModel) and not _is_step(value) and _has_template(dict(value))


def _fill(value: Any, scope: TemplateScope | Mapping[str, str]) -> Any:
    """Return a value with its Templates filled: from a scope, or with more names than each was filled from before."""
    if isinstance(value, Template):
        if not isinstance(scope, TemplateScope):
            known = value.known_scope
            scope = replace(
                known, template_vars=(*known.template_vars, *scope), own_values={**known.own_values, **scope}
            )
        return value.fill(scope)
    if isinstance(value, tuple):
        return tuple(_fill(item, scope) for item in value) if _has_template(value) else value
    if isinstance(value, Mapping):
        return {key: _fill(item, scope) for key, item in value.items()}
    if isinstance(value, BaseModel):
        return value.model_copy(update={n: _fill_field(n, v, scope) for n, v in value if _has_template(v)})
    return value


def _fill_field(name: str, value: Any, scope: TemplateScope | Mapping[str, str]) -> Any:
    try:
        return _fill(value, scope)
    except ValueError as error:
        if isinstance(error, TemplateError):
            raise
        raise TemplateError(f"`{name.replace('_', '-')}`: {error}") from error


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
        parts.append(compile_expression(end[0].removesuffix(CLOSE).strip()))
        at = end.end()
    if at < len(text):
        parts.append(text[at:])
    return tuple(parts)
