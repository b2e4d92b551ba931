"""`${{ … }}` in texts, and `when`: strict, sandboxed expressions. The only importer of jinja2.

A text is cut into literal parts and pieces. Each piece is one Jinja2 expression of a small kind: values,
comparisons, `and` `or` `not`, `~`, `… if … else …`, and the filters listed in `FILTERS`; nothing that could call
code or grow without bound. References (`vars.version`, `steps.wait-ready.changed`) are taken out before Jinja2
sees the expression, so that names may hold dashes and nothing is looked up in a Python object.

A text whose values are all known when the file is read becomes a plain str. Another stays a `Template`, a str
that shows its source and knows its parts, until `fill` or `complete` has put the rest in. What was put in is
never read as a template again.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any, TypeVar

from pydantic import BaseModel

from runbook.scope import ROOTS, Reference, Scope, TemplateError, Value, Word, listed, near

if TYPE_CHECKING:
    from jinja2 import nodes
    from jinja2.environment import TemplateExpression
    from jinja2.sandbox import SandboxedEnvironment

OPEN, CLOSE = "${{", "}}"
MOST_SOURCE = 1000
"""Characters of one expression. Jinja2 parses recursively, and nobody reads a longer one."""
MOST_DEPTH = 40
"""How deep an expression may be nested."""
MOST_OUTPUT = 100_000
"""Characters that one piece may give. The kernel takes 128 KiB as one argument (execve(2), MAX_ARG_STRLEN)."""

@dataclass(frozen=True)
class Expression:
    """A checked expression. `optional` are references whose absence it deals with itself."""

    source: str
    references: tuple[Reference, ...]
    optional: frozenset[Reference]
    raw: bool
    evaluate: TemplateExpression

    def value(self, scope: Scope) -> Any:
        """Compute it, or give None where a name is not known yet. Raises TemplateError."""
        found: dict[str, Word | tuple[Word, ...]] = {}
        waiting = False
        for number, reference in enumerate(self.references):
            try:
                value = scope.look_up(reference)
            except TemplateError:
                if reference in self.optional and reference.root in ("vars", "env") and reference.path:
                    continue
                raise
            if value is None:
                waiting = True
                continue
            found[f"_{number}"] = Word(value) if isinstance(value, str) else tuple(map(Word, value))
        if waiting:
            return None
        try:
            result = self.evaluate(**found)
        except TemplateError:
            raise
        # Whatever an expression does wrong with its values, it is a mistake in the file, not in the program.
        except Exception as error:
            raise TemplateError(f"cannot compute `{_shown(self.source)}`: {_cause(error)}") from error
        return "" if result is None else result


Part = str | Expression
Put = Callable[[Any, Expression], str]
Finish = Callable[[str], str]


def _same(text: str) -> str:
    return text


class Template(str):
    """A text that is not whole yet. As a str it is its source; `parts` are what it is made of.

    `put` writes a value into it, `finish` takes the whole text last (and may refuse it with a ValueError).
    """

    parts: tuple[Part, ...]
    put: Put
    finish: Finish

    def __new__(cls, parts: tuple[Part, ...], put: Put, finish: Finish = _same) -> Template:
        """Show the pieces as they stand in the file."""
        text = "".join(part if isinstance(part, str) else f"{OPEN} {part.source} {CLOSE}" for part in parts)
        template = super().__new__(cls, text)
        template.parts, template.put, template.finish = parts, put, finish
        return template

    def __deepcopy__(self, memo: object) -> Template:
        return self

    @property
    def references(self) -> tuple[Reference, ...]:
        """The names that it still waits for, and those beside them in the same pieces."""
        return tuple(r for part in self.parts if isinstance(part, Expression) for r in part.references)

    def filled(self, scope: Scope) -> str:
        """Put in what is known: a plain str when that is all of it, else a Template of the rest."""
        parts: list[Part] = []
        for part in self.parts:
            value = part if isinstance(part, str) else part.value(scope)
            if value is None:
                parts.append(part)
            else:
                parts.append(value if isinstance(part, str) else self.put(value, part))
        if any(isinstance(part, Expression) for part in parts):
            return Template(tuple(parts), self.put, self.finish)
        return self.finish("".join(str(part) for part in parts))


def plain(value: Any, piece: Expression) -> str:
    """Write a value into a text, as it is."""
    text = _text_of(value, piece)
    if len(text) > MOST_OUTPUT:
        raise TemplateError(f"`{_shown(piece.source)}` gives more than {MOST_OUTPUT} characters")
    if "\0" in text:
        raise TemplateError(f"`{_shown(piece.source)}` gives a NUL, which no command can take")
    return text


def quoted(value: Any, piece: Expression) -> str:
    """Write a value into a script, quoted for the shell unless it is `| raw`; a list word by word."""
    if piece.raw:
        return plain(value, piece)
    items = value if isinstance(value, (tuple, list)) else (value,)
    return " ".join(shlex.quote(plain(item, piece)) for item in items)


def literal(value: Any, piece: Expression) -> str:
    """Write a value into a pattern, where it matches nothing but itself unless it is `| raw`."""
    text = plain(value, piece)
    return text if piece.raw else re.escape(text)


def read(text: str, put: Put = plain, finish: Finish = _same) -> str:
    """Cut a text at its pieces: a Template, or the text itself where there is no piece. Raises TemplateError."""
    if OPEN not in text:
        return text
    return Template(_parts(text), put, finish)


def expression(text: str) -> Expression:
    """Check a bare expression, the value of `when`. Raises TemplateError."""
    if OPEN in text:
        raise TemplateError(f"`when` is an expression already; write it without `{OPEN}` and `{CLOSE}`")
    return _compiled(text.strip())


def holds(text: str, scope: Scope) -> bool:
    """Tell whether a bare expression is true. Raises TemplateError where it cannot be told."""
    value = expression(text).value(scope)
    if value is None:
        raise TemplateError(f"cannot tell yet whether `{_shown(text)}` is true")
    return bool(Word(value)) if isinstance(value, str) else bool(value)


Model = TypeVar("Model", bound=BaseModel)


def fill(step: Model, scope: Scope) -> Model:
    """Put into a step what is known now. A step without templates is given back as it is.

    A step's own `to` is filled first and may be used in its other fields; `from` stays until the step itself
    completes it. Steps that it holds are left alone: each is filled when its turn comes.
    Raises TemplateError, and ValueError for a value that the field cannot take.
    """
    if not _unfilled(dict(step)):
        return step
    offers = getattr(type(step), "offers", ())
    inner = scope.of_step(getattr(step, "unit", None), getattr(step, "port", None), offers)
    if isinstance(to := getattr(step, "to", None), str) and "to" in offers:
        own = to.filled(inner) if isinstance(to, Template) else to
        if not isinstance(own, Template):
            inner = replace(inner, own={**inner.own, "to": own})
    return _filled(step, inner)


def complete(value: Value, **own: str) -> Any:
    """Put into a field what its step itself found out: `complete(self.run, **{"from": before})`."""
    return _filled(value, Scope(offers=tuple(own), own=own, results={}, partial=True))


def _unfilled(value: Any) -> bool:
    """Whether a value holds a Template anywhere, other than in a step of its own."""
    if isinstance(value, str):
        return isinstance(value, Template)
    if isinstance(value, (tuple, list)):
        return any(_unfilled(item) for item in value)
    if isinstance(value, Mapping):
        return any(_unfilled(item) for item in value.values())
    return isinstance(value, BaseModel) and not hasattr(value, "kind") and _unfilled(dict(value))


def _filled(value: Any, scope: Scope) -> Any:
    if isinstance(value, Template):
        return value.filled(scope)
    if isinstance(value, tuple):
        return tuple(_filled(item, scope) for item in value) if _unfilled(value) else value
    if isinstance(value, Mapping):
        return {key: _filled(item, scope) for key, item in value.items()}
    if isinstance(value, BaseModel):
        changed = {name: _filled(item, scope) for name, item in value if _unfilled(item)}
        return value.model_copy(update=changed) if changed else value
    return value


_TOKEN = re.compile(
    r"""(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
    r"""|(?P<name>[A-Za-z_]\w*)(?P<path>(?:\.\w+(?:-+\w+)*|\[\s*(?:'[^'\\]*'|"[^"\\]*")\s*\])*)"""
    r"""|(?P<other>.)""",
    re.DOTALL | re.ASCII,
)
_SEGMENT = re.compile(r"""\.([\w-]+)|\[\s*['"]([^'"]*)['"]\s*\]""", re.ASCII)
_PIECE_END = re.compile(r"""(?:'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*"|(?!\}\}).)*?\}\}""", re.DOTALL)


@lru_cache(maxsize=1024)
def _parts(text: str) -> tuple[Part, ...]:
    parts: list[Part] = []
    at = 0
    while (start := text.find(OPEN, at)) >= 0:
        if start > at:
            parts.append(text[at:start])
        end = _PIECE_END.match(text, start + len(OPEN))
        if end is None:
            raise TemplateError(f"`{OPEN}` is never closed; write `{OPEN} … {CLOSE}`")
        parts.append(_compiled(end[0].removesuffix(CLOSE).strip()))
        at = end.end()
    if at < len(text):
        parts.append(text[at:])
    return tuple(parts)


@lru_cache(maxsize=1024)
def _compiled(source: str) -> Expression:
    """Check an expression and make it ready. Raises TemplateError for all that it may not hold."""
    if not source:
        raise TemplateError("an empty expression; write a name such as `vars.version`")
    if len(source) > MOST_SOURCE:
        raise TemplateError(f"an expression of more than {MOST_SOURCE} characters")
    references: list[Reference] = []
    stripped = _take_out(source, references)
    environment = _environment()
    from jinja2 import TemplateSyntaxError, parser  # noqa: PLC0415 - only files with templates pay for it

    try:
        reader = parser.Parser(environment, stripped, state="variable")
        tree = reader.parse_expression()
        if not reader.stream.eos:
            raise TemplateError(f"cannot read `{_shown(source)}`: only one expression can stand here")
        raw = _ends_raw(tree)
        checked = _Check(source, references)
        checked.visit(tree.node if raw else tree, 0)  # type: ignore[attr-defined]
        ready = environment.compile_expression(stripped, undefined_to_none=False)
    except TemplateSyntaxError as error:
        raise TemplateError(f"cannot read `{_shown(source)}`: it is not an expression") from error
    except (RecursionError, MemoryError, SyntaxError, OverflowError) as error:
        raise TemplateError(f"cannot read `{_shown(source)}`: it is nested too deeply") from error
    return Expression(source, tuple(references), frozenset(checked.optional), raw, ready)


def _take_out(source: str, references: list[Reference]) -> str:
    """Put `_0`, `_1`, … where the expression names something, and note what that was."""
    made: list[str] = []
    before = ""
    for token in _TOKEN.finditer(source):
        word = token["name"]
        if word is None:
            made.append(token[0])
        elif word.startswith("_") or "__" in token["path"]:
            raise TemplateError(f"`{_shown(token[0])}` cannot be used in a template: no name begins with `_`")
        elif word in ROOTS and before not in ("|", "is"):
            path = tuple(a or b for a, b in _SEGMENT.findall(token["path"]))
            reference = Reference(word, tuple(part for name in path for part in name.split(".")))
            if reference not in references:
                references.append(reference)
            made.append(f" _{references.index(reference)} ")
        else:
            made.append(token[0])
        if token[0].strip():
            before = token[0]
    return "".join(made)


def _ends_raw(tree: nodes.Node) -> bool:
    from jinja2 import nodes  # noqa: PLC0415

    return isinstance(tree, nodes.Filter) and tree.name == "raw" and not tree.args


class _Check:
    """Walks through an expression and refuses what is not on the list."""

    def __init__(self, source: str, references: list[Reference]) -> None:
        self.source = source
        self.references = references
        self.optional: set[Reference] = set()

    def visit(self, node: nodes.Node, depth: int) -> None:  # noqa: C901, PLR0912 - one case a kind of node
        from jinja2 import nodes  # noqa: PLC0415

        if depth > MOST_DEPTH:
            raise TemplateError(f"cannot read `{_shown(self.source)}`: it is nested too deeply")
        match node:
            case nodes.Name():
                self._name(node)
            case nodes.Filter():
                self._filter(node)
            case nodes.Test():
                if node.name not in ("defined", "undefined") or node.args:
                    raise TemplateError(f"unknown test `is {node.name}`; there is `is defined`")
                self._may_be_missing(node.node)
            case nodes.Compare():
                if any(operand.op not in ("eq", "ne", "in", "notin") for operand in node.ops):
                    raise TemplateError(
                        f"`{_shown(self.source)}` puts texts in an order; they are compared with ==, !=, in, not in"
                    )
            case nodes.Getitem():
                if not isinstance(node.arg, nodes.Const) or type(node.arg.value) is not int:
                    raise TemplateError(f"cannot read `{_shown(self.source)}`: only a number can stand in `[ ]` here")
            case nodes.Call():
                raise TemplateError(f"`{_shown(self.source)}` calls something; a template only puts values in")
            case nodes.Getattr():
                raise TemplateError(f"`.{node.attr}` is not defined in `{_shown(self.source)}`: a value has no parts")
            case nodes.Const(value=str() | bool() | int() | None):
                pass
            case (
                nodes.And()
                | nodes.Or()
                | nodes.Not()
                | nodes.CondExpr()
                | nodes.Concat()
                | nodes.Operand()
                | nodes.List()
                | nodes.Tuple()
            ):
                pass
            case _:
                raise TemplateError(
                    f"`{_shown(self.source)}` computes; there are values, ==, !=, in, and, or, not, ~, if else, filters"
                )
        for child in node.iter_child_nodes():
            self.visit(child, depth + 1)

    def _name(self, node: nodes.Name) -> None:
        if node.name.startswith("_"):
            return
        hint = near(node.name, [*ROOTS]) or f"; there are {listed(ROOTS)}"
        raise TemplateError(f"`{node.name}` is not defined{hint}")

    def _filter(self, node: nodes.Filter) -> None:
        if node.name == "raw":
            raise TemplateError(f"`raw` must come last in `{_shown(self.source)}`")
        if node.name not in FILTERS:
            raise TemplateError(
                f"unknown filter `{node.name}`{near(node.name, FILTERS) or '; there are ' + listed(('raw', *FILTERS))}"
            )
        least, most = ARGUMENTS.get(node.name, (0, 0))
        if node.kwargs or node.dyn_args or node.dyn_kwargs or not least <= len(node.args) <= most:
            raise TemplateError(f"filter `{node.name}` takes {_counted(least, most)} in `{_shown(self.source)}`")
        if node.name == "default":
            self._may_be_missing(node.node)

    def _may_be_missing(self, node: nodes.Node | None) -> None:
        from jinja2 import nodes  # noqa: PLC0415

        if isinstance(node, nodes.Name) and node.name.startswith("_"):
            self.optional.add(self.references[int(node.name[1:])])


def _bounded(text: str) -> Word:
    if len(text) > MOST_OUTPUT:
        raise TemplateError(f"it gives more than {MOST_OUTPUT} characters")
    return Word(text)


def _replace(text: str, old: str, new: str) -> Word:
    # Counted first: a chain of replacements could fill the memory before anybody looks at its end.
    if len(text) + str(text).count(old) * len(new) > MOST_OUTPUT:
        raise TemplateError(f"it gives more than {MOST_OUTPUT} characters")
    return Word(str(text).replace(old, new))


def _join(items: Sequence[str], between: str = "") -> Word:
    if isinstance(items, str):
        return Word(items)
    if sum(map(len, items)) + len(items) * len(between) > MOST_OUTPUT:
        raise TemplateError(f"it gives more than {MOST_OUTPUT} characters")
    return Word(between.join(items))


def _default(value: Any, other: Any, or_false: bool = False) -> Any:
    from jinja2 import Undefined  # noqa: PLC0415

    return other if isinstance(value, Undefined) or (or_false and not value) else value


def _split(text: str, at: str | None = None) -> tuple[Word, ...]:
    return tuple(map(Word, str(text).split(at)))


FILTERS: dict[str, Callable[..., Any]] = {
    "default": _default,
    "first": lambda items: items[0],
    "join": _join,
    "last": lambda items: items[-1],
    "lower": lambda text: Word(text.lower()),
    "replace": _replace,
    "split": _split,
    "trim": lambda text: Word(text.strip()),
    "upper": lambda text: _bounded(text.upper()),
}
"""The filters there are, beside `raw`. None of them can make much out of little."""

ARGUMENTS = {"default": (1, 2), "join": (0, 1), "replace": (2, 2), "split": (0, 1)}
"""How many arguments a filter takes, at least and at most; the others take none."""


@cache
def _environment() -> SandboxedEnvironment:
    """Make Jinja2's sandbox. It is imported here, so that a file without templates does not pay for it."""
    from jinja2 import StrictUndefined  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False)
    tests = {name: environment.tests[name] for name in ("defined", "undefined")}
    environment.globals.clear()
    environment.filters.clear()
    environment.tests.clear()
    environment.filters.update(FILTERS, raw=lambda value: value)
    environment.tests.update(tests)
    return environment


def _text_of(value: Any, piece: Expression) -> str:
    """Write a value as text; a list has no one way to be written."""
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, (str, int)):
        return str(value)
    raise TemplateError(
        f"`{_shown(piece.source)}` is a list; choose one with `| first` or `[0]`, or write `| join(' ')`"
    )


def _cause(error: Exception) -> str:
    if isinstance(error, TemplateError):
        return error.message
    if isinstance(error, (IndexError, KeyError)):
        return "there are not so many values"
    if isinstance(error, (RecursionError, MemoryError)):
        return "it is nested too deeply"
    return "its values do not fit together"


def _counted(least: int, most: int) -> str:
    if most == 0:
        return "no arguments"
    if least == most:
        return f"{least} argument{'' if least == 1 else 's'}"
    return f"{least} or {most} arguments"


def _shown(source: str) -> str:
    return source if len(source) <= 60 else source[:57] + "..."  # noqa: PLR2004


__all__ = [
    "Expression", "FILTERS", "Reference", "Scope", "Template", "TemplateError",
    "complete", "expression", "fill", "holds", "literal", "plain", "quoted", "read",
]
