"""Templates as other tools write them: those that name something of a runbook are refused, all others are text."""

from __future__ import annotations

import pytest

from runbook.template.foreign import check_foreign, find_unset_variable
from runbook.template.namespace import TemplateError
from runbook.template.text import parse_text


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("{{ to }}", "${{ to }}"),
        ("{{to}}", "${{ to }}"),
        ("x@{{ to }}!", "${{ to }}"),
        ("$ {{ to }}", "${{ to }}"),
        ("{{{ to }}}", "${{ to }}"),
        ("{{ to | unknown }}", "${{ to | unknown }}"),
        ("{{ vars.version | regex_replace('a', 'b') }}", "${{ vars.version | regex_replace('a', 'b') }}"),
        ("{{ vars['version'] }}", "${{ vars['version'] }}"),
        ("{{ not steps.update.changed }}", "${{ not steps.update.changed }}"),
        ("{{ version }}", "${{ vars.version }}"),
        ("{{ version | upper }}", "${{ vars.version | upper }}"),
        ("${vars.version}", "${{ vars.version }}"),
        ("${ steps.update.to }", "${{ steps.update.to }}"),
        ("%(vars.version)s", "${{ vars.version }}"),
        ("{vars.version}", "${{ vars.version }}"),
        ("$vars.version", "${{ vars.version }}"),
    ],
)
def test_a_template_without_its_dollar_is_refused(text: str, meant: str) -> None:
    with pytest.raises(TemplateError, match="is not replaced") as caught:
        check_foreign(text, {"version"}, script=True)
    assert caught.value.message.endswith(f"; write `{meant}`")
    assert caught.value.source in text


@pytest.mark.parametrize(
    "text",
    [
        "{{.Names}}", "{{ .State.Pid }}", "{{json .}}", "{{range .to}}{{.}}{{end}}", "{{ index .vars \"x\" }}",
        '{{ env "HOME" }}', '{{ key "to" }}', "{{ name }}", "{{ $port := .port }}{{ $port }}",
        "{{ printf \"%s\" .host }}",
        "{{ host_name }}", "{{}}", "{{ }}", "${to}", "$to", "${port:-80}", "${HOME}", "$(env.sh)", "$(run.sh x)",
        "tar cf $run.tar $vars.tar", "%{http_code}", "{% raw %}", "$((port + 1))", "{to,from}", "awk '{print $to}'",
        "{\"to\": {}}", "a{2}", "${#to}", "{{ lookup('file', 'x') }}",
    ],
)  # fmt: skip
def test_what_names_nothing_of_a_runbook_is_text(text: str) -> None:
    check_foreign(text, {"version"}, script=True)
    assert parse_text(text, script=True) == text


@pytest.mark.parametrize("text", ["http://x:${port}/", "http://x:$port/", "${version}"])
def test_a_variable_of_the_shell_is_refused_where_no_shell_reads_it(text: str) -> None:
    check_foreign(text, {"version"}, script=True)
    with pytest.raises(TemplateError, match="is not replaced"):
        check_foreign(text, {"version"})


def test_such_a_text_can_be_written_as_a_template() -> None:
    assert parse_text("${{ '{{ to }}' }}").startswith("${{")


def test_an_inserted_value_is_never_read_as_a_template() -> None:
    from runbook.template.namespace import TemplateNamespace
    from runbook.template.text import Template

    template = parse_text("${{ vars.x }}")
    assert isinstance(template, Template)
    assert template.fill(TemplateNamespace(vars={"x": "{{ to }}"})) == "{{ to }}"


@pytest.mark.parametrize(
    ("script", "found"),
    [
        ("npm install app@$to", "$to"),
        ("npm install app@${to}", "${to}"),
        ("to=1; npm install app@$to", ""),
        ("for to in 1 2; do npm install app@$to; done", ""),
        (". ./settings; npm install app@$to", ""),
        ("npm install app@$known", ""),
        ("npm install app@${to:-1}", ""),
        ("npm install app@$tool", ""),
    ],
)
def test_a_variable_that_nothing_sets(script: str, found: str) -> None:
    assert find_unset_variable(script, ("from", "to", "known"), {"known": "1"}) == found
