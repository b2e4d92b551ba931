"""Rewrites checks of the new version for the previous one, so that a rollback can use them."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runbook.checks.versions import rewrite_versions
from runbook.spec.step import Step
from runbook.template.expression import Expression
from runbook.template.namespace import Reference
from runbook.template.text import Template, map_texts, write_quoted

VERSION_TEXT_FIELDS = ("name", "expect")  # fields whose text may contain a version: all of the text is rewritten
PATTERN_FIELDS = ("pattern", "body", "expect_output")  # patterns, in which a version is written as in a pattern
UNVERSIONED_FIELDS = ("id", "unit", "when")  # they stay: what they name has this name whichever version serves


def map_previous_versions(updates: Iterable[Mapping[str, Any]]) -> tuple[dict[str, str], set[str]]:
    """Return the previous version of each new one, and the new ones whose previous version is ambiguous."""
    previous: dict[str, set[str]] = {}
    for facts in updates:
        if facts["from"]:
            previous.setdefault(facts["to"], set()).add(facts["from"])
    one = {new: next(iter(old)) for new, old in previous.items() if len(old) == 1}
    return one, previous.keys() - one.keys()


@dataclass
class VersionRewriter:
    """Rewrites the fields of one step.

    A command, a URL or a path may contain a version's digits for another reason, and a shell may interpret them. So in
    these only a value that a template inserts is replaced, and only if it is quoted or needs no quotes.
    """

    versions: Mapping[str, str]  # the previous version of each new one
    unchanged: dict[str, str] = field(default_factory=dict)
    """The YAML keys that contain a new version themselves and were left as they are, with that version."""

    def rewrite(self, text: str, name: str) -> str:
        """Return a text of the field `name`, rewritten. A Template is rewritten when its values are inserted."""
        if not isinstance(text, Template):
            return self._rewrite_text(text, name)
        put, finish = text.write_value, text.finish

        def write_value(value: Any, piece: Expression) -> str:
            if isinstance(value, str):
                quoted = put is write_quoted and not piece.raw
                value = self._rewrite_value(str(value), name, piece.references, quoted=quoted)
            return put(value, piece)

        return Template(text.parts, write_value, lambda t: finish(self._rewrite_text(t, name)), text.known_namespace)

    def _rewrite_text(self, text: str, name: str) -> str:
        if name in VERSION_TEXT_FIELDS or name in PATTERN_FIELDS:
            return rewrite_versions(text, self.versions, pattern=name in PATTERN_FIELDS)
        matches = (new for new in self.versions if "." in new and rewrite_versions(text, {new: ""}) != text)
        if (new := next(matches, None)) is not None:
            self.unchanged[name.replace("_", "-")] = new
        return text

    def _rewrite_value(self, value: str, name: str, references: Iterable[Reference], *, quoted: bool) -> str:
        """Return the replacement of a value that a template inserts, and that it will quote for a shell if `quoted`."""
        old = self.versions.get(value)
        if old is None or name in VERSION_TEXT_FIELDS or name in PATTERN_FIELDS:
            return value  # `_rewrite_text` rewrites all of it.
        if not quoted and not re.fullmatch(r"\w[\w.+~-]*", old, re.ASCII) and shlex.quote(old) != old:
            return value  # A program printed it, and here a shell would interpret it.
        # A version without a dot could be any number, unless the template refers to it as a version.
        is_reference = all(name.root == "steps" and name.path[-1:] == ("to",) for name in references)
        return old if "." in value or is_reference else value


def rewrite_step(
    step: Step[Any], versions: Mapping[str, str], names: Iterable[str]
) -> tuple[Step[Any], dict[str, str]]:
    """Return the step with the previous versions in the fields `names`.

    Also returns the YAML keys that contain a new version and could not be rewritten, with that version.
    """
    change = VersionRewriter(versions)
    fields = (name for name in names if name not in UNVERSIONED_FIELDS)
    read = {name: map_texts(getattr(step, name), name, change.rewrite) for name in fields}
    return step.model_copy(update=read), change.unchanged


def find_named_updates(expect: str | None) -> set[str] | None:
    """Return the updates whose `to` an `expect` refers to; None if it is no template."""
    if not isinstance(expect, Template):
        return None
    return {name.path[0] for name in expect.references if name.root == "steps" and name.path[1:] == ("to",)}
