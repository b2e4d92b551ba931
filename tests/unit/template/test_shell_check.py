"""Quotes that are not closed are found without a shell; what the shell accepts is never refused."""

# ruff: noqa: RUF001 - it is about characters that look alike

from __future__ import annotations

import contextlib
import subprocess
import time

import pytest

from runbook.template.namespace import TemplateError
from runbook.template.shell_check import check_script
from runbook.template.text import parse_text, write_quoted

CLOSED = [
    'echo "it\'s" \'a "b"\' \\\' \\"',
    "# it's a comment\necho done",
    "echo x;# don't\necho done",
    "echo a#'b'",
    "cat <<EOF\nit's fine\nEOF\n",
    "cat <<'EOF'\n\"\nEOF\n",
    'echo "$(echo "a \'b" | sed \'s/x/y/\')"',
    'echo `echo \'a\'` "`echo \\"b\\"`"',
    'echo "${x:-"a b"}" "${x:-it\'s}"',
    "awk '{\n  print \"it\"\n}' file",
    "case $x in a) echo 'a' ;; esac",
    "y=$(case $x in a) echo 'a' ;; esac)",
    "echo $((1 + 2)) $(( 3 ))",
    "echo 'a'\\''b'",
    'for i in 1 2; do (echo "$i"); done',
]
OPEN = ['echo "a', "echo 'a", "echo `a", "echo $(a", 'echo "$(echo \'x")"', "echo 'a'\\''b", 'echo "a\\"']


def is_complete(script: str) -> bool:
    return subprocess.run(["sh", "-n"], input=script, text=True, capture_output=True, check=False).returncode == 0


@pytest.mark.parametrize("script", CLOSED)
def test_what_the_shell_accepts_is_accepted(script: str) -> None:
    assert is_complete(script)
    check_script(script)
    parse_text(f"echo ${{{{ vars.x }}}}\n{script}", write_quoted)


@pytest.mark.parametrize("script", OPEN)
def test_an_open_quote_is_refused(script: str) -> None:
    assert not is_complete(script)
    for text in (script, f"echo ${{{{ vars.x }}}}; {script}", f"{script} ${{{{ vars.x }}}}"):
        with pytest.raises(TemplateError, match="is not closed; close it, or write"):
            parse_text(text, write_quoted)


def test_behind_a_raw_value_nothing_is_judged() -> None:
    parse_text("${{ vars.x | raw }} it's", write_quoted)


def test_an_apostrophe_is_named_even_if_a_later_quote_is_the_one_that_is_open() -> None:
    with pytest.raises(TemplateError, match=r"in `echo it's`, the ' is not closed") as error:
        check_script("echo it's\necho 'fine'")
    assert error.value.source == "'s"


@pytest.mark.parametrize("script", ["echo “a”", "A=‘a’", "(«a»)", "“a”", "echo a;„b“"])
def test_a_word_in_quotes_of_a_word_processor_is_refused(script: str) -> None:
    with pytest.raises(TemplateError, match="only looks like a quote"):
        check_script(script)


@pytest.mark.parametrize("script", ['echo "“a”"', "echo '‘a’'", "echo it’s", "# “a”", "cat <<E\n“a”\nE\n"])
def test_such_a_quote_inside_a_text_is_accepted(script: str) -> None:
    check_script(script)


@pytest.mark.parametrize("script", ["'\"", "a'b'\"", "$'", '"$('])
def test_the_time_is_linear(script: str) -> None:
    began = time.process_time()
    with contextlib.suppress(TemplateError):
        check_script(script * 20_001)
    assert time.process_time() - began < 5
