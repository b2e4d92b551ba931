"""Reads `notify`: of a runbook, and of the machine, whose entries apply to every run."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pydantic import ValidationError

from runbook.document.nodes import Node, Problems, compose
from runbook.document.wording import describe_problems
from runbook.errors import DocumentError, Problem
from runbook.spec.notification import MAX_NOTIFICATIONS, Notification
from runbook.spec.readers import describe_kind
from runbook.template.namespace import RUN_FACTS, TemplateNamespace
from runbook.util.wording import shorten, split_hint

MACHINE_FILE = "/etc/runbook/notify.yaml"
_KEY = "notify"
_EMPTY_LINE = re.compile(rb"\s*(#.*)?")


def read_notifications(node: Node, namespace: TemplateNamespace, problems: Problems) -> tuple[Notification, ...]:
    """Return the entries of a list; add its errors to `problems`."""
    if not isinstance(node.value, list) or not node.value:
        problems.append((node.position, f"`{_KEY}` must be a list (`- …`), not {describe_kind(node.to_plain())}"))
        return ()
    if len(node.value) > MAX_NOTIFICATIONS:
        problems.append((node.position, f"`{_KEY}` has more than {MAX_NOTIFICATIONS} entries"))
        return ()
    found = [_read_entry(item, namespace, problems) for item in node.value]
    return tuple(filter(None, found))


def _read_entry(item: Node, namespace: TemplateNamespace, problems: Problems) -> Notification | None:
    try:
        return Notification.model_validate(item.to_plain(), context=namespace, by_alias=True, by_name=False)
    except ValidationError as error:
        problems += describe_problems(error, Notification, item, item.position, f"an entry of `{_KEY}`")
        return None


def parse_machine_file(
    data: bytes, environ: Mapping[str, str], host: str, name: str = MACHINE_FILE
) -> tuple[Notification, ...]:
    """Return the entries in the file of the machine. Raises DocumentError with all errors of the file.

    A file of comments alone has none. The templates can use what every run has: its unit may be missing.
    """
    if all(_EMPTY_LINE.fullmatch(line) for line in data.splitlines()):
        return ()
    namespace = TemplateNamespace(
        env=environ,
        host=host,
        roots=("env", "host", "unit", "run"),
        misread=frozenset({"unit"}),
        run_facts=dict.fromkeys(RUN_FACTS),
    )
    problems: Problems = []
    found: tuple[Notification, ...] = ()
    root = compose(data, problems)
    if root is not None and (not isinstance(root.value, dict) or _KEY not in root.value):
        problems.append((root.position, f"the file must have the key `{_KEY}`; write `{_KEY}:` above the list"))
    elif root is not None and isinstance(root.value, dict):
        unknown = [key for key in root.value if key != _KEY]
        problems += [(root.keys[key], f"unknown key `{shorten(key)}`; the only key is `{_KEY}`") for key in unknown]
        found = read_notifications(root.value[_KEY], namespace, problems)
    if problems:
        raise DocumentError(sorted(Problem(name, at.line, at.column, *split_hint(what)) for at, what in problems))
    return found
