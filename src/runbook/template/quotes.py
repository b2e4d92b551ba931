"""Where a value is in a shell script: bare, or inside quotes of one kind, so that it can be quoted for that place.

This module implements only the part of the shell's grammar (POSIX, 2.2 to 2.6) that this needs. In a here-document,
backticks, arithmetic, a script inside the script, or behind anything unusual, the place is UNKNOWN: quoting is
impossible there, so a value is refused unless it needs no quotes.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from enum import StrEnum


class Quotes(StrEnum):
    """What a place in a script is inside of."""

    BARE = "bare"
    SINGLE = "single"
    DOUBLE = "double"
    COMMENT = "comment"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ShellContext:
    """A place in a script, and how the text around it affects a value there."""

    quotes: Quotes = Quotes.BARE
    is_joined: bool = False  # True if the name of a variable ends right before it, or `<` or `>` is right behind it
    heredoc_ends: tuple[str, ...] = ()  # the words behind each `<<`: such a value would end the here-document

    def quote(self, text: str) -> str:
        """Return a text quoted so that the shell takes it literally there. Raises ValueError if it cannot be quoted."""
        apart = '""' if self.is_joined else ""
        match self.quotes:
            case Quotes.SINGLE:
                return text.replace("'", "'\\''")
            case Quotes.DOUBLE:
                return apart + _SPECIAL.sub(r"\\\g<0>", text)
            case Quotes.BARE:
                # shlex.quote leaves A=1 bare, which would set a variable where a command is expected.
                return apart + (f"'{text}'" if "=" in text and shlex.quote(text) == text else shlex.quote(text))
            case Quotes.COMMENT:
                if "\n" in text:
                    raise ValueError("in a comment, which the line break in its value would end")
                return text
        if self.is_joined or not _PLAIN.fullmatch(text) or any(text in end for end in self.heredoc_ends):
            raise ValueError(f"{_NO_QUOTES}, where a value cannot be quoted")
        return text


_NO_QUOTES = "in or behind a here-document, backticks, arithmetic, or a script for a second shell (`ssh`, `-c`, `-e`)"
_SPECIAL = re.compile(r'[\\"$`]')  # what is special inside double quotes
_PLAIN = re.compile(r"(?:[\w@%+:,./-]|(?<=\w)~)+", re.ASCII)
"""What needs no quotes anywhere. A `~` is special at the start of a word, and behind `:` or `=`."""
_NAME_BEFORE = re.compile(r"\$[A-Za-z_]\w*\Z", re.ASCII)
_HERE = re.compile(r"<<-?([^\n;&|<>]*)")

_RUNS_SCRIPTS = re.compile(r"(?:.*\$.*)?(?:(?:.*/)?(?:eval|trap|ssh|su|runuser)|-[A-Za-z]*[ce]|--command=?)", re.DOTALL)
"""A word whose arguments may be run as a script again, by a shell, Perl or Python. A variable in it may be empty."""
_LONGEST_WORD = 64  # characters of a word that are kept for _RUNS_SCRIPTS

_COMMAND_ENDS = "\n;&|()"
_WORD_ENDS = f" \t<>{_COMMAND_ENDS}"
_SUBSTITUTION, _BRACE, _TICKS, _COMMENT = "$(", "${", "`", "#"
_ENDS: dict[str, str] = {_COMMENT: "\n", Quotes.SINGLE: "'", _TICKS: "`"}
"""What ends at the next character of one kind, whatever is in between; and that character."""
_GOES_ON = "\\\n"
_ESCAPED, _VALUE = "x", "\0"  # stand for an escaped character and for a value in `ShellReader._before`


class ShellReader:
    """Reads a script from its beginning, piece by piece, and finds what the place behind each piece is inside of."""

    def __init__(self, script: str = "") -> None:
        self._ends = tuple(re.sub(r"[\\'\"]", "", end).strip() for end in _HERE.findall(script))
        self._within: list[str] = [Quotes.BARE]
        self._scripts = [False]  # for each open command, outermost first: True if a word of it may be a script
        self._word = ""
        self._is_unknown = False
        self._before = "\n"

    @property
    def quotes(self) -> Quotes:
        """What the current place is inside of."""
        top = self._within[-1]
        if self._is_unknown:
            return Quotes.UNKNOWN
        if top == _COMMENT:
            return Quotes.COMMENT if self._within[:-1] == [Quotes.BARE] else Quotes.UNKNOWN
        if top in (_TICKS, _BRACE) or _BRACE in self._within or self._in_a_script:
            return Quotes.UNKNOWN
        return Quotes(top)

    def find_context(self, before: str, behind: str) -> ShellContext:
        """Return the current place. `before` and `behind` are the texts of the script around it."""
        quotes = self.quotes
        joined = quotes not in (Quotes.SINGLE, Quotes.COMMENT) and bool(_NAME_BEFORE.search(before))
        return ShellContext(quotes, joined or (quotes is Quotes.BARE and behind[:1] in ("<", ">")), self._ends)

    def read(self, text: str) -> None:
        """Read the next piece of the script."""
        at = 0
        while at < len(text) and not self._is_unknown:
            taken = self._step(text, at)
            read = text[at : at + taken]
            if read != _GOES_ON:
                self._before = _ESCAPED if read[:1] == "\\" else read[-1:] or self._before
            at += taken

    def pass_value(self, *, raw: bool) -> None:
        """Continue behind a value. A quoted value does not change the place; after a raw one, the place is unknown."""
        self._is_unknown = self._is_unknown or raw
        self._before = _VALUE

    @property
    def _in_a_script(self) -> bool:
        return self._scripts[-1] or bool(_RUNS_SCRIPTS.fullmatch(self._word))

    def _step(self, text: str, at: int) -> int:
        """Read one or two characters, and return how many."""
        char, two, top = text[at], text[at : at + 2], self._within[-1]
        if top in _ENDS:
            return self._to_the_end(char, top)
        if top == _BRACE and (char in "'\\`" or two in (_SUBSTITUTION, "$'")):
            self._is_unknown = True
        if char == "\\" or two in ("$", "$$"):
            self._is_unknown = self._is_unknown or self._cut_at(text, at)
            self._spell(two[1:].strip("\n"))
            return 2
        if char == "`" or two in (_BRACE, _SUBSTITUTION) or (two == "$'" and top != Quotes.DOUBLE):
            return self._open(two if char == "$" else char)
        if char == '"':
            self._is_unknown = top == _BRACE and self._within[-2] != Quotes.BARE
            self._within.append(Quotes.DOUBLE) if top != Quotes.DOUBLE else self._within.pop()
        elif top == _BRACE:
            if char == "}":
                self._within.pop()
        elif top == Quotes.DOUBLE:
            self._spell(char)
        else:
            self._bare(text, at)
        return 1

    def _cut_at(self, text: str, at: int) -> bool:
        """True if a `$` or a backslash may have another meaning than the piece alone shows."""
        if at + 1 == len(text):
            return True  # A value may follow: it would lose its first character, or become a variable's name.
        # An escaped line break may be inside a word or an operator.
        return text[at : at + 2] == _GOES_ON and (self._before not in " \t" or text[at + 2 : at + 3] == "#")

    def _spell(self, char: str) -> None:
        if len(self._word) < _LONGEST_WORD:
            self._word += char

    def _to_the_end(self, char: str, top: str) -> int:
        """Read one or two characters of what ends at one character (_ENDS), and return how many."""
        if char == _ENDS[top]:
            self._within.pop()
            return 0 if top == _COMMENT else 1
        if top == Quotes.SINGLE:
            self._spell(char)
        return 2 if top == _TICKS and char == "\\" else 1

    def _open(self, what: str) -> int:
        self._is_unknown = self._is_unknown or what == "$'"
        if what == _SUBSTITUTION:
            self._go_in(what)
        else:
            self._within.append(what)
        return len(what)

    def _go_in(self, bracket: str) -> None:
        """Enter the commands in a bracket. If the bracket is in a script, their output is a part of the script."""
        self._scripts.append(self._in_a_script)
        self._word = ""
        self._within += [bracket, Quotes.BARE]

    def _bare(self, text: str, at: int) -> None:
        char = text[at]
        if char in _WORD_ENDS:
            self._scripts[-1] = self._in_a_script
            self._word = ""
        elif char != "'":
            self._spell(char)
        begins = self._before in _WORD_ENDS
        if char == "'":
            self._within.append(Quotes.SINGLE)
        elif char == "#":
            self._is_unknown = self._before == _VALUE  # An empty list inserts no word.
            if begins:
                self._within.append(_COMMENT)
        elif text.startswith("<<", at):
            # A here-document is not parsed, nor what follows it: few scripts have a value there.
            self._is_unknown = True
        elif char == "[":
            self._is_unknown = not begins  # An array index, or [[ ]]: bash evaluates what is in it.
        elif char == "(":
            self._is_unknown = self._before == "("  # Arithmetic: bash evaluates it too.
            self._go_in(char)
        elif char == ")" and len(self._within) > 1:
            del self._within[-2:]
            self._scripts.pop()
        elif char in _COMMAND_ENDS:
            self._scripts[-1] = len(self._scripts) > 1 and self._scripts[-2]
        elif char == "c" and begins and re.match(r"case(?:\s|\Z)", text[at : at + 5]) and len(self._within) > 1:
            self._is_unknown = True  # Its patterns end with `)` without a `(`.
