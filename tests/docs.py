"""The parts of the pages that are generated from the code. `python -m tests.docs` writes them again.

A part is between `<!-- NAME -->` and `<!-- /NAME -->`. Do not edit it by hand.
"""

from __future__ import annotations

import ast
import configparser
import inspect
import os
import re
import sys
import textwrap
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from typer.main import get_command
from typer.testing import CliRunner

from runbook import cli
from runbook.document import reference
from runbook.document.reference import FieldReference
from runbook.host.ownership import roles as judgement
from runbook.model import Verdict
from runbook.report.event_schema import make_event_schema
from runbook.steps import registry
from runbook.template.filters import FILTERS

ROOT = Path(__file__).parent.parent
DOCS = ROOT / "docs"
REFERENCE = DOCS / "reference"
SOURCE = ROOT / "src" / "runbook"

PART = re.compile(r"^<!-- ([a-z]+) -->\n.*?^<!-- /\1 -->$", re.MULTILINE | re.DOTALL)

BLOCK = re.compile(
    r"(?P<source>(?:^<!-- [^\n]*-->\n)*)^```(?P<language>\w+)(?: (?P<kind>\w+))?\n(?P<text>.*?)^```$",
    re.MULTILINE | re.DOTALL,
)
"""A fenced block, with the comments right above it, which name its source."""

Parts = dict[str, Callable[[], str]]
"""Functions that make the parts of a page, by the names of the parts."""


def pages() -> list[Path]:
    """Return the paths of all pages of the project."""
    return sorted([*ROOT.glob("*.md"), *DOCS.rglob("*.md")])


def blocks_of_test(name: str) -> list[str]:
    """Return the blocks whose commands the test `name` runs: those below a comment `<!-- tested: NAME -->`."""
    blocks = [block for page in pages() for block in BLOCK.finditer(page.read_text())]
    return [block["text"] for block in blocks if f"<!-- tested: {name} -->\n" in block["source"]]


def commands_in(block: str) -> list[str]:
    """Return the commands of a console block: the text after each prompt, with its continuation lines."""
    return [command.removeprefix("$ ") for command in re.findall(r"^\$ (?:.*\\\n)*.*$", block, re.MULTILINE)]


def parts() -> dict[Path, Parts]:
    """Return the generated parts of each page."""
    made: dict[Path, Parts] = {
        REFERENCE / "runbook-file.md": {
            "top": lambda: _table(reference.describe_top_level()),
            "steps": step_types,
            "common": lambda: _table(_common()),
            "notify": notifications,
            "filters": lambda: ", ".join(f"`{name}`" for name in ("raw", *FILTERS)),
        },
        REFERENCE / "verdicts.md": {"verdicts": verdicts},
        REFERENCE / "events.md": {"events": events},
        REFERENCE / "command-line.md": {"commands": commands},
        DOCS / "explanation" / "architecture.md": {"layers": layers},
        DOCS / "explanation" / "port-ownership.md": {"roles": roles},
    }
    for entry in reference.describe_types():
        made[REFERENCE / "steps" / f"{entry.type_name}.md"] = {"fields": lambda kind=entry.type_name: fields(kind)}  # type: ignore[misc]
    return made


def written(text: str, made: Parts) -> str:
    """Return a page with its parts made again. Raises ValueError if it lacks the comments of a part."""
    missing = made.keys() - {match[1] for match in PART.finditer(text)}
    if missing:
        raise ValueError(f"the page has no comments for the parts {', '.join(sorted(missing))}")

    def part(match: re.Match[str]) -> str:
        name = match[1]
        return f"<!-- {name} -->\n{made[name]().strip()}\n<!-- /{name} -->" if name in made else match[0]

    return PART.sub(part, text)


# -- the parts ---------------------------------------------------------------------------------------------------


def fields(kind: str) -> str:
    """Return the tables of a step type's fields: its own, its time-out, and those of nested mappings."""
    rows = reference.describe_type(kind).rows
    own = [row for row in rows if not row.common or row.key == "timeout"]
    tables = [_table(own), "Every step also takes the [fields of every step](../runbook-file.md#fields-of-every-step)."]
    tables += _inner(own, "")
    return "\n\n".join(tables)


def notifications() -> str:
    """Return the tables of an entry of `notify`."""
    return "\n\n".join(_inner([row for row in reference.describe_top_level() if row.key == "notify"], ""))


def step_types() -> str:
    """Return the table of the step types, what each does, and whether it changes anything."""
    lines = [
        f"| [`{name}`](steps/{name}.md) | {_cell(entry.summary)} | {'yes' if entry.changes else 'no'} |"
        for name, entry in ((entry.type_name, entry) for entry in reference.describe_types())
    ]
    return "\n".join(["| type | what it does | changes the host |", "|---|---|---|", *lines])


def verdicts() -> str:
    """Return the tables of the verdicts, by subject, in the order of the code."""
    given = given_verdicts()
    lines: list[str] = []
    for line in inspect.getsource(Verdict).splitlines():
        if heading := re.fullmatch(r"    # (\w+)", line):
            lines += ["", f"## {heading[1]}", "", "| verdict | means |", "|---|---|"]
        elif name := re.match(r"    ([A-Z_]+) = ", line):
            verdict = Verdict[name[1]]
            later = "" if verdict in given else " *No step of this version gives it.*"
            lines.append(f"| `{verdict}` | {_cell(verdict.meaning)}.{later} |")
    return "\n".join(lines)


def events() -> str:
    """Return a table of the keys of each event, from the schema."""
    schema = make_event_schema()
    lines: list[str] = []
    for name, event in (("every line", schema), *schema["$defs"].items()):
        lines += ["", f"## {name}", "", event["description"], "", "| key | type | |", "|---|---|---|"]
        for key, what in event["properties"].items():
            left_out = "" if key in event["required"] else " *May be left out.*"
            lines.append(f"| `{key}` | {_json_type(what)} | {_cell(what['description'])}.{left_out} |")
    return "\n".join(lines)


def _json_type(what: dict[str, Any]) -> str:
    kinds = what.get("anyOf", [what])
    inner = [f" of {_json_type(kind['items'])}s" if "items" in kind else "" for kind in kinds]
    return " or ".join(kind["type"] + of for kind, of in zip(kinds, inner, strict=True))


def given_verdicts(*modules: Path) -> set[Verdict]:
    """Return the verdicts that modules can return: the given modules, or all of the program.

    A verdict that is only compared with is not counted. The `failure_verdict` of a step type is read from its class.
    """
    found = set()
    for path in modules or SOURCE.rglob("*.py"):
        found |= set(_given(ast.parse(path.read_text())))
    return found if modules else found | {cls.failure_verdict for cls in registry().values()}


def _given(node: ast.AST) -> Iterator[Verdict]:
    match node:
        case ast.Compare() | ast.AnnAssign(target=ast.Name(id="failure_verdict")):
            return
        case ast.Attribute(value=ast.Name(id="Verdict"), attr=name) if name in Verdict.__members__:
            yield Verdict[name]
    for child in ast.iter_child_nodes(node):
        yield from _given(child)


def commands() -> str:
    """Return the `--help` of each command."""
    shown = [("runbook", ["--help"]), *((f"runbook {name}", [name, "--help"]) for name in _commands())]
    return "\n\n".join(f"## {title}\n\n```text\n{_help_of(argv)}\n```" for title, argv in shown)


def layers() -> str:
    """Return the layers that import-linter checks, the highest first; modules of the same layer share a line."""
    read = configparser.ConfigParser()
    read.read(ROOT / ".importlinter")
    lines = read["importlinter:contract:layers"]["layers"].strip().splitlines()
    return "\n".join(["```text", *(line.replace("runbook.", "").replace(" : ", "   ") for line in lines), "```"])


def roles() -> str:
    """Return the drawing of the roles: the indented part of the module's docstring."""
    drawing = re.findall(r"^(?: {4}.*\n)+", inspect.getdoc(judgement) or "", re.MULTILINE)
    return f"```text\n{textwrap.dedent(drawing[0]).rstrip()}\n```"


def options_of(command: str) -> set[str] | None:
    """Return the options of a command, or None if there is no such command."""
    found = _commands().get(command)
    return None if found is None else {"-h", "--help", *found}


def _commands() -> dict[str, list[str]]:
    group = get_command(cli.app)
    listed = getattr(group, "commands", {})
    return {name: [option for p in command.params for option in p.opts] for name, command in listed.items()}


def _help_of(argv: list[str]) -> str:
    # The help is as wide as in a terminal of 80 columns, on every computer.
    before = os.environ.get("COLUMNS")
    os.environ["COLUMNS"] = "80"
    try:
        result = CliRunner().invoke(cli.app, argv, prog_name="runbook")
    finally:
        if before is None:
            del os.environ["COLUMNS"]
        else:
            os.environ["COLUMNS"] = before
    assert result.exit_code == 0, result.output
    return "\n".join(line.rstrip() for line in result.output.strip().splitlines())


def _common() -> list[FieldReference]:
    """Return the fields of every step. The default of `timeout` is that of the type."""
    entry = next(iter(reference.describe_types()))
    rows = [row for row in entry.rows if row.common]
    return [
        FieldReference(**{**vars(row), "default": "that of the type"}) if row.key == "timeout" else row for row in rows
    ]


def _table(rows: Iterable[FieldReference]) -> str:
    lines = ["| field | type | default | |", "|---|---|---|---|"]
    for row in rows:
        default = "**required**" if row.required else _default(row)
        lines.append(f"| `{row.key}` | {_cell(row.type)} | {default} | {_cell(row.description)} |")
    return "\n".join(lines)


def _default(row: FieldReference) -> str:
    if not row.default or row.default.startswith("that of"):
        return row.default
    return f"`{_cell(row.default)}`"


def _inner(rows: Iterable[FieldReference], above: str) -> Iterator[str]:
    for row in rows:
        if row.fields:
            path = f"{above}{row.key}"
            yield f"In `{path}`:\n\n{_table(row.fields)}"
            yield from _inner(row.fields, f"{path}.")


def _cell(text: str) -> str:
    """Escape a text for a cell of a table. A bar ends the cell even inside backticks."""
    return text.replace("|", "\\|").replace("\n", " ")


def main() -> int:
    """Write all parts again, and print the pages that changed."""
    for path, made in parts().items():
        text = path.read_text()
        new = written(text, made)
        if new != text:
            path.write_text(new)
            print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
