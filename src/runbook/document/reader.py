"""Makes a Runbook of the nodes, or reports every error with its position.

The variables, the unit, the port and the ids of all steps are read first, because the rest needs them. Then the steps
are read one by one, each with a namespace that has the steps before it. An error in one does not hide the others.
"""

from __future__ import annotations

import re
from collections.abc import Container, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError

from runbook.document import wording
from runbook.document.nodes import Node, Problems
from runbook.document.notifications import read_notifications
from runbook.document.outline import StepNode, Types, assign_ids, find_nested_keys, find_steps
from runbook.document.syntax import Position
from runbook.errors import UsageError
from runbook.model import Port
from runbook.spec.fields import PortList, UnitName
from runbook.spec.readers import describe_kind
from runbook.spec.runbook import Runbook
from runbook.spec.step import INHERITED_FIELDS, ReplacesVersion, Step
from runbook.template.namespace import FACTS, ROOTS, RUN_FACTS, VERSIONS, TemplateError, TemplateNamespace, Value
from runbook.template.text import Template, parse_text
from runbook.util.wording import shorten, suggest

_UNIT: TypeAdapter[str] = TypeAdapter(UnitName, config=ConfigDict(defer_build=True))
_PORTS: TypeAdapter[tuple[Port, ...]] = TypeAdapter(PortList, config=ConfigDict(defer_build=True))

_LISTS = {"steps": "", "rollback": "rollback.", "always": "always."}  # the lists of steps, with the prefixes of ids
_WHOLE = "the runbook"


class Reader:
    """Reads one file, and adds its errors to `problems`."""

    def __init__(self, root: Node, types: Types, namespace: TemplateNamespace, problems: Problems) -> None:
        assert isinstance(root.value, dict)
        self.root = root
        self.fields = root.value
        self.types = types
        self.namespace = namespace
        self.problems = problems
        self.built: list[tuple[StepNode, Step[Any]]] = []  # the steps without errors
        self.before: dict[str, frozenset[str]] = {}  # the facts of the steps that are read already, by id
        self.ids: frozenset[str] = frozenset()
        self.rollback_ids: frozenset[str] = frozenset()  # the steps of a listed rollback
        self.lacking: dict[str, list[StepNode]] = {}  # the steps that need a field which the top of the file lacks
        self.given: set[str] = set()  # the variables of `--set`, and those that are made from them

    def runbook(self, sets: Mapping[str, str], path: str, folder: Path, text: str) -> Runbook | None:
        """Return the runbook, or None if an error leaves nothing to make it from."""
        # Some fields of a Runbook, such as its path, are not keys of the file.
        unknown = self.fields.keys() - wording.fields_of(Runbook).keys()
        self.problems += [(self.root.keys[key], wording.describe_unknown_key(key, Runbook, _WHOLE)) for key in unknown]
        apart = {*_LISTS, "vars", "notify", *unknown}
        data = {key: node.to_plain() for key, node in self.fields.items() if key not in apart}
        variables = self._variables(sets)
        head = replace(self.namespace, vars=variables, roots=("vars", "env", "host"))
        # Templates of the other fields can use `unit` and `port`; that of `port` can use `unit`.
        head = replace(head, roots=(*head.roots, "unit", "port"), unit=_read_early(data.get("unit"), _UNIT, head))
        head = replace(head, port=_read_early(data.get("port"), _PORTS, head) or ())
        # Where the value of the file is wrong, that is reported once, and not again where it is used.
        head = replace(head, misread=_find_misread(self.fields, unit=head.unit, port=head.port))
        self.namespace = replace(head, roots=ROOTS)
        lists = self._lists()
        self.rollback_ids = frozenset(site.id for outer in lists["rollback"] for site in outer.walk())
        for key, sites in lists.items():
            steps = tuple(step for site in sites if (step := self._step(site)) is not None)
            if key in self.fields and (key != "rollback" or sites):
                data[key] = steps
        self.problems += [_describe_lacking(key, sites) for key, sites in self.lacking.items()]
        data.setdefault("rollback", self._rollback())
        if (notify := self.fields.get("notify")) is not None:
            known = replace(self.namespace, earlier_steps=dict(self.before), run_facts=dict.fromkeys(RUN_FACTS))
            data["notify"] = read_notifications(notify, known, self.problems)
        walked = (site for sites in lists.values() for outer in sites for site in outer.walk())
        data["lines"] = {site.id: site.position.line for site in walked}
        data.update(vars=variables, path=path, folder=folder, text=text, namespace=self.namespace, types=self.types)
        if "steps" not in self.fields:
            self.problems.append((self.root.position, f"{_WHOLE} needs `steps`, a list with at least one step"))
            data["steps"] = ()
        try:
            book = Runbook.model_validate(data, context=head, by_alias=True, by_name=False)
        except ValidationError as error:
            self.problems += wording.describe_problems(error, Runbook, self.root, self.root.position, _WHOLE)
            return None
        for site, step in self.built:
            for key, sentence in step.validate_in(book):
                self.problems.append(((site.body.get(key) or site).position, sentence))
        return book

    # Names

    def _variables(self, sets: Mapping[str, str]) -> dict[str, Value]:
        """Return `vars`. Each may use those before it."""
        node = self.fields.get("vars", Node(self.root.position, {}))
        found: dict[str, Value] = {}
        if not isinstance(entries := node.value, dict):
            sentence = f"`vars` must be a mapping (`NAME: value`), not {describe_kind(entries)}"
            self.problems.append((node.position, sentence))
            return dict(sets)
        for name in sets:
            if name not in entries:
                hint = suggest(name, entries) or "; add it to `vars`"
                raise UsageError(f"cannot set `{shorten(name)}`: the runbook has no such variable{hint}")
        for name, value in entries.items():
            if not re.fullmatch(r"[A-Za-z]\w*(?:-+\w+)*", name, re.ASCII):
                how = "use letters, digits, - and _, a letter first"
                self.problems.append((node.keys[name], f"`{shorten(name)}` is not a valid name of a variable; {how}"))
            namespace = replace(self.namespace, vars=dict(found), roots=("vars", "env", "host"))
            if name in sets or self._is_given(value.to_plain()):
                self.given.add(name)
            read_one: Value
            if isinstance(value.value, list):
                read_one = tuple(self._text(name, item, namespace) for item in value.value)
            else:
                read_one = self._text(name, value, namespace)
            found[name] = sets.get(name, read_one)
        return found

    def _is_given(self, value: object) -> bool:
        """True if a template in a text, or in a list of texts, uses a variable of `--set`."""
        if isinstance(value, list):
            return any(map(self._is_given, value))
        try:
            parsed = parse_text(value) if isinstance(value, str) else ""
        except TemplateError:
            return False  # It is reported where the text is read.
        names = parsed.references if isinstance(parsed, Template) else ()
        return any(name.root == "vars" and ".".join(name.path) in self.given for name in names)

    def _text(self, name: str, node: Node, namespace: TemplateNamespace) -> str:
        if not isinstance(node.value, str):
            sentence = f"must be a text or a list of texts, not {describe_kind(node.value)}"
            if node.value is None:
                sentence = 'is empty; give it a value, or "" for an empty text'
            self.problems.append((node.position, f"the variable `{shorten(name)}` {sentence}"))
            return ""
        try:
            text = parse_text(node.value, variables=namespace.vars)
            return text.fill(namespace) if isinstance(text, Template) else text
        except TemplateError as error:
            self.problems.append((node.find(error.source), error.message))
            return ""

    # Steps

    def _lists(self) -> dict[str, list[StepNode]]:
        lists = {}
        for key in _LISTS:
            node = self.fields.get(key)
            words = key == "rollback" and node is not None and not isinstance(node.value, list)
            lists[key] = [] if words else find_steps(node, key, self.types, self.problems)
        assign_ids({_LISTS[key]: sites for key, sites in lists.items()}, self.problems)
        self.ids = frozenset(site.id for sites in lists.values() for outer in sites for site in outer.walk())
        return lists

    def _rollback(self) -> str:
        node = self.fields.get("rollback")
        if node is None or isinstance(node.value, list):
            return "off"
        if node.value in ("off", "auto"):
            return str(node.value)
        given = f"`{shorten(node.value)}`" if isinstance(node.value, str) else describe_kind(node.value)
        hint = suggest(node.value, ("off", "auto")) if isinstance(node.value, str) else ""
        self.problems.append((node.position, f"`rollback` must be off, auto or a list of steps, not {given}{hint}"))
        return "off"

    def _step(self, site: StepNode) -> Step[Any] | None:
        """Return one step, or None if it has an error. The steps nested in it are made first."""
        outer = replace(self.namespace, earlier_steps=dict(self.before), later_steps=self.ids - self.before.keys())
        fields = site.body.value
        assert isinstance(fields, dict)
        holders = find_nested_keys(site.cls)
        data = {key: node.to_plain() for key, node in fields.items() if key not in holders}
        for key, mark in holders.items():
            steps = [(inner, self._step(inner)) for inner in site.nested.get(key, ())]
            if key in fields:
                data[key] = tuple(step for _, step in steps if step is not None)
            if mark.read_only:
                self._require_read_only(key, steps)
        lacking = self._inherit(site, data)
        data["id"] = site.id
        if issubclass(site.cls, ReplacesVersion) and data.get("downgrade", "false") == "false":
            # An operator who gives a version means it, and a rollback goes back.
            data["downgrade"] = str(site.id in self.rollback_ids or self._is_given(data.get("to"))).lower()
        unit = _read_early(data.get("unit"), _UNIT, outer)
        port = _read_early(data.get("port"), _PORTS, outer)
        versions = VERSIONS if issubclass(site.cls, ReplacesVersion) else ()
        outer = replace(outer, misread=outer.misread | _find_misread(fields, unit=unit, port=port))
        namespace = outer.for_step(unit, port, versions)
        # What is missing was reported. With a placeholder, the other errors of the step are found as well.
        data.update(dict.fromkeys(lacking, "1"))
        self.before[site.id] = frozenset((*FACTS, *versions))
        try:
            step = site.cls.model_validate(data, context=namespace, by_alias=True, by_name=False)
        except ValidationError as error:
            self.problems += wording.describe_problems(error, site.cls, site.body, site.position, site.cls.type_name)
            return None
        if lacking:
            return None
        self.built.append((site, step))
        return step

    def _inherit(self, site: StepNode, data: dict[str, Any]) -> list[str]:
        """Fill in what the step takes from the top of the file. Return the fields that are in neither place."""
        top = {"unit": self.namespace.unit, "port": self.namespace.port or None}
        lacking = []
        for key in (key for key in INHERITED_FIELDS if key in site.cls.model_fields and key not in data):
            if top[key] is not None:
                data[key] = top[key]
            elif site.cls.model_fields[key].is_required():
                lacking.append(key)
                if key not in self.fields:
                    self.lacking.setdefault(key, []).append(site)
        return lacking

    def _require_read_only(self, key: str, steps: list[tuple[StepNode, Step[Any] | None]]) -> None:
        for site, step in steps:
            # If the step has an error, what it does may depend on a field that is wrong: then only the type counts.
            sure = site.cls.only_reads is Step.only_reads and site.cls.can_change()
            if sure if step is None else not step.only_reads():
                sentence = f"{site.cls.type_name} changes something; `{key}` accepts only steps that change nothing"
                self.problems.append((site.position, sentence))


def _describe_lacking(key: str, sites: Sequence[StepNode]) -> tuple[Position, str]:
    """Return that steps need a field: one error, since one line at the top of the file corrects all of them."""
    first, more = min(sites, key=lambda site: site.position), len(sites) - 1
    kind = first.cls.type_name
    if not more:
        return first.position, f"{kind} needs `{key}`, here or at the top of the file"
    these = f"{kind} and {more} more step{'s' if more > 1 else ''}"
    return first.position, f"{these} need `{key}`; write it at the top of the file"


def _read_early(value: Any, adapter: TypeAdapter[Any], namespace: TemplateNamespace) -> Any:
    """Return a field that the namespace of other fields needs. Its errors are reported with the field itself."""
    try:
        return adapter.validate_python(value, context=namespace) if value is not None else None
    except ValidationError:
        return None


def _find_misread(fields: Container[str], **read: object) -> frozenset[str]:
    """Return the names of the fields that are there, and whose value could not be read."""
    return frozenset(name for name, value in read.items() if name in fields and not value)
