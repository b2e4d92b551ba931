"""One expression of a template or of `when`: checked against a short list, then run in Jinja2's sandbox.

References (`vars.version`, `steps.wait-ready.changed`) are replaced by `_0`, `_1`, … before Jinja2 parses the
expression: names may contain dashes, and no attribute of a Python object is ever read. What remains are values, `==`
`!=` `in`, `and` `or` `not`, `~`, `… if … else …` and the filters of `filters.py`: nothing that calls code or grows
without limit.
"""

from __future__ import annotations

import re
from dataclasses import field
from functools import cache, lru_cache
from typing import TYPE_CHECKING, Any

from runbook.model import frozen
from runbook.template.filters import ARGUMENTS, FILTERS
from runbook.template.namespace import ROOTS, Reference, TemplateError, TemplateNamespace, Word
from runbook.template.quotes import ShellContext
from runbook.util.wording import CURLY_QUOTES, join_words, shorten, suggest

if TYPE_CHECKING:
    from jinja2 import nodes
    from jinja2.environment import TemplateExpression
    from jinja2.sandbox import SandboxedEnvironment

MAX_SOURCE = 1000  # characters of one expression. Jinja2 parses recursively
MAX_EXPRESSION_DEPTH = 40  # how deep an expression may be nested


@frozen
class Expression:
    """A checked expression."""

    source: str
    references: tuple[Reference, ...]  # the names in it; the first is `_0` for Jinja2
    optional: frozenset[Reference]  # those that may be undefined, because of `| default(…)` or `is defined`
    raw: bool  # True if it ends in `| raw`
    evaluate: TemplateExpression
    context: ShellContext = field(default_factory=ShellContext)  # its place in a script

    def value(self, namespace: TemplateNamespace) -> Any:
        """Return its value, or None if a name is not known yet. Raises TemplateError."""
        values: dict[str, Any] = {}
        missing: list[TemplateError] = []
        for number, reference in enumerate(self.references):
            try:
                value = namespace.look_up(reference)
            except TemplateError as error:
                if reference not in self.optional or not reference.path:
                    raise
                missing.append(error)
            else:
                values[f"_{number}"] = Word(value) if isinstance(value, str) else value and tuple(map(Word, value))
        if None in values.values():
            return None
        try:
            result = self.evaluate(**values)
        # An expression can fail in many ways with its values: each is an error in the file, not in this program.
        except Exception as error:
            raise (missing[0] if missing else TemplateError(f"cannot evaluate `{self}`: {_cause(error)}")) from error
        return "" if result is None else result

    def __str__(self) -> str:
        return shorten(self.source)


@lru_cache(maxsize=1024)
def compile_expression(source: str) -> Expression:
    """Return an expression, checked and compiled. Raises TemplateError for everything that is not allowed in it."""
    if not source:
        raise TemplateError("the expression is empty; write a name such as `vars.version`")
    if len(source) > MAX_SOURCE:
        raise TemplateError(f"the expression `{shorten(source, 20)}` is longer than {MAX_SOURCE} characters")
    references: list[Reference] = []
    stripped = _extract_references(source, references)
    environment = _environment()
    from jinja2 import TemplateSyntaxError, parser  # noqa: PLC0415 - only files with templates pay for it

    try:
        reader = parser.Parser(environment, stripped, state="variable")
        tree = reader.parse_expression()
        if not reader.stream.eos:
            raise TemplateError(f"cannot read `{shorten(source)}`: it is not a single expression")
        inner, raw = _without_raw(tree)
        check = _Check(shorten(source), references)
        check.visit(inner, 0)
        ready = environment.compile_expression(stripped, undefined_to_none=False)
    except TemplateError:
        raise
    except (RecursionError, MemoryError, SyntaxError, OverflowError) as error:
        raise TemplateError(f"cannot read `{shorten(source)}`: it is nested too deeply") from error
    # Jinja2 reads numbers with int(), which refuses more than 4300 digits.
    except (TemplateSyntaxError, ValueError) as error:
        curly = re.search(f"[{CURLY_QUOTES}]", source)
        how = f"; type ' or \" in the place of `{curly[0]}`" if curly else ""
        raise TemplateError(f"cannot read `{shorten(source)}`: it is not an expression{how}") from error
    return Expression(source, tuple(references), frozenset(check.optional), raw, ready)


FOREIGN_NAMES = {
    **dict.fromkeys(("inputs", "params", "parameters", "matrix", "values", "var"), "`vars.NAME`"),
    **dict.fromkeys(("github", "gitlab", "runner", "job", "needs"), "`vars.NAME`, and pass it with `--set`"),
    **dict.fromkeys(("secrets", "ansible_env", "environment"), "`env.NAME`"),
    **dict.fromkeys(("inventory_hostname", "ansible_hostname", "ansible_host", "ansible_fqdn", "hostname"), "`host`"),
    **dict.fromkeys(("service", "unit_name"), "`unit`"),
}
"""Names of other tools, and what a runbook has in their place."""
_FOREIGN_FACTS = {
    **dict.fromkeys(("stdout", "output", "outputs", "stdout_lines"), "`steps.ID.output`"),
    **dict.fromkeys(("rc", "failed", "succeeded", "outcome", "conclusion", "status", "skipped"), "`steps.ID.status`"),
    "changed": "`steps.ID.changed`",
}
"""Parts of the result of a step, in other tools."""

_TOKEN = re.compile(
    r"""(?P<text>'(?:[^'\\]|\\.)*'|"(?:[^"\\]|\\.)*")"""
    r"""|(?P<name>[A-Za-z_]\w*)(?P<path>(?:\.\w+(?:-+\w+)*|\[\s*(?:'[^'\\]*'|"[^"\\]*")\s*\])*)"""
    r"""|(?P<other>.)""",
    re.DOTALL | re.ASCII,
)
_SEGMENT = re.compile(r"""\.([\w-]+)|\[\s*['"]([^'"]*)['"]\s*\]""", re.ASCII)


def _extract_references(source: str, references: list[Reference]) -> str:
    """Return the expression with `_0`, `_1`, … in the place of its references, and add these to `references`."""
    parts: list[str] = []
    before = ""
    for token in _TOKEN.finditer(source):
        word = token["name"]
        if word is not None and word.startswith("_"):
            raise TemplateError(f"`{word}` cannot be used in a template: names do not begin with `_`")
        if word in ROOTS and before not in ("|", "is"):
            names = (dotted or bracketed for dotted, bracketed in _SEGMENT.findall(token["path"]))
            reference = Reference(word, tuple(part for name in names for part in name.split(".")))
            if reference not in references:
                references.append(reference)
            parts.append(f" _{references.index(reference)} ")
        else:
            parts.append(token[0])
        before = token[0] if token[0].strip() else before
    return "".join(parts)


def _without_raw(tree: nodes.Expr) -> tuple[nodes.Node, bool]:
    """Return an expression without `| raw` at its end, the only place for it, and whether it was there."""
    from jinja2 import nodes  # noqa: PLC0415

    if isinstance(tree, nodes.Filter) and tree.name == "raw" and tree.node is not None and not tree.args:
        return tree.node, True
    return tree, False


class _Check:
    """Refuses everything in an expression that is not on a short list."""

    def __init__(self, source: str, references: list[Reference]) -> None:
        self.source = source
        self.references = references
        self.optional: set[Reference] = set()

    def visit(self, node: nodes.Node, depth: int) -> None:
        """Check a node and all below it. Raises TemplateError."""
        from jinja2 import nodes  # noqa: PLC0415

        if depth > MAX_EXPRESSION_DEPTH:
            raise TemplateError(f"cannot read `{self.source}`: it is nested too deeply")
        match node:
            case nodes.Name():
                self._name(node)
            case nodes.Filter():
                self._filter(node)
            case nodes.Test():
                self._test(node)
            case nodes.Compare():
                self._compare(node)
            case nodes.Getitem(arg=nodes.Const(value=int())) | nodes.Const(value=str() | int() | None):
                pass
            case nodes.And() | nodes.Or() | nodes.Not() | nodes.CondExpr() | nodes.Concat() | nodes.Operand():
                pass
            case nodes.List() | nodes.Tuple():
                pass
            case _:
                raise TemplateError(self._refusal(node))
        for child in node.iter_child_nodes():
            self.visit(child, depth + 1)

    def _refusal(self, node: nodes.Node) -> str:
        from jinja2 import nodes  # noqa: PLC0415

        match node:
            case nodes.Call():
                status = re.match(r"(?:success|failure|always|cancelled)\(\)", self.source)
                how = "; write `steps.ID.status`, or put the step into `always`" if status else ""
                return f"`{self.source}` is a call; a template only inserts values{how}"
            case nodes.Getattr():
                if isinstance(node.node, nodes.Name):
                    self._name(node.node, node.attr)
                return f"`.{node.attr}` is not defined in `{self.source}`: a single value has no parts"
            case nodes.Getitem():
                return f"cannot read `{self.source}`: only a number is allowed in `[ ]` here"
        return f"`{self.source}` is a computation; a template only inserts values (`~` joins two texts)"

    def _name(self, node: nodes.Name, attr: str = "") -> None:
        if not node.name.startswith("_"):
            meant = FOREIGN_NAMES.get(node.name) or _FOREIGN_FACTS.get(attr, "").replace("ID", node.name)
            hint = f"; write {meant}" if meant else suggest(node.name, ROOTS)
            hint = hint or f"; write `vars.{node.name}` for a variable of the file"
            raise TemplateError(f"`{node.name}` is not defined{hint}")

    def _compare(self, node: nodes.Compare) -> None:
        if any(operand.op not in ("eq", "ne", "in", "notin") for operand in node.ops):
            why = "values are texts, which have no order; compare with ==, !=, in or not in"
            raise TemplateError(f"cannot evaluate `{self.source}`: {why}")

    def _test(self, node: nodes.Test) -> None:
        if node.name not in ("defined", "undefined") or node.args:
            raise TemplateError(f"unknown test `is {node.name}`; write `is defined`")
        self._may_be_missing(node.node)

    def _filter(self, node: nodes.Filter) -> None:
        if node.name == "raw":
            raise TemplateError(f"`raw` must be the last filter in `{self.source}`, and used once")
        if node.name not in FILTERS:
            hint = suggest(node.name, FILTERS) or f"; the filters are {join_words(('raw', *FILTERS))}"
            raise TemplateError(f"unknown filter `{node.name}`{hint}")
        least, most = ARGUMENTS.get(node.name, (0, 0))
        if node.kwargs or node.dyn_args or node.dyn_kwargs or not least <= len(node.args) <= most:
            count = "no" if not most else str(most) if least == most else f"{least} or {most}"
            raise TemplateError(f"filter `{node.name}` takes {count} arguments, in `{self.source}`")
        if node.name == "default":
            self._may_be_missing(node.node)

    def _may_be_missing(self, node: nodes.Node | None) -> None:
        from jinja2 import nodes  # noqa: PLC0415

        if isinstance(node, nodes.Name) and node.name.startswith("_"):
            reference = self.references[int(node.name[1:])]
            if reference.root in ("vars", "env"):
                self.optional.add(reference)


@cache
def _environment() -> SandboxedEnvironment:
    """Return Jinja2's sandbox. It is imported here, because most files have no templates."""
    from jinja2 import StrictUndefined  # noqa: PLC0415
    from jinja2.sandbox import ImmutableSandboxedEnvironment  # noqa: PLC0415

    # With optimized=True, constants are evaluated during compilation, and `[][0] ~ 'a'` fails there.
    environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined, autoescape=False, optimized=False)
    tests = {name: environment.tests[name] for name in ("defined", "undefined")}
    for table in (environment.globals, environment.filters, environment.tests):
        table.clear()
    environment.filters.update(FILTERS, raw=lambda value: value)
    environment.tests.update(tests)
    return environment


def _cause(error: Exception) -> str:
    if isinstance(error, TemplateError):
        return error.message
    if isinstance(error, (IndexError, KeyError)):
        return "the list has fewer values"
    return "its values have the wrong types"
