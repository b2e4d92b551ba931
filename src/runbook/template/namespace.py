"""The values of the names in a template, and which of them are known already."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import field, replace
from typing import NamedTuple, Self

from runbook.errors import RunbookError
from runbook.model import Port, frozen
from runbook.util.wording import join_words, suggest

FACTS = ("status", "changed", "verdict", "output")  # what `steps.<id>` has for every step
VERSIONS = ("from", "to")  # what it also has for an update, and what an update's own templates may use
RUN_FACTS = ("status", "verdict", "reason")  # what `run` also has in `notify`
ROOTS = ("vars", "env", "unit", "port", "host", "run", "steps", *VERSIONS)  # the first parts of names

Value = str | tuple[str, ...]  # the value of a name: a text, or a list of texts


class TemplateError(RunbookError, ValueError):
    """A template is wrong, or a name in it is not defined. `source` is what is wrong, as the file has it."""

    def __init__(self, message: str, *, source: str = "") -> None:
        super().__init__(message)
        self.source = source


class Word(str):
    """A text in an expression: `false`, `no`, `off`, `0` and the empty text count as false.

    Every value of a runbook is a text, so `==` with `true`, `false` or a number compares with the text's meaning.
    """

    __slots__ = ()

    def __bool__(self) -> bool:
        return self.lower() not in ("", "0", "false", "no", "off")

    def __eq__(self, other: object) -> bool:
        if isinstance(other, bool):
            return bool(self) is other
        return str(self) == str(other) if isinstance(other, (str, int, float)) else NotImplemented

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = str.__hash__


class Reference(NamedTuple):
    """A name in an expression, `steps.wait-ready.changed`: its first part and the other parts."""

    root: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join((self.root, *self.path))


@frozen
class TemplateNamespace:
    """The values of the names in a template, and which of them are known already."""

    vars: Mapping[str, Value] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    unit: str | None = None
    port: tuple[Port, ...] = ()
    misread: frozenset[str] = frozenset()  # while a file is read: `unit` and `port`, if what the file has is wrong
    roots: tuple[str, ...] = ROOTS  # the roots that may be used in this place of the file
    earlier_steps: Mapping[str, frozenset[str]] = field(default_factory=dict)
    """While a file is read: the facts of the steps that a template may refer to, by id."""
    later_steps: frozenset[str] = frozenset()  # while a file is read: the ids of the other steps, for messages
    template_vars: tuple[str, ...] = ()  # names that the step itself defines: `to` and `from` of an update
    own_values: Mapping[str, str] = field(default_factory=dict)  # the values of those of them that are known already
    run_id: str | None = None  # none while a file is read
    results: Mapping[str, Mapping[str, str]] | None = None
    """The facts of the steps by id; None while a file is read. A step that has not run is missing."""
    left_out: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    """The steps of the file that this run does not carry out, by id, with the facts that are known of them anyway."""
    run_facts: Mapping[str, str | None] = field(default_factory=dict)
    """What `run` has beside its id, where it may be used; None while it is not known."""
    partial: bool = False  # True for a plan: the facts of a missing step are not known; in a run, they are empty

    def for_run(self, run_id: str | None, results: Mapping[str, Mapping[str, str]], *, partial: bool = False) -> Self:
        """Return the namespace of a run. `results` may grow while the namespace is in use."""
        return replace(self, run_id=run_id, results=results, partial=partial)

    def for_step(self, unit: object, port: object, offers: tuple[str, ...] = ()) -> Self:
        """Return the namespace inside a step, whose own unit and port take precedence over those of the file."""
        return replace(
            self,
            unit=unit if isinstance(unit, str) else self.unit,
            port=port if isinstance(port, tuple) and port else self.port,
            template_vars=offers,
        )

    def look_up(self, reference: Reference) -> Value | None:
        """Return the value of a name, or None if it is not known yet. Raises TemplateError if it is not defined."""
        root = reference.root
        if root not in self.roots:
            raise TemplateError(f"`{reference}` cannot be used here, only {join_words(self.roots)}")
        match root:
            case "vars" | "env":
                return self._one_of_many(reference, self.vars if root == "vars" else self.env)
            case "steps":
                return self._of_step(reference)
            case "run":
                return self._of_run(reference)
        if reference.path:
            raise TemplateError(f"`{reference}` is not defined; `{root}` is a single value")
        return self._single(root)

    def _of_run(self, reference: Reference) -> Value | None:
        name = ".".join(reference.path)
        if name == "id":
            return self.run_id
        if name not in self.run_facts:
            if name in RUN_FACTS:
                raise TemplateError(f"`{reference}` can only be used in `notify`")
            known = f"`run` has {join_words(('id', *self.run_facts))}" if self.run_facts else "write `run.id`"
            raise TemplateError(f"`{reference}` is not defined; {known}")
        return self.run_facts[name]

    def _single(self, root: str) -> Value | None:
        if root in VERSIONS and root not in self.template_vars:
            raise TemplateError(f"`{root}` is only defined inside an update; in a later step, write `steps.ID.{root}`")
        if root == "port" and len(self.port) > 1:
            return tuple(str(port.number) for port in self.port)
        first_port = str(self.port[0].number) if self.port else None
        value = {**self.own_values, "host": self.host, "unit": self.unit, "port": first_port}.get(root)
        if value is None and root not in (*VERSIONS, *self.misread):
            raise TemplateError(f"`{root}` is not defined; set it at the top of the file")
        return value

    def _one_of_many(self, reference: Reference, names: Mapping[str, Value]) -> Value:
        name, root = ".".join(reference.path), reference.root
        if not name:
            raise TemplateError(f"`{root}` has several values; write `{root}.NAME`")
        if name in names:
            return names[name]
        if root == "env":
            how = f"set it, or write `env.{name} | default('…')`"
            raise TemplateError(f"environment variable `{name}` is not set; {how}")
        known = f"; `vars` has {join_words(names)}" if names else "; no variable is defined before it"
        raise TemplateError(f"`{reference}` is not defined{suggest(name, names, 'vars.') or known}")

    def _of_step(self, reference: Reference) -> Value | None:
        *parts, fact = reference.path or ("",)
        step = ".".join(parts)
        if self.results is not None:
            if step in self.left_out and fact not in self.left_out[step]:
                raise TemplateError(f"`{reference}` is not known: this run does not carry out step `{step}`")
            known = self.left_out.get(step) or self.results.get(step, {})
            # A step that has not run may have facts that are sure beforehand, but no `status`.
            if fact in known or "status" in known or not self.partial:
                return known.get(fact, "")
            return None
        if step in self.earlier_steps:
            if fact not in self.earlier_steps[step]:
                facts = join_words(name for name in (*FACTS, *VERSIONS) if name in self.earlier_steps[step])
                raise TemplateError(f"step `{step}` has no `{fact}`; it has {facts}")
            return None
        if parts and parts[-1] == "outputs" and ".".join(parts[:-1]) in self.earlier_steps:
            raise TemplateError(f"`{reference}` is not defined; write `steps.{'.'.join(parts[:-1])}.output`")
        if step in self.later_steps:
            raise TemplateError(f"step `{step}` does not come before this one; only earlier steps have results")
        if ".".join(reference.path) in {*self.earlier_steps, *self.later_steps}:
            raise TemplateError(f"`{reference}` is a step, not a value; write `{reference}.{FACTS[0]}`")
        if not step:
            raise TemplateError(f"`{reference}` is not a value; write `steps.ID.{FACTS[0]}`")
        raise TemplateError(f"no step has the id `{step}`{suggest(step, (*self.earlier_steps, *self.later_steps))}")
