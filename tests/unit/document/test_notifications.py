"""`notify` in a runbook and in the file of the machine: errors have their place, templates what a run has."""

from __future__ import annotations

import textwrap

import pytest

from runbook.document import parse
from runbook.document.notifications import parse_machine_file
from runbook.errors import DocumentError
from runbook.spec.notification import Notification
from runbook.spec.runbook import Runbook

TOP = "unit: gw\nsteps: [restart]\n"


def book(notify: str) -> Runbook:
    return parse(f"{TOP}notify:\n{textwrap.indent(textwrap.dedent(notify), '  ')}", environ={"URL": "https://x/y"})


def problems(text: str, *, machine: bool = False) -> list[str]:
    def read() -> object:
        if machine:
            return parse_machine_file(text.encode(), {}, "host1", "notify.yaml")
        return parse(text, "x.yaml", environ={})

    with pytest.raises(DocumentError) as refused:
        read()
    return [str(problem) for problem in refused.value.problems]


def test_an_entry_can_use_the_results_of_all_steps_and_the_end_of_the_run() -> None:
    (entry,) = book(
        "- run: x ${{ run.status }} ${{ run.verdict }} ${{ run.reason }} ${{ steps.restart.status }}"
    ).notify
    assert entry.run == "x ${{ run.status }} ${{ run.verdict }} ${{ run.reason }} ${{ steps.restart.status }}"


def test_a_url_may_come_from_the_environment() -> None:
    (entry,) = book('- webhook: {url: "${{ env.URL }}"}').notify
    assert entry.label == "webhook x"


def test_each_error_has_its_place() -> None:
    text = f"""{TOP}notify:
  - mial: root
  - when: [rolledback]
    mail: root
  - run: echo ${{{{ steps.restrat.status }}}}
  - text
  - webhook:
      url: https://x
      body: '{{"a": ${{{{ run.reason }}}}}}'
"""
    found = problems(text)
    assert found[0] == "x.yaml:4:5: unknown key `mial`; did you mean `mail`?"
    assert found[1].startswith("x.yaml:5:12: an entry of `when` must be ok, changed, remediated, failed,")
    assert found[1].endswith("not `rolledback`; did you mean `rolled-back`?")
    assert found[2] == "x.yaml:7:10: no step has the id `restrat`; did you mean `restart`?"
    assert found[3] == "x.yaml:8:5: an entry of `notify` must be a mapping (`key: value`), not a single value"
    assert found[4].startswith("x.yaml:11:13: `body` begins like JSON and is none at line 1")


@pytest.mark.parametrize("value", ["", " x", " {}", " []"])
def test_the_list_must_be_one(value: str) -> None:
    (found,) = problems(f"{TOP}notify:{value}\n")
    assert "`notify` must be a list (`- …`), not " in found


def test_a_step_cannot_use_the_end_of_the_run() -> None:
    (found,) = problems("unit: gw\nsteps: [run: {run: 'echo ${{ run.status }}'}]\n")
    assert "`run.status` can only be used in `notify`" in found
    (found,) = problems("unit: gw\nsteps: [run: {run: 'echo ${{ run.nope }}'}]\n")
    assert "`run.nope` is not defined; write `run.id`" in found


def test_a_list_has_an_end() -> None:
    (found,) = problems(f"{TOP}notify:\n" + "  - mail: root\n" * 51)
    assert "`notify` has more than 50 entries" in found


def entries(text: str) -> tuple[Notification, ...]:
    return parse_machine_file(text.encode(), {"A": "1"}, "host1")


def test_the_file_of_the_machine() -> None:
    mail, run = entries("notify:\n  - mail: root\n  - run: x ${{ unit }} ${{ host }} ${{ run.reason }} ${{ env.A }}\n")
    assert (mail.mail, run.run) == ("root", "x ${{ unit }} ${{ host }} ${{ run.reason }} ${{ env.A }}")


@pytest.mark.parametrize("text", ["", "\n", "# notify:\n#   - mail: root\n"])
def test_a_file_of_comments_has_no_entries(text: str) -> None:
    assert entries(text) == ()


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("- mail: root\n", "notify.yaml:1:1: the file must have the key `notify`; write `notify:` above the list"),
        ("notify:\n  - mail: root\nsecrets: X\n", "notify.yaml:3:1: unknown key `secrets`; the only key is `notify`"),
        ("notify:\n  - mail: [\n", "notify.yaml:2:11: "),
        ("notify:\n  - mail: ${{ vars.x }}\n", "notify.yaml:2:11: `vars.x` cannot be used here, only "),
        ("notify:\n  - mail: ${{ env.X }}\n", "notify.yaml:2:11: environment variable `X` is not set"),
        ("notify:\n  - run: x ${{ steps.a.status }}\n", "notify.yaml:2:10: `steps.a.status` cannot be used here"),
    ],
)
def test_errors_in_the_file_of_the_machine(text: str, found: str) -> None:
    assert problems(text, machine=True)[0].startswith(found)
