"""Where in a script of the shell a value stands: bare, or within quotes of one kind, so that it can be quoted for that.

Only as much of the shell's grammar (POSIX, 2.2 to 2.6) is known here as it takes to tell that. Where it cannot be told
for sure, in a here-document, backticks, arithmetic, a script within the script, or after something unusual, the answer
is UNKNOWN: no way to quote a value is right there, so it may be put in only where it needs no quotes at all.
"""

from __future__ import annotations

import re
import shlex
from dataclasses import dataclass
from enum import StrEnum


class Quotes(StrEnum):
    """What a place in a script is within."""

    BARE = "bare"
    SINGLE = "single"
    DOUBLE = "double"
    COMMENT = "comment"
    UNKNOWN = "unknown"


@dataclass(frozen=True)
class ShellContext:
    """A place in a script: what it is within, and what around it would take a part of the value for its own.

    `joined`: a variable's name ends right before it, or `<` or `>` comes right behind it. `ends` is what stands
    behind each `<<` of the script: a line of it ends the here-document.
    """

    quotes: Quotes = Quotes.BARE
    is_joined: bool = False
    heredoc_ends: tuple[str, ...] = ()

    def quote(self, text: str) -> str:
        """Write a text there, so that it is itself only. Raises ValueError where it cannot be."""
        apart = '""' if self.is_joined else ""
        match self.quotes:
            case Quotes.SINGLE:
                return text.replace("'", "'\\''")
            case Quotes.DOUBLE:
                return apart + _SPECIAL.sub(r"\\\g<0>", text)
            case Quotes.BARE:
                # With a `=` in it, it would set a variable where a command is expected.
                return apart + (f"'{text}'" if "=" in text and shlex.quote(text) == text else shlex.quote(text))
            case Quotes.COMMENT:
                if "\n" in text:
                    raise ValueError("in a comment: a line break would end it")
                return text
        if self.is_joined or not _PLAIN.fullmatch(text) or any(text in end for end in self.heredoc_ends):
            raise ValueError(f"{_NO_QUOTES}: no quotes would keep a shell from acting on it there")
        return text


NO_CONTEXT = ShellContext()
"""A bare place with nothing around it."""

_NO_QUOTES = (
    "in a here-document, backticks, arithmetic or what a second shell reads (`ssh`, `-c`, `-e`), or behind such a thing"
)
_SPECIAL = re.compile(r'[\\"$`]')
"""What the shell acts on within double quotes."""
_PLAIN = re.compile(r"(?:[\w@%+:,./-]|(?<=\w)~)+", re.ASCII)
"""What is itself wherever it stands. A `~` is, unless a word, or a part of it behind `:` or `=`, begins with it."""
_NAME_BEFORE = re.compile(r"\$[A-Za-z_]\w*\Z", re.ASCII)
_HERE = re.compile(r"<<-?([^\n;&|<>]*)")

_RUNS_SCRIPTS = re.compile(r"(?:.*\$.*)?(?:(?:.*/)?(?:eval|trap|ssh|su|runuser)|-[A-Za-z]*[ce]|--command=?)", re.DOTALL)
"""A word behind which what the shell has read once may be read again, as a script: of a shell, or of Perl or Python.
A variable in the word may be empty."""
_LONGEST_WORD = 64
"""Characters of a word that are looked at."""

_COMMAND_ENDS = "\n;&|()"
_WORD_ENDS = f" \t<>{_COMMAND_ENDS}"
_SUBSTITUTION, _BRACE, _TICKS, _COMMENT = "$(", "${", "`", "#"
_ENDS: dict[str, str] = {_COMMENT: "\n", Quotes.SINGLE: "'", _TICKS: "`"}
"""What ends with one character, and with which, whatever else stands in it."""
_GOES_ON = "\\\n"
_ESCAPED, _VALUE = "x", "\0"
"""What stands for an escaped character and for a value, where it matters what came before."""


class ShellReader:
    """Reads a script from its beginning, piece by piece, and tells what the place is to which it has come."""

    def __init__(self, script: str = "") -> None:
        self._ends = tuple(re.sub(r"[\\'\"]", "", end).strip() for end in _HERE.findall(script))
        self._within: list[str] = [Quotes.BARE]
        self._scripts = [False]
        """For each command that is not yet at its end, the outer ones first: whether a script may be in its words."""
        self._word = ""
        self._is_unknown = False
        self._before = "\n"

    @property
    def quotes(self) -> Quotes:
        """What the place is within."""
        top = self._within[-1]
        if self._is_unknown:
            return Quotes.UNKNOWN
        if top == _COMMENT:
            return Quotes.COMMENT if self._within[:-1] == [Quotes.BARE] else Quotes.UNKNOWN
        if top in (_TICKS, _BRACE) or _BRACE in self._within or self._in_a_script:
            return Quotes.UNKNOWN
        return Quotes(top)

    def find_context(self, before: str, behind: str) -> ShellContext:
        """Give the place, with the text of the script right before and behind it."""
        quotes = self.quotes
        joined = quotes not in (Quotes.SINGLE, Quotes.COMMENT) and bool(_NAME_BEFORE.search(before))
        return ShellContext(quotes, joined or (quotes is Quotes.BARE and behind[:1] in ("<", ">")), self._ends)

    def read(self, text: str) -> None:
        """Read on."""
        at = 0
        while at < len(text) and not self._is_unknown:
            taken = self._step(text, at)
            read = text[at : at + taken]
            if read != _GOES_ON:
                self._before = _ESCAPED if read[:1] == "\\" else read[-1:] or self._before
            at += taken

    def pass_value(self, *, raw: bool) -> None:
        """Go on behind a value. One that was quoted for its place changes nothing; a raw one may change all."""
        self._is_unknown = self._is_unknown or raw
        self._before = _VALUE

    @property
    def _in_a_script(self) -> bool:
        return self._scripts[-1] or bool(_RUNS_SCRIPTS.fullmatch(self._word))

    def _step(self, text: str, at: int) -> int:
        """Read a character or two; give how many."""
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
        """Tell whether what comes next may not be what it seems, behind a `$` or a backslash."""
        if at + 1 == len(text):
            return True  # It may be a value: it would lose its first character, or be a variable's name.
        # A line that goes on may cut a word, or an operator, in two.
        return text[at : at + 2] == _GOES_ON and (self._before not in " \t" or text[at + 2 : at + 3] == "#")

    def _spell(self, char: str) -> None:
        if len(self._word) < _LONGEST_WORD:
            self._word += char

    def _to_the_end(self, char: str, top: str) -> int:
        """Read on in what ends with one character, whatever stands in it."""
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
        """Begin with the commands in a bracket. What they print may be of a script, where the bracket is."""
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
            self._is_unknown = self._before == _VALUE  # An empty list is no word.
            if begins:
                self._within.append(_COMMENT)
        elif text.startswith("<<", at):
            # Its lines are the shell's own affair; what comes after them is seldom worth the trouble.
            self._is_unknown = True
        elif char == "[":
            self._is_unknown = not begins  # An index, or bash's own test: it computes, and runs what stands in it.
        elif char == "(":
            self._is_unknown = self._before == "("  # So does arithmetic.
            self._go_in(char)
        elif char == ")" and len(self._within) > 1:
            del self._within[-2:]
            self._scripts.pop()
        elif char in _COMMAND_ENDS:
            self._scripts[-1] = len(self._scripts) > 1 and self._scripts[-2]
        elif char == "c" and begins and re.match(r"case(?:\s|\Z)", text[at : at + 5]) and len(self._within) > 1:
            self._is_unknown = True  # Its patterns end in brackets that were never opened.
