"""Lets a check that was written for the new version speak of the earlier one, and says where it cannot."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from runbook.checks.versions import rewrite_versions
from runbook.spec.step import Step
from runbook.template import Reference, Template, rewrite

VERSION_TEXT_FIELDS = ("name", "expect")
"""Fields that speak of a version in so many words."""

PATTERN_FIELDS = ("pattern", "body", "expect_output")
"""Fields that are looked for in an answer."""

UNVERSIONED_FIELDS = ("id", "unit", "when")
"""Fields of a check in which no version is looked for: what they name is there under that name, whatever serves."""


def map_previous_versions(updates: Iterable[Mapping[str, Any]]) -> tuple[dict[str, str], set[str]]:
    """Lead each new version back to the earlier one; and give those of which it is not known which one that is."""
    found: dict[str, set[str]] = {}
    for facts in updates:
        if facts["from"]:
            found.setdefault(facts["to"], set()).add(facts["from"])
    one = {new: next(iter(old)) for new, old in found.items() if len(old) == 1}
    return one, found.keys() - one.keys()


@dataclass
class VersionRewriter:
    """Changes the fields of one step. `kept` are those that name a new version themselves, and stay as they are.

    A command, an address or a path may hold a version's digits for another reason, and a shell reads what stands in
    it. So there only a value that a template puts in is changed, and only where it is quoted, or needs no quotes.
    """

    versions: Mapping[str, str]
    unchanged: dict[str, str] = field(default_factory=dict)

    def text(self, text: str, name: str) -> str:
        """Give a text that stands in the field `name`, whole."""
        if name in VERSION_TEXT_FIELDS or name in PATTERN_FIELDS:
            return rewrite_versions(text, self.versions, pattern=name in PATTERN_FIELDS)
        named = (new for new in self.versions if "." in new and rewrite_versions(text, {new: ""}) != text)
        if (new := next(named, None)) is not None:
            self.unchanged[name.replace("_", "-")] = new
        return text

    def value(self, value: str, name: str, references: Iterable[Reference], *, quoted: bool) -> str:
        """Give a value that a template puts into the field `name`."""
        old = self.versions.get(value)
        if old is None or name in VERSION_TEXT_FIELDS or name in PATTERN_FIELDS:
            return value  # Of those the whole text is changed.
        if not quoted and not re.fullmatch(r"\w[\w.+~-]*", old, re.ASCII) and shlex.quote(old) != old:
            return value  # It is what a program printed, and a shell may read it here.
        # A version without a dot is any number, unless it is asked for as a version.
        asked = all(name.root == "steps" and name.path[-1:] == ("to",) for name in references)
        return old if "." in value or asked else value


def rewrite_step(
    step: Step[Any], versions: Mapping[str, str], names: Iterable[str]
) -> tuple[Step[Any], dict[str, str]]:
    """Let a step speak of the earlier version, in the fields `names`; and give those that name a new one all the same.

    They lead to the version that they name.
    """
    change = VersionRewriter(versions)
    read = {name: rewrite(getattr(step, name), change, name) for name in names if name not in UNVERSIONED_FIELDS}
    return step.model_copy(update=read), dict(change.unchanged)


def find_named_updates(expect: str | None) -> set[str] | None:
    """Give the updates whose `to` an `expect` asks for; None for one that is whole, and asks for nothing."""
    if not isinstance(expect, Template):
        return None
    return {name.path[0] for name in expect.references if name.root == "steps" and name.path[1:] == ("to",)}
