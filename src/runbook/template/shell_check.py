"""Quotes of a script that the shell would refuse, or read otherwise than they were meant.

`sh -n` would find an open quote too, but `validate` runs no program, and does not know what a template will insert.
"""

from __future__ import annotations

import re

from runbook.template.namespace import TemplateError
from runbook.template.quotes import ShellReader
from runbook.util.wording import CURLY_QUOTES, describe_character, shorten

MAX_SHOWN_SCRIPT = 40  # characters of the script in a message

_SUSPECT = re.compile(f"['\"`{CURLY_QUOTES}]|\\$\\(")
_CLOSED = (
    rf"""(?:[^'"\\`$#<{CURLY_QUOTES}]++|\\.|'[^']*'|"(?:[^"\\`$]++|\\.|\$(?!\())*+"|\$(?!['(])|(?<=\w)#|<(?!<))*+"""
)
"""A script whose quotes are all closed, and that has nothing in it that needs a closer look: most scripts."""


def check_script(script: str) -> None:
    """Raise TemplateError if a quote in a script without values is not closed, or only looks like a quote."""
    if _SUSPECT.search(script) and not re.fullmatch(_CLOSED, script, re.DOTALL):
        shell = ShellReader(script)
        shell.read(script)
        check_quotes(shell, script)


def check_quotes(shell: ShellReader, script: str) -> None:
    """Do the same for a script that was read to its end. One character of `script` stands for each value in it.

    Behind what `shell` does not follow, such as a here-document, nothing is judged.
    """
    if shell.curly_quote is not None:
        at = shell.curly_quote
        how = "type ' or \" in its place"
        what = f"{describe_character(script[at])} is here, which only looks like a quote"
        if at == 0:  # The reader of YAML reports the same, if the value has no quotes.
            raise TemplateError(f"{what}; {how}")
        _refuse(script, at, what, f"{how}, or put the text in quotes if the character is meant")
    if shell.open_quote is not None:
        at = shell.open_quote if shell.apostrophe is None or script[shell.open_quote] != "'" else shell.apostrophe
        mark = "$(" if script[at] == "$" else script[at]
        how = f"close it, or write \\{mark} if the character is meant"
        _refuse(script, at, f"the {mark} is not closed", how)


def _refuse(script: str, at: int, what: str, how: str) -> None:
    start = max(script.rfind("\n", 0, at) + 1, script.rfind("\0", 0, at) + 1, at - MAX_SHOWN_SCRIPT // 2)
    line = re.split(r"[\n\0]", script[start:], maxsplit=1)[0]
    source = re.split(r"[\n\0]", script[at:], maxsplit=1)[0]
    raise TemplateError(f"in `{shorten(line.strip(), MAX_SHOWN_SCRIPT)}`, {what}; {how}", source=source)
