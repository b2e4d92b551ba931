"""What the names in a template stand for, and which of them are known by now."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace

from runbook.errors import RunbookError
from runbook.model import Port
from runbook.util.wording import join_words, suggest

FACTS = ("status", "changed", "verdict", "output")
"""What `steps.<id>` tells of every step."""
VERSIONS = ("from", "to")
"""What it tells of an update beside them, and what an update's own templates may use."""
ROOTS = ("vars", "env", "unit", "port", "host", "run", "steps", *VERSIONS)

Value = str | tuple[str, ...]
"""What a name stands for: a text, or a list of texts."""


class TemplateError(RunbookError, ValueError):
    """A template is wrong, or what it asks for does not exist."""


class Word(str):
    """A text as an expression sees it: `false`, `no`, `off`, `0` and nothing at all count as false.

    Whatever a runbook knows is text, so a comparison with `true`, `false` or a number compares what is meant.
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


@dataclass(frozen=True)
class Reference:
    """A name in an expression, `steps.wait-ready.changed`: the root and what follows, without the dots."""

    root: str
    path: tuple[str, ...]

    def __str__(self) -> str:
        return ".".join((self.root, *self.path))


@dataclass(frozen=True)
class TemplateScope:
    """What the names of a template stand for, and which of them are known by now.

    While a file is read `results` is None: then `run.id` and `steps.…` are not known yet, and only steps in
    `before` (id to what can be asked of it) may be referred to. In a run `results` holds what is known of the
    steps; one that is missing there has not run and tells nothing, unless the scope is `partial`, for a plan:
    then what it does not hold stays as it is. `offers` are names that a step itself can tell, some of them already
    in `own`. `roots` are the names that have a place here at all.
    """

    vars: Mapping[str, Value] = field(default_factory=dict)
    env: Mapping[str, str] = field(default_factory=dict)
    host: str = ""
    unit: str | None = None
    port: tuple[Port, ...] = ()
    roots: tuple[str, ...] = ROOTS
    earlier_steps: Mapping[str, frozenset[str]] = field(default_factory=dict)
    later_steps: frozenset[str] = frozenset()
    template_vars: tuple[str, ...] = ()
    own_values: Mapping[str, str] = field(default_factory=dict)
    run_id: str | None = None
    results: Mapping[str, Mapping[str, str]] | None = None
    partial: bool = False

    def for_run(
        self, run_id: str | None, results: Mapping[str, Mapping[str, str]], *, partial: bool = False
    ) -> TemplateScope:
        """Give the scope of a run.

        `results` holds `status`, `changed`, … of the steps by their id, as texts; it may go on growing.
        """
        return replace(self, run_id=run_id, results=results, partial=partial)

    def for_step(self, unit: object, port: object, offers: tuple[str, ...] = ()) -> TemplateScope:
        """Give the scope inside a step, whose own unit and port come before those of the file."""
        return replace(
            self,
            unit=unit if isinstance(unit, str) else self.unit,
            port=port if isinstance(port, tuple) and port else self.port,
            template_vars=offers,
        )

    def look_up(self, reference: Reference) -> Value | None:
        """Give what a name stands for, or None where it is not known yet.

        Raises TemplateError for a name that stands for nothing.
        """
        root = reference.root
        if root not in self.roots:
            raise TemplateError(f"`{reference}` cannot be used here; {join_words(self.roots)} can")
        match root:
            case "vars" | "env":
                return self._one_of_many(reference, self.vars if root == "vars" else self.env)
            case "steps":
                return self._of_step(reference)
            case "run":
                if reference.path != ("id",):
                    raise TemplateError(f"`{reference}` is not defined; of the run there is `run.id`")
                return self.run_id
        if reference.path:
            raise TemplateError(f"`{reference}` is not defined; `{root}` is a single value")
        return self._single(root)

    def _single(self, root: str) -> Value | None:
        if root in VERSIONS and root not in self.template_vars:
            hint = f"elsewhere write `steps.ID.{root}`, after that update"
            raise TemplateError(f"`{root}` is only defined in the commands of an update; {hint}")
        if root == "port" and len(self.port) > 1:
            return tuple(str(port.number) for port in self.port)
        value = {
            "host": self.host,
            "unit": self.unit,
            "port": str(self.port[0].number) if self.port else None,
        }.get(root, self.own_values.get(root))
        if value is None and root not in VERSIONS:
            raise TemplateError(f"`{root}` is not defined; name it at the top of the file")
        return value

    def _one_of_many(self, reference: Reference, names: Mapping[str, Value]) -> Value:
        name, root = ".".join(reference.path), reference.root
        if not name:
            raise TemplateError(f"`{root}` holds many values; write `{root}.NAME`")
        if name in names:
            return names[name]
        if root == "env":
            how = f"set it, or write `env.{name} | default('…')`"
            raise TemplateError(f"environment variable `{name}` is not set; {how}")
        known = f"; `vars` has {join_words(names)}" if names else "; there are no `vars` to this point"
        raise TemplateError(f"`{reference}` is not defined{suggest(name, names, 'vars.') or known}")

    def _of_step(self, reference: Reference) -> Value | None:
        *parts, fact = reference.path or ("",)
        step = ".".join(parts)
        if self.results is not None:
            known = self.results.get(step, {})
            # What a step tells that has not run is what is sure before.
            if fact in known or "status" in known or not self.partial:
                return known.get(fact, "")
            return None
        if step in self.earlier_steps:
            if fact not in self.earlier_steps[step]:
                told = join_words(name for name in (*FACTS, *VERSIONS) if name in self.earlier_steps[step])
                raise TemplateError(f"step `{step}` has no `{fact}`; it has {told}")
            return None
        if step in self.later_steps:
            raise TemplateError(f"step `{step}` does not come before this one; a step can only look back")
        if ".".join(reference.path) in {*self.earlier_steps, *self.later_steps}:
            raise TemplateError(f"`{reference}` is a step, not a value; write `{reference}.{FACTS[0]}`")
        if not step:
            raise TemplateError(f"`{reference}` names no value; write `steps.ID.{FACTS[0]}`")
        raise TemplateError(f"no step has the id `{step}`{suggest(step, (*self.earlier_steps, *self.later_steps))}")
