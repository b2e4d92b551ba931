"""Valid files, and the runbooks that they become."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from runbook.document import parse
from runbook.errors import DocumentError, UsageError
from runbook.model import Port
from runbook.spec.runbook import Runbook
from runbook.spec.step import ReplacesVersion
from runbook.template.text import Template, fill

GATEWAY = """
name: upgrade the OpenClaw gateway
unit: openclaw-gateway
port: 18789
vars:
  version: "2026.5.5"
steps:
  - update:
      run: npm install --global openclaw@${{ to }}
      version: openclaw --version
      to: ${{ vars.version }}
      timeout: 10min
  - restart
  - remediate:
      check:
        - wait-ready: {healthy-for: 10s, timeout: 2min}
        - verify-port-owner
      fix: [stop, kill-orphan, reset-failed, start]
      rounds: 2
rollback: auto
"""


def ids(book: Runbook) -> list[str | None]:
    return [step.id for step in book.walk()]


def book_of(steps: str, head: str = "unit: gw\nport: 80\n", **options: Any) -> Runbook:
    return parse(head + "steps:\n" + steps, "f.yaml", environ={}, **options)


def test_only_an_update_has_versions() -> None:
    steps = (
        '- update: {run: x, version: y, to: 1.2}\n- restart\n- run: {run: "x ${{ steps.KIND.to ~ steps.KIND.from }}"}\n'
    )
    assert len(book_of(steps.replace("KIND", "update")).steps) == 3
    with pytest.raises(DocumentError, match="step `restart` has no `to`"):
        book_of(steps.replace("KIND", "restart"))


def test_the_runbook_of_the_incident() -> None:
    book = parse(GATEWAY, "upgrade.yaml", environ={})
    assert book.title == "upgrade the OpenClaw gateway"
    assert book.unit == "openclaw-gateway.service"
    assert book.port == (Port(18789),)
    assert ids(book) == [
        "update",
        "restart",
        "remediate",
        "remediate.check.wait-ready",
        "remediate.check.verify-port-owner",
        "remediate.fix.stop",
        "remediate.fix.kill-orphan",
        "remediate.fix.reset-failed",
        "remediate.fix.start",
    ]
    assert {step.units() for step in book.walk()} - {()} == {("openclaw-gateway.service",)}
    assert (book.rollback, book.text, book.path, book.folder) == ("auto", GATEWAY, "upgrade.yaml", Path.cwd())
    update = fill(book.steps[0], book.namespace.for_run("r", {}))
    assert (update.run, update.timeout) == ("npm install --global openclaw@2026.5.5", 600)  # type: ignore[attr-defined]


def test_a_second_step_of_a_type_is_numbered() -> None:
    steps = """
  - restart
  - stop
  - restart
  - restart: {id: restart-3}
  - restart
  - remediate: {check: [verify-port-owner, verify-port-owner], fix: [start]}
  - remediate: {id: mend, check: [verify-port-owner], fix: [start]}
"""
    assert ids(book_of(steps)) == [
        "restart",
        "stop",
        "restart-2",
        "restart-3",
        "restart-4",
        "remediate",
        "remediate.check.verify-port-owner",
        "remediate.check.verify-port-owner-2",
        "remediate.fix.start",
        "mend",
        "mend.check.verify-port-owner",
        "mend.fix.start",
    ]


def test_steps_of_rollback_and_always_have_prefixed_ids() -> None:
    book = book_of("  - restart\n", "unit: gw\nrollback: [stop, restart]\nalways: [restart: {id: last}, restart]\n")
    assert ids(book) == ["restart", "rollback.stop", "rollback.restart", "last", "always.restart"]


def test_a_step_can_be_written_in_three_ways() -> None:
    book = book_of("  - restart\n  - restart:\n  - restart: {timeout: 7s}\n")
    assert [step.timeout for step in book.steps] == [None, None, 7]


def test_unit_and_port_of_a_step_override_those_of_the_file() -> None:
    book = book_of("  - verify-port-owner: {unit: other, port: [81, 'udp:82']}\n  - verify-port-owner\n")
    first, second = book.steps
    assert (first.unit, first.port) == ("other.service", (Port(81), Port(82, "udp")))  # type: ignore[attr-defined]
    assert (second.unit, second.port) == ("gw.service", (Port(80),))  # type: ignore[attr-defined]


def test_a_template_uses_the_unit_and_port_of_its_step() -> None:
    book = book_of(
        "  - wait-ready: {unit: other, port: 81, probes: [http: {url: 'http://[::1]:${{ port }}/${{ unit }}'}]}\n"
    )
    (made,) = book.steps[0].probes  # type: ignore[attr-defined]
    assert made.http.url == "http://[::1]:81/other.service"


def test_scalars_are_their_text() -> None:
    book = book_of(
        "  - update: {run: 'x ${{ to }}', version: x -v, to: 1.10}\n  - run: {run: [kill, -0, 010, no, 1e3]}\n"
    )
    assert book.steps[0].to == "1.10"  # type: ignore[attr-defined]
    assert book.steps[1].run == ("kill", "-0", "010", "no", "1e3")  # type: ignore[attr-defined]


def test_variables_use_earlier_ones_and_can_be_set() -> None:
    head = "vars: {a: '1', b: 'b${{ vars.a }}', c: [x, '${{ vars.b }}'], d: '${{ env.D | default(host) }}'}\n"
    run = "  - run: {run: x, name: '${{ vars.b }} ${{ vars.c | join(\"+\") }} ${{ vars.d }}'}\n"
    assert book_of(run, head, host="box").steps[0].name == "b1 x+b1 box"
    book = book_of(run, head, host="box", sets={"a": "${{ 2 }}", "d": ""})
    assert book.steps[0].name == "b${{ 2 }} x+b${{ 2 }} "
    assert not isinstance(book.steps[0].name, Template)
    assert book.vars["c"] == ("x", "b${{ 2 }}")


def test_an_undefined_variable_cannot_be_set() -> None:
    with pytest.raises(UsageError, match="no such variable; did you mean `version`"):
        parse(GATEWAY, sets={"verison": "1"})
    with pytest.raises(UsageError, match="no such variable; add it to `vars`"):
        book_of("  - restart\n", sets={"x": "1"})


def test_a_variable_that_is_set_is_checked_like_any_other() -> None:
    with pytest.raises(DocumentError, match="`latest` is a tag, not a version"):
        parse(GATEWAY, sets={"version": "latest"})


def test_later_steps_can_use_earlier_ones_and_nested_ones() -> None:
    steps = """
  - update: {id: new, run: "x ${{ to }} ${{ from }}", version: x, to: "1.0"}
  - remediate:
      when: steps.new.changed
      check:
        - verify-port-owner
        - run: {read-only: true, run: "echo ${{ steps.remediate.check.verify-port-owner.verdict }}"}
      fix:
        - run: {run: "echo ${{ steps.remediate.check.run.output }}"}
        - start
  - run: {run: "echo ${{ steps.remediate.status }} ${{ steps.remediate.fix.run.output }}"}
  - run: {run: "echo ${{ steps.new.from }}"}
"""
    always = "always: [run: {run: 'echo ${{ steps.run.output }} ${{ steps.rollback.run.output }}'}]\n"
    book = book_of(steps, "unit: gw\nport: 80\nrollback: [run: {run: 'echo ${{ steps.run.output }}'}]\n" + always)
    assert book.always[0].id == "always.run"


@pytest.mark.parametrize(
    "steps",
    [
        "  - remediate: {check: [run: {read-only: true, run: 'x ${{ steps.fixes.fix.stop.status }}'}], fix: [stop]}\n",
        "  - remediate: {check: [run: {read-only: true, run: 'x ${{ steps.fixes.status }}'}], fix: [start]}\n",
        "  - run: {run: 'x ${{ steps.always.run.status }}'}\n",
    ],
)
def test_results_of_later_steps_cannot_be_used(steps: str) -> None:
    steps = steps.replace("remediate: {", "remediate: {id: fixes, ")
    with pytest.raises(DocumentError, match="does not come before this one"):
        book_of(steps, "unit: gw\nport: 80\nalways: [run: {run: x}]\n")


def test_the_environment_of_the_program_is_env() -> None:
    os.environ["RUNBOOK_TEST"] = "seen"
    try:
        book = parse("env: {A: '${{ env.RUNBOOK_TEST }}'}\nsteps: [run: {run: x}]\n")
    finally:
        del os.environ["RUNBOOK_TEST"]
    assert book.env == {"A": "seen"}


def test_aliases_are_expanded() -> None:
    book = book_of("  - run: &r {run: x, env: &e {A: '1'}}\n  - run: {run: y, env: *e}\n  - run: *r\n")
    assert [step.env for step in book.steps] == [{"A": "1"}] * 3  # type: ignore[attr-defined]


def test_all_errors_are_reported_in_the_order_of_the_file() -> None:
    text = "unit: a b\nport: x\nunit: c\nsteps:\n  - restrat\n  - stop: {timeout: x}\nrollback: no\nnmae: !t x\n"
    with pytest.raises(DocumentError) as caught:
        parse(text, "f")
    lines = [problem.line for problem in caught.value.problems]
    assert lines == [1, 2, 3, 5, 6, 7, 8, 8]


@pytest.mark.parametrize("port", ["http", "80880", "8088/tcp", "''", "", "[]", "[http]", "${{ vars.nope }}"])
@pytest.mark.parametrize("inside", [False, True])
def test_a_wrong_port_is_reported_once_and_not_where_it_is_used(port: str, inside: bool) -> None:
    top, own = ("", f"\n      port: {port}") if inside else (f"port: {port}\nenv: {{PORT: '${{{{ port }}}}'}}\n", "")
    probe = "{http: {url: 'http://127.0.0.1:${{ port }}/${{ port | default(1) }}'}}"
    text = f"unit: gw\n{top}steps:\n  - wait-ready:\n      probes: [{probe}]{own}\n"
    with pytest.raises(DocumentError) as caught:
        parse(text, "f")
    assert [problem.line for problem in caught.value.problems] == [5 if inside else 2]


def test_a_port_that_is_missing_is_reported_where_it_is_used() -> None:
    with pytest.raises(DocumentError, match="`port` is not defined"):
        parse("unit: gw\nsteps: [run: {run: 'echo ${{ port }}'}]\n", "f")


def test_a_message_is_one_line_whatever_the_file_makes_it_quote() -> None:
    text = (
        '"a\\n\\e[2Jb": x\nscope: "s\\nf:1:1: all is well"\nname: "${{ vars.qqq }}"\nsteps: ["r\\n", {run: {run: x}}]\n'
    )
    names = "".join(f"  a-long-name-{number}: x\n" for number in range(200))
    with pytest.raises(DocumentError) as caught:
        parse(f"{text}vars:\n{names}", "f")
    assert len(caught.value.problems) == 4
    for problem in caught.value.problems:
        assert problem.message.isprintable()
        assert len(problem.message) <= 500


def test_a_file_without_templates_does_not_import_jinja() -> None:
    code = (
        "import sys; from runbook.document import parse; parse('unit: gw\\nsteps: [restart]\\n'); print(*sys.modules)"
    )
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=60, check=True)
    assert not {"jinja2", "gi", "tenacity"} & set(result.stdout.split())


@pytest.mark.parametrize(
    ("sets", "to", "permitted"),
    [
        ({}, "${{ vars.version }}", False),
        ({"version": "1.1"}, "${{ vars.version }}", True),
        ({"version": "1.1"}, "${{ vars.whole }}", True),
        ({"version": "1.1"}, "${{ vars.other }}", False),
        ({"version": "1.1"}, "1.0", False),
    ],
)
def test_a_version_that_set_gives_may_be_lower(sets: dict[str, str], to: str, permitted: bool) -> None:
    head = 'vars: {version: "1.0", whole: "${{ vars.version }}.0", other: "2.0"}\n'
    (step,) = book_of(f"  - update: {{run: x, version: y, to: '{to}'}}\n", head, sets=sets).steps
    assert isinstance(step, ReplacesVersion)
    assert step.downgrade is permitted


def test_an_update_of_a_rollback_may_go_back() -> None:
    step = "{run: x, version: y, to: 1.0}"
    named = step.replace("{", "{id: older, ", 1)
    book = book_of(f"  - update: {step}\n", f"rollback: [update: {step}, update: {named}]\n")
    updates = [one for one in book.walk() if isinstance(one, ReplacesVersion)]
    assert [one.downgrade for one in updates] == [False, True, True]
