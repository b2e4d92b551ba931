"""Malicious names and values: refused or taken literally, and never slow."""

from __future__ import annotations

import contextlib
import time
from dataclasses import replace
from pathlib import Path

import pytest

from runbook.document import parse
from runbook.document.nodes import MAX_BYTES
from runbook.errors import DocumentError, UsageError
from runbook.host.systemd.transient import transient_unit_name as command_unit
from runbook.template.namespace import TemplateError, TemplateNamespace
from runbook.template.text import parse_expression
from runbook.util.names import parse_unit_name
from runbook.util.wording import shorten
from tests.unit.document.test_robust import judge, problems_of

HOSTILE = {
    "an option": "-h",
    "a long option": "--now",
    "a way out": "../../etc/passwd",
    "the folder above": "..",
    "a path": "/etc/passwd",
    "a line break": "a\nb",
    "a NUL": "a\0b",
    "an escape": "a\x1b[31m",
    "C1": "a\x9b31m",
    "a specifier": "%n",
    "a glob": "*",
    "a space": "a b",
    "a substitution": "$(id)",
    "a command": "a;id",
    "a quote": "a'b",
    "right to left": "a\u202egnp",
    "no width": "a\u200bb",
    "looks alike": "g\u0430teway",
    "a line separator": "a\u2028b",
    "nothing": "",
    "long": "x" * 300,
    "half a surrogate": "a\udcffb",
}

UNITS = {"-h": "-h.service", "--now": "--now.service", "..": "...service"}
"""Odd names that are valid for a unit (systemd.unit(5)), and their full names: never a path, nor an option."""


def yaml(value: str) -> str:
    """Return a text as a YAML scalar that is read as this text."""
    return '"' + "".join(f"\\U{ord(char):08X}" for char in value) + '"'


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_a_unit(value: str) -> None:
    if value in UNITS:
        assert parse_unit_name(value) == UNITS[value]
        return
    with pytest.raises(ValueError, match=r"name|path|template") as refused:
        parse_unit_name(value)
    assert str(refused.value).isprintable()


PLACES = {
    "unit": "unit: {}\nsteps: [restart]",
    "the unit of a step": "steps: [restart: {{unit: {}}}]",
    "id": "unit: gw\nsteps: [restart: {{id: {}}}]",
    "variable": "vars: {{{}: x}}\nunit: gw\nsteps: [restart]",
    "environment": "env: {{{}: x}}\nunit: gw\nsteps: [restart]",
    "step type": "unit: gw\nsteps: [{}]",
    "key": "unit: gw\nsteps: [restart: {{{}: x}}]",
    "span": "unit: gw\nsteps: [restart: {{timeout: {}}}]",
    "port": "unit: gw\nport: {}\nsteps: [verify-port-owner]",
    "version": "unit: gw\nsteps: [update: {{run: a, version: b, to: {}}}]",
    "header": "unit: gw\nport: 1\nsteps: [wait-ready: {{probes: [http: {{url: 'http://x', headers: {{{}: x}}}}]}}]",
    "the value of a header": (
        "unit: gw\nport: 1\nsteps: [wait-ready: {{probes: [http: {{url: 'http://x', headers: {{a: {}}}}}]}}]"
    ),
    "pattern": "unit: gw\nsteps: [run: {{run: a, expect-output: {}}}]",
    "user": "unit: gw\nsteps: [run: {{run: a, user: {}}}]",
    "command": "unit: gw\nsteps: [run: {{run: {}}}]",
    "argument": "unit: gw\nsteps: [run: {{run: [a, {}]}}]",
    "signal": "unit: gw\nport: 1\nsteps: [kill-orphan: {{signal: {}}}]",
    "name": "name: {}\nunit: gw\nsteps: [restart]",
    "when": "unit: gw\nsteps: [restart: {{when: {}}}]",
}


@pytest.mark.parametrize("place", PLACES.values(), ids=PLACES)
@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_a_hostile_value_in_a_file(place: str, value: str) -> None:
    judge(place.format(yaml(value)))


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_an_id_is_the_name_of_a_file_and_of_a_unit(value: str) -> None:
    assert problems_of(PLACES["id"].format(yaml(value))), "none of these is one"
    longest = "x" * 200
    assert parse(PLACES["id"].format(longest), "f").steps[0].id == longest
    assert len(f"{longest}.log.result.1234") < 255
    assert len(command_unit(f"20261124-1200-abc-{longest}-99")) < 255


@pytest.mark.parametrize("value", HOSTILE.values(), ids=HOSTILE)
def test_a_value_of_set_is_a_text_and_never_a_name(value: str) -> None:
    text = "vars: {x: a}\nsteps: [run: {run: [echo, '${{ vars.x }}']}]"
    if value in (HOSTILE["a NUL"], HOSTILE["half a surrogate"]):  # Which no command can take.
        with pytest.raises(DocumentError) as wrong:
            parse(text, "f", sets={"x": value})
        assert [problem.message.isprintable() for problem in wrong.value.problems] == [True]
    else:
        assert parse(text, "f", sets={"x": value}).vars["x"] == value
    if value != "x":
        with pytest.raises(UsageError) as refused:
            parse(text, "f", sets={value: "a"})
        assert refused.value.message.isprintable()


# -- templates

CODE = [
    "vars.__class__", "''.__class__", "vars['__class__']", "unit.__class__.__mro__", "x|attr('__class__')", "().x",
    "vars.x()", "range(10**9)", "vars.x|map('upper')", "self", "config", "request", "cycler", "lipsum.__globals__",
    "joiner()", "namespace()", "9**9**9", "'a'*10**9", "1 + 1", "[1][0:]", "vars.x|format(1)", "vars.x|tojson",
    "{'a': 1}", "vars.x if", "{% for x in y %}", "{{ vars.x }}", "{# x #}", "vars.x|list", "vars.x|batch(10**9)",
    "_0", "__import__('os')", "vars.x is callable", "vars.x|default(vars.x())", "lambda: 1", "vars.x.upper", "1_000",
]  # fmt: skip


@pytest.mark.parametrize("source", CODE)
def test_no_template_runs_code(source: str) -> None:
    problems = problems_of("vars: {x: a}\nunit: gw\nsteps: [run: {run: [echo, " + yaml(f"${{{{ {source} }}}}") + "]}]")
    assert problems, source


SLOW = [
    "vars.x ~ " * 40 + "vars.x",
    "(" * 300 + "vars.x" + ")" * 300,
    "not " * 200 + "vars.x",
    "[" * 300 + "]" * 300,
    "vars.x" + "|replace('a', 'aaaaaaaaaaaaaaaa')" * 20,
    "vars.x" + "|upper" * 100,
    "vars.x" + "|split('')" * 10,
    "'" + "\\" * 900,
    "vars.x if vars.x else " * 40 + "vars.x",
    "9" * 990,
    " or ".join(["vars.x"] * 100),
    "~" * 1000,
]


@pytest.mark.parametrize("source", SLOW, ids=range(len(SLOW)))
def test_no_template_takes_long(source: str) -> None:
    scope = replace(TemplateNamespace(), vars={"x": "a" * 50_000})
    begun = time.process_time()
    with contextlib.suppress(TemplateError):
        parse_expression(source).value(scope)
    assert time.process_time() - begun < 5, "seconds of the processor, where all of them take some thousandths"


# -- files that are no runbooks

BOMB = "a: &a [x, x, x, x, x, x, x, x, x]\n" + "".join(
    f"{new}: &{new} [{', '.join([f'*{old}'] * 9)}]\n" for old, new in zip("abcdefgh", "bcdefghi", strict=True)
)

FILES: dict[str, tuple[bytes, str]] = {
    "billion laughs": (BOMB.encode(), "more than 50000 values"),
    "one that holds itself": (b"steps: &a [*a]\n", "is inside its own definition"),
    "deep lists": (b"steps: " + b"[" * 100_000, "nested more than 32 levels deep"),
    "deep mappings": (b"steps: " + b"{a: " * 100_000, "nested more than 32 levels deep"),
    "deep lines": (b"\n".join(b" " * at + b"a:" for at in range(1000)), "nested more than 32 levels deep"),
    "50 MB": (b"steps: [restart]\n#" + b"x" * 50 * MAX_BYTES, "larger than 1 MiB"),
    "a NUL": (b"steps: [restart]\0\n", "U+0000 is not allowed"),
    "not UTF-8": (b"steps: [restart]\n\xff\xfe", "not UTF-8"),
    "UTF-16": ("steps: [restart]".encode("utf-16"), "not UTF-8"),
    "tabs": (b"steps:\n\t- restart\n", ""),
    "many keys": (b"".join(b"k%d: x\n" % at for at in range(26_000)), "more than"),
    "a key twice": (b"unit: a\nunit: b\nsteps: [restart]\n", "duplicate key `unit`"),
    "only comments": (b"#\n" * 100_000, "the file is empty"),
    "many documents": (b"--- a\n" * 10_000, "a second document"),
    "a long line": (b"name: " + b"x" * (MAX_BYTES - 10), ""),
    "many anchors": (b"steps: [" + b"".join(b"&a%d x, " % at for at in range(4_000)) + b"]", ""),
    "directives": (b"%YAML 9.9\n---\nsteps: [restart]", ""),
    "tags": (b"!!python/object/apply:os.system ['id']", "the tag"),
    "a number without end": (b"unit: gw\nsteps: [restart: {retries: " + b"9" * 100_000 + b"}]", ""),
    "a span without end": (b"unit: gw\nsteps: [restart: {timeout: " + b"9" * 100_000 + b"}]", ""),
    "many templates": (b"steps: [run: {run: '" + b"${{ unit }}" * 20_000 + b"'}]", ""),
    "a pattern that explodes": (
        b"unit: gw\nsteps: [run: {run: a, expect-output: '" + b"(" * 900 + b")" * 900 + b"'}]",
        "",
    ),
}


@pytest.mark.parametrize("kind", FILES)
def test_a_malicious_file_is_refused_quickly(kind: str) -> None:
    data, why = FILES[kind]
    begun = time.process_time()
    judge(data)
    problems = problems_of(data)
    assert time.process_time() - begun < 20, "seconds of the processor, for two readings"
    assert problems
    assert [p for p in problems if why in p.message], problems[:3]


@pytest.mark.parametrize(
    "change", [lambda t: b"\xef\xbb\xbf" + t, lambda t: t.replace(b"\n", b"\r\n")], ids=["BOM", "CRLF"]
)
def test_files_of_other_editors_are_read(change: object) -> None:
    assert callable(change)
    text: bytes = change(b"unit: gw\nsteps:\n  - restart\n  - run: |\n      echo a\n")
    assert problems_of(text) == problems_of(b"unit: gw\nsteps:\n  - restart\n  - run: |\n      echo a\n")


def test_names_in_messages_are_shown_on_one_line(tmp_path: Path) -> None:
    for value in HOSTILE.values():
        assert shorten(value).isprintable()
