"""Values in scripts, run by real shells: everywhere the shell reads exactly the value, or the value is refused."""

from __future__ import annotations

import random
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from shutil import which

import pytest
from pydantic import TypeAdapter, ValidationError

from runbook.spec.fields import CommandField
from runbook.template.namespace import TemplateError, TemplateNamespace
from runbook.template.quotes import Quotes, ShellReader
from runbook.template.text import Template, parse_text, write_quoted

VALUES = [
    "plain", "1.2.3-x", "two words", "", "it's", 'say "so"', "$(touch pwned)", "`touch pwned`", "$HOME", "\ntouch x",
    "; touch pwned", "&& touch pwned #", "'; touch pwned; '", '"; touch pwned; "', "\\", "\\'; touch pwned; '", "a\\",
    "')\"; touch pwned; \"('", "EOF\ntouch pwned\n", "*", "~", "{a,b}", "!x", "#x", "-n", "\x1b[31m", "é☃", "$'\\n'",
    "\n", " ", "| touch pwned", "> pwned", "<(touch pwned)", "\t", "x) touch pwned ;;", "}; touch pwned; {",
    "2", "abc", "FOO=bar", "1.2~rc1", "~root", "a:~root", "if", "esac", "b,c", "1..3",
]  # fmt: skip

PLAIN = {"plain", "1.2.3-x", "-n", "2", "abc", "1.2~rc1", "b,c", "1..3"}
"""The values that need no quotes in any place."""

SHELLS = [shell for shell in (["dash"], ["bash", "--posix"]) if which(shell[0])]

PLACES = {
    "printf %s {}": Quotes.BARE,
    "printf %s '{}'": Quotes.SINGLE,
    'printf %s "{}"': Quotes.DOUBLE,
    "printf %s \"$(printf %s {}; echo .)\" | sed '$s/\\.$//'": Quotes.BARE,
    'x="{}"; printf %s "$x"': Quotes.DOUBLE,
    'x={}; printf %s "$x"': Quotes.BARE,
    "printf %s ''{}\"\"": Quotes.BARE,
    "(true); f() {{ true; }}; if true; then printf %s {}; fi": Quotes.BARE,
    "# it's a comment\nprintf %s {}": Quotes.BARE,
    "true `echo x` ; printf %s {}": Quotes.BARE,
    'x=a; true "${{x}} \\" $(echo "y" \'"\') "; printf %s "{}"': Quotes.DOUBLE,
    "case x in (x) printf %s {} ;; esac": Quotes.BARE,
    'd=${{D:-$HOME}}${{x:-"y"}}${{d#a}}; printf %s "{}"': Quotes.DOUBLE,
    'true "5$\'" $$; printf %s {}': Quotes.BARE,
    "true $(casemod 2>&1); printf %s {}": Quotes.BARE,
    'd=; printf %s "$d{}"': Quotes.DOUBLE,
    "d=; printf %s $d{}": Quotes.BARE,
    "printf %s {}>&1": Quotes.BARE,
    "true \\\n  it; printf %s {}": Quotes.BARE,
    "sh -c true; printf %s {}": Quotes.BARE,
    "(ssh) 2>&1 | true; printf %s {}": Quotes.BARE,
    "[ -e / ] && printf %s {}": Quotes.BARE,
    "true a\\ #'\n'; printf %s '{}'": Quotes.SINGLE,
    "bash -xe /dev/null; printf %s {}": Quotes.BARE,
    "true perl.txt -e; printf %s {}": Quotes.BARE,
    "printf %s {} | sh -c cat": Quotes.BARE,
    "printf %s {} | cat; true | sh": Quotes.BARE,
    "printf %s {} || sh": Quotes.BARE,
    "true -czf; case x in x) printf %s {} ;; esac": Quotes.BARE,
    "printf %s \\\n{}\\\n>&1": Quotes.BARE,
}
"""Scripts that print only the value, and what the value is inside of."""

LOST = {
    "echo $(( {} + 1 ))",
    'echo "$(( {} + 1 ))"',
    "(( x = {} ))",
    "echo $[ {} ]",
    "a[{}]=1",
    "[[ {} -gt 1 ]]",
    'sh -c "echo {}"',
    "bash -lc 'echo {}'",
    '/bin/su app -c"echo {}"',
    "su app --command='echo {}'",
    "ssh host \"cat '{}'\"",
    'ssh host \\\n  "$(echo {})"',
    "ssh host echo {}",
    "eval 'echo \"{}\"'",
    "\\eval \"'-x'\" '{}'",
    "$x\\eval '{}'",
    "trap 'echo {}' EXIT",
    'echo "$\\\n(echo {})"',
    "cat <\\\n<END\n{}\nEND",
    'echo "$(ca\\\nse a in a) echo {};; esac)"',
    'echo "$(true; \\\ncase a in a) echo {};; esac)"',
    "echo a\\\n#'b\n{}'",
    "true ${{{{ '' | raw }}}}; echo {}",
    'echo "${{x:-"{}"}}"',
    "cat <<EOF\n{}\nEOF",
    "cat <<'EOF'\n{}\nEOF",
    "printf %s `printf %s {}`",
    'printf %s "`printf %s {}`"',
    "printf %s ${{x:-{}}}",
    "printf %s \"${{x:-'{}'}}\"",
    'printf %s "$(case x in x) printf %s {} ;; esac)"',
    "printf %s $'{}'",
    "printf %s \\{}",
    'x=1; printf %s "${}"',
    "cat <<EOF >/dev/null\nit's\nEOF\nprintf %s {}",
    'bash -cx "echo {}"',
    'sh -cue "echo {}"',
    "bash -xce 'echo {}'",
    'dash +x -cl "echo {}"',
    '/usr/bin/env -i /bin/bash -cl "echo {}"',
    'sudo -u app bash -cx "echo {}"',
    '$SHELL -cx "echo {}"',
    '$(command -v bash) -cx "echo {}"',
    '${{{{ vars.x }}}} -cx "echo {}"',
    'busybox ash -cx "echo {}"',
    "python3 -c\"print('{}')\"",
    "python3.11 -Ic \"print('{}')\"",
    "perl -pe's/x/{}/'",
    "perl -E \"say '{}'\"",
    "ruby -ne \"puts '{}'\"",
    "php -r \"echo '{}';\"",
    "node -p \"'{}'\"",
    "node --eval \"console.log('{}')\"",
    "psql --command=\"select '{}'\"",
    "mysql -e\"select '{}'\"",
    'env -S "echo {}"',
    'watch "echo {}"',
    'sg root "echo {}"',
    "awk 'BEGIN {{ print \"{}\" }}'",
    'sed "s/x/{}/" x',
    'alias x="{}"',
    'PS4="{}"',
    'printf -v "a[{}]" x',
    'echo "echo {}" | sh',
    'echo "echo {}" | bash -s',
    'echo "echo {}" |& bash',
    'echo "echo {}" | tee x | sudo -n /bin/sh -eux',
    '{{ echo "echo {}"; echo; }} | sh',
    '(echo "echo {}"; echo) | sh',
    'for x in a; do echo "echo {}"; done | sh',
    'echo "$(echo "{}" | sh)"',
}
"""Scripts with a place where quoting is impossible: only a word that needs no quotes is accepted there."""


def script(place: str, value: str, tmp_path: Path) -> str:
    text = place.format("${{ vars.x }}")
    template = parse_text(text, write_quoted)
    assert isinstance(template, Template)
    return template.fill(TemplateNamespace(vars={"x": value}))


def output(text: str, folder: Path, shell: Sequence[str] = ("/bin/sh",)) -> str:
    argv = [*shell, "-e", "-c", text]
    return subprocess.run(argv, cwd=folder, capture_output=True, check=True, timeout=20).stdout.decode()


@pytest.mark.parametrize("shell", SHELLS, ids=" ".join)
@pytest.mark.parametrize("place", PLACES)
def test_the_shell_reads_exactly_the_value(place: str, shell: list[str], tmp_path: Path) -> None:
    for value in VALUES:
        if "sed" in place and value.endswith("\n"):
            continue
        text = script(place, value, tmp_path)
        printed = output(text, tmp_path, shell)
        assert printed.removesuffix("." if "echo ." in place else "") == value, text
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("place", sorted(LOST))
def test_where_quoting_is_impossible_only_plain_words_are_accepted(place: str, tmp_path: Path) -> None:
    for value in VALUES:
        if value in PLAIN:
            script(place, value, tmp_path)
            continue
        with pytest.raises(TemplateError, match=r"put it into the `env` of the step"):
            script(place, value, tmp_path)


def test_a_comment_accepts_everything_but_a_line_break(tmp_path: Path) -> None:
    place = "# from {0} to {0}\n: it\\'s; printf %s '{0}'"
    for value in VALUES:
        if "\n" not in value:
            assert output(script(place, value, tmp_path), tmp_path) == value
            continue
        with pytest.raises(TemplateError, match="in a comment, which the line break in its value would end"):
            script(place, value, tmp_path)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("place", "value"),
    [
        ("cat <<EOF\n{}\ntouch pwned\nEOF", "EOF"),
        ("cat <<-'EOF'\n\tE{}\ntouch pwned\nEOF", "OF"),
        ("cat <<EOF\n$dir{}\nEOF", "abc"),
        ("echo `echo $dir{}`", "abc"),
    ],
)
def test_a_plain_word_that_would_be_special_is_refused(place: str, value: str, tmp_path: Path) -> None:
    with pytest.raises(TemplateError, match=r"put it into the `env` of the step"):
        script(place, value, tmp_path)


def test_a_value_never_sets_a_variable(tmp_path: Path) -> None:
    assert script("{} env", "FOO=bar", tmp_path) == "'FOO=bar' env"


def test_an_empty_list_never_begins_a_comment(tmp_path: Path) -> None:
    template = parse_text("echo ${{ vars.none }}#'\necho '${{ vars.x }}'", write_quoted)
    assert isinstance(template, Template)
    with pytest.raises(TemplateError, match="in or behind a here-document"):
        template.fill(TemplateNamespace(vars={"none": (), "x": "; touch pwned"}))


def test_a_raw_value_is_not_quoted(tmp_path: Path) -> None:
    template = parse_text('printf %s "${{ vars.x | raw }}"', write_quoted)
    assert isinstance(template, Template)
    assert template.fill(TemplateNamespace(vars={"x": "$((1+1))"})) == 'printf %s "$((1+1))"'


def test_a_list_is_quoted_word_by_word(tmp_path: Path) -> None:
    template = parse_text("printf '<%s>' ${{ vars.x }}", write_quoted)
    assert isinstance(template, Template)
    filled = template.fill(TemplateNamespace(vars={"x": ("a b", "$c")}))
    assert output(filled, tmp_path) == "<a b><$c>"


def test_random_scripts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Scripts from random pieces: even in a wrong script, no value is run as a command."""
    monkeypatch.setattr("runbook.template.text.check_quotes", lambda shell, script: None)
    chance = random.Random(7)
    pieces = [
        "'",
        '"',
        "$(",
        ")",
        "`",
        "${x}",
        "#",
        "\n",
        " ",
        "\\",
        "\\\\",
        "a",
        "$",
        ";",
        "(",
        "case x in x) ",
        "esac",
        "$((",
        "((",
        "[[ ",
        "$[",
        "]",
        "a[",
        "eval ",
        "sh -c ",
        "\\\n",
        "<",
        "<<EOF\n",
        "EOF\n",
        "${x:-",
        "}",
        "$x",
        "$$",
        "2",
        "{}",
    ]
    asked = 0
    for _ in range(600):
        place = "".join(chance.choice(pieces) for _ in range(chance.randint(2, 9))).replace("{}", "V")
        place = place.replace("V", "", max(0, place.count("V") - 1)) + (" V" if "V" not in place else "")
        template = parse_text(place.replace("V", "${{ vars.x }}"), write_quoted)
        assert isinstance(template, Template)
        for value in ("$(touch pwned)", "';touch pwned;'", '";touch pwned;"', "\ntouch pwned\n", "`touch pwned`"):
            try:
                text = template.fill(TemplateNamespace(vars={"x": value}))
            except TemplateError:
                continue
            asked += 1
            for shell in SHELLS:
                argv = [*shell, "-c", text]
                subprocess.run(
                    argv, cwd=tmp_path, capture_output=True, check=False, timeout=20, stdin=subprocess.DEVNULL
                )
            (tmp_path / "2").unlink(missing_ok=True)
            assert list(tmp_path.iterdir()) == [], text
    assert asked > 100


def test_time_is_linear_and_depth_is_constant() -> None:
    shell = ShellReader()
    shell.read("$(" * 200_000 + '"' * 200_001)
    assert shell.quotes is Quotes.DOUBLE
    began = time.monotonic()
    for text in (
        "$/-e" * 50_000,
        "-" * 200_000,
        "a=" * 100_000,
        "$x/ssh " * 20_000,
        '"' + "/$eval-c" * 20_000,
        "| " * 50_000,
    ):
        shell = ShellReader()
        shell.read(text)
        shell.pass_value("", "", raw=False)
    assert time.monotonic() - began < 10


@pytest.mark.parametrize("word", ["if", "done", "esac", "time", "function"])
def test_a_word_of_the_shell_is_quoted(word: str, tmp_path: Path) -> None:
    assert script("{} x", word, tmp_path) == f"'{word}' x"


@pytest.mark.parametrize("value", ["b,c", "1..3"])
def test_bash_does_not_expand_a_value_inside_braces(value: str, tmp_path: Path) -> None:
    text = parse_text("printf '<%s>' {a,${{ vars.x }}} {${{ vars.x }}}", write_quoted)
    assert isinstance(text, Template)
    filled = text.fill(TemplateNamespace(vars={"x": value}))
    if which("bash"):
        assert output(filled, tmp_path, ["bash"]) == f"<a><{value}><{{{value}}}>"


@pytest.mark.parametrize(
    "argv",
    [
        ["sh", "-c", "echo {}"],
        ["/bin/bash", "-cx", "echo {}"],
        ["sudo", "-u", "app", "bash", "-lc", "echo {}"],
        ["python3", "-c", "print('{}')"],
        ["python3", "-cprint('{}')"],
        ["perl", "-pe", "s/x/{}/"],
        ["ssh", "host", "cat {}"],
        ["su", "app", "-c", "echo {}"],
        ["docker", "exec", "x", "sh", "-c", "echo {}"],
        ["awk", "BEGIN {{ print {} }}"],
    ],
)
def test_in_a_list_a_script_accepts_plain_words_only(argv: list[str]) -> None:
    words = tuple(word.format("${{ vars.x }}") for word in argv)
    for value in VALUES:
        namespace = TemplateNamespace(vars={"x": value})
        if value in PLAIN:
            assert read_command(words, namespace) == words
            continue
        with pytest.raises(ValidationError, match=r"put it into the `env` of the step"):
            read_command(words, namespace)


@pytest.mark.parametrize(
    "argv",
    [
        ["echo", "{}"],
        ["docker", "run", "-e", "URL={}", "image"],
        ["sh", "-e", "/srv/deploy.sh", "{}"],
        ["bash", "deploy.sh", "{}"],
        ["curl", "-c", "jar", "{}"],
    ],
)
def test_in_a_list_all_other_words_are_passed_as_they_are(argv: list[str]) -> None:
    words = tuple(word.format("${{ vars.x }}") for word in argv)
    for value in VALUES:
        assert read_command(words, TemplateNamespace(vars={"x": value})) == words


def read_command(words: tuple[str, ...], namespace: TemplateNamespace) -> object:
    """Return a command as a field of a runbook is read."""
    return TypeAdapter(CommandField).validate_python(words, context=namespace)
