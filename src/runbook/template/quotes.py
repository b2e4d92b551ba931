"""Where a value is in a shell script: bare, or inside quotes of one kind, so that it can be quoted for that place.

This module implements only the part of the shell's grammar (POSIX, 2.2 to 2.6) that this needs. In a here-document,
backticks, arithmetic, a script inside the script, or behind anything unusual, the place is UNKNOWN: quoting is
impossible there, so a value is refused unless it needs no quotes.
"""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable
from enum import IntEnum, StrEnum
from typing import NamedTuple

from runbook.util.wording import CURLY_QUOTES


class Quotes(StrEnum):
    """What a place in a script is inside of."""

    BARE = "bare"
    SINGLE = "single"
    DOUBLE = "double"
    COMMENT = "comment"
    UNKNOWN = "unknown"


class ShellContext(NamedTuple):
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
                # shlex.quote leaves more bare than is safe everywhere: A=1 would set a variable where a command is
                # expected, bash expands `a,b` and `1..3` inside braces, and `if` is a word of the shell.
                plain = shlex.quote(text) == text and (_NEEDS_QUOTES.search(text) or text in _RESERVED)
                return apart + (f"'{text}'" if plain else shlex.quote(text))
            case Quotes.COMMENT:
                if "\n" in text:
                    raise ValueError("in a comment, which the line break in its value would end")
                return text
        if self.is_joined or not is_plain(text) or any(text in end for end in self.heredoc_ends):
            raise ValueError(f"{_NO_QUOTES}, where a value cannot be quoted")
        return text


_NO_QUOTES = (
    "in or behind a here-document, backticks, arithmetic, or a script for a second shell or another program "
    "(`ssh`, `| sh`, `-c`, `-e`, `awk`)"
)
_SPECIAL = re.compile(r'[\\"$`]')  # what is special inside double quotes
_PLAIN = re.compile(r"(?:[\w@%+:,./-]|(?<=\w)~)+", re.ASCII)
"""What needs no quotes anywhere. A `~` is special at the start of a word, and behind `:` or `=`."""
_NEEDS_QUOTES = re.compile(r"[=,]|\.\.")
_RESERVED = {
    "case", "coproc", "do", "done", "elif", "else", "esac", "fi", "for", "function", "if", "in", "select", "then",
    "time", "until", "while",
}  # fmt: skip
_NAME_BEFORE = re.compile(r"\$[A-Za-z_]\w*\Z", re.ASCII)
_HERE = re.compile(r"<<-?([^\n;&|<>]*)")

_EVALUATORS = (
    r"(?:eval|trap|alias|let|ssh|slogin|autossh|rsh|mosh|su|sg|runuser|watch|parallel|systemd-run"
    r"|[gmn]?awk|original-awk|sed|sqlite3)\Z"
)
"""The name of a program that may read its arguments as a script again."""
_OPTIONS = r"-[A-Za-z]*[ceS]\Z"
"""An option behind which any program may read a script."""
_SCRIPT_WORDS = (
    r"PS[0-4]=.*|[A-Za-z_]\w*\[.*"
    r"|--(?:command|execute|eval|exec|print|split-string|to-command|rsh|init-command)(?:=.*)?"
)
"""A word whose end, or the words behind it, may be a script for any program. bash evaluates the `…` of `a[…]`."""
_JOINED_SCRIPT = r"-[ceE].+"
_SHELL = r"(?:.*/)?(?:(?:ba|da|a|k|mk|pdk|lk|z|rba|rz|c|tc|fi|y|po)?sh|busybox|toybox|python[\d.]*|pypy[\d.]*)|.*\$.*"
"""A program that runs the argument of an option with `c` as a script; a variable may stand for one."""
_INTERPRETER = r"(?:.*/)?(?:perl|ruby|node|nodejs|php|lua|luajit|deno|bun|Rscript|guile)[\d.]*"
_SHELL_OPTION = r"[-+][A-Za-z]*c.*"
_INTERPRETER_OPTION = r"-[A-Za-z0-9]*[eErpRBn].*"
_PIPED_TO_SHELL = (
    r"\s*(?:(?:sudo|doas|exec|command|env|nice|nohup|time|busybox|chroot\s+\S+|\w+=\S*)\s+(?:-\S+\s+)*)*"
    r"(?:(?:\S*/)?(?:ba|da|a|k|mk|z)?sh(?:\s+-[\w-]*)*|(?:\.|source)\s+/dev/(?:stdin|fd/0))\s*(?:[|;&\n)}#\d<>]|$)"
)
"""What follows a `|` if a shell runs what the commands before it print."""
_LONGEST_WORD = 256  # characters of a word that are kept for these patterns


def is_plain(text: str) -> bool:
    """True if a value needs no quotes anywhere: neither in a script nor in a script inside it."""
    return bool(_PLAIN.fullmatch(text)) and text not in _RESERVED


class _Reads(IntEnum):
    """How a command reads its arguments, as far as its words so far show."""

    AS_TEXT = 0
    SHELL = 1  # as a script behind an option with `c`
    INTERPRETER = 2  # as a script behind some options
    SCRIPT = 3  # a word so far, or a later one, is a script


def _ends_with(pattern: str, word: str, before: str) -> bool:
    """True if a word is this, or ends with it behind one of `before` or behind a variable, which may be empty."""
    found = re.search(pattern, word)
    rest = word[: found.start()] if found else ""
    return found is not None and (not rest or rest.endswith(before) or "$" in rest)


def _matches(pattern: str, word: str) -> bool:
    # Compiled at the first use: most files have no script with a value, and compiling takes longer than reading them.
    return bool(re.fullmatch(pattern, word, re.DOTALL))


def _classify(word: str, known: _Reads) -> _Reads:
    """Return how a command reads its arguments, with one more word known."""
    option = {_Reads.SHELL: _SHELL_OPTION, _Reads.INTERPRETER: _INTERPRETER_OPTION}.get(known)
    if known is _Reads.SCRIPT or _ends_with(_EVALUATORS, word, "/") or (option and _matches(option, word)):
        return _Reads.SCRIPT
    if _matches(_INTERPRETER, word):
        return _Reads.INTERPRETER
    return _Reads.SHELL if known is _Reads.AS_TEXT and _matches(_SHELL, word) else known


def is_script(word: str, before: Iterable[str]) -> bool:
    """True if a command, with the words before this one, may read it as a script, or a part of it."""
    known = _Reads.AS_TEXT
    for earlier in (*before, word):
        known = _classify(earlier, known)
    return known is _Reads.SCRIPT


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
        self._reads = [_Reads.AS_TEXT]  # for each open command, outermost first: how it reads its arguments
        self._places: list[ShellContext] = []  # where the values are
        self._pipelines = [0]  # for each open command: the number of the first value in its pipeline
        self._word = ""
        self._is_unknown = False
        self._before = "\n"
        self._length = 0  # the characters read so far; a value counts as one
        self._openings: list[int] = []  # where each of `_within` begins, but for the script itself
        self.apostrophe: int | None = None  # where the last single quote between two letters opens a text
        self.curly_quote: int | None = None  # where the first word is that begins with a quote of a word processor

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

    @property
    def open_quote(self) -> int | None:
        """Where the innermost quote, backtick or `$(` begins that is still open; None if there is none, or unknown."""
        top = self._within[-1] if self._within[-1] != Quotes.BARE else self._within[-2:][0]
        closes = top in (Quotes.SINGLE, Quotes.DOUBLE, _TICKS, _SUBSTITUTION)
        return self._openings[-1] if closes and not self._is_unknown else None

    @property
    def places(self) -> tuple[ShellContext, ...]:
        """The places of the values so far. A later shell that reads the output of a command changes its places."""
        return tuple(self._places)

    def read(self, text: str) -> None:
        """Read the next piece of the script."""
        at = 0
        while at < len(text) and not self._is_unknown:
            taken = self._step(text, at)
            read = text[at : at + taken]
            del self._openings[len(self._within) - 1 :]
            self._openings += [self._length] * (len(self._within) - 1 - len(self._openings))
            self._length += taken
            if read != _GOES_ON:
                self._before = _ESCAPED if read[:1] == "\\" else read[-1:] or self._before
            at += taken

    def pass_value(self, before: str, behind: str, *, raw: bool) -> None:
        """Note the place of a value, and continue behind it. `before` and `behind` are the texts around it.

        A quoted value does not change the place; after a raw one, the place is unknown.
        """
        quotes = self.quotes
        joined = quotes not in (Quotes.SINGLE, Quotes.COMMENT) and bool(_NAME_BEFORE.search(before))
        redirects = quotes is Quotes.BARE and behind.replace(_GOES_ON, "")[:1] in ("<", ">")
        self._places.append(ShellContext(quotes, joined or redirects, self._ends))
        self._is_unknown = self._is_unknown or raw
        self._before = _VALUE
        self._length += 1
        self._spell("$")  # Its text may be anything, as that of a variable.

    @property
    def _in_a_script(self) -> bool:
        known = self._classify_word()
        return known is _Reads.SCRIPT or _matches(_JOINED_SCRIPT, self._word)

    def _classify_word(self) -> _Reads:
        script = _matches(_SCRIPT_WORDS, self._word) or _ends_with(_OPTIONS, self._word, "$")
        return _Reads.SCRIPT if script else _classify(self._word, self._reads[-1])

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

    def _end_command(self, text: str, at: int) -> None:
        """End a command. If its pipeline continues with a shell, what it prints is a script."""
        outer = self._reads[-2] if len(self._reads) > 1 else _Reads.AS_TEXT
        self._reads[-1] = outer if outer is _Reads.SCRIPT else _Reads.AS_TEXT
        if text[at] != "|" or "|" in (self._before, text[at + 1 : at + 2]):
            self._pipelines[-1] = len(self._places)
        elif re.compile(_PIPED_TO_SHELL).match(text, at + 2 if text[at + 1 : at + 2] == "&" else at + 1):
            first = 0 if re.search(r"(?:\}|\)|\bdone|\bfi|\besac)\s*$", text[:at]) else self._pipelines[-1]
            for number in range(first, len(self._places)):
                self._places[number] = self._places[number]._replace(quotes=Quotes.UNKNOWN)

    def _open(self, what: str) -> int:
        self._is_unknown = self._is_unknown or what == "$'"
        if what == _SUBSTITUTION:
            self._go_in(what)
        else:
            self._within.append(what)
        return len(what)

    def _go_in(self, bracket: str) -> None:
        """Enter the commands in a bracket. If the bracket is in a script, their output is a part of the script."""
        self._reads.append(_Reads.SCRIPT if self._in_a_script else _Reads.AS_TEXT)
        self._pipelines.append(len(self._places))
        self._word = ""
        self._within += [bracket, Quotes.BARE]

    def _note_quote(self, char: str, behind: str) -> None:
        """Note a character that may not be the quote that it was meant as."""
        if char == "'" and self._before.isalpha() and behind.isalpha():
            self.apostrophe = self._length
        if char in CURLY_QUOTES and self._before in f"{_WORD_ENDS}=" and self.curly_quote is None:
            self.curly_quote = self._length

    def _bare(self, text: str, at: int) -> None:
        char = text[at]
        if char in _WORD_ENDS:
            self._reads[-1] = self._classify_word()
            self._word = ""
        elif char != "'":
            self._spell(char)
        begins = self._before in _WORD_ENDS
        self._note_quote(char, text[at + 1 : at + 2])
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
            self._reads.pop()
            self._pipelines.pop()
            self._spell("$")  # Its output may be a part of a word.
        elif char in _COMMAND_ENDS:
            self._end_command(text, at)
        elif char == "c" and begins and re.match(r"case(?:\s|\Z)", text[at : at + 5]) and len(self._within) > 1:
            self._is_unknown = True  # Its patterns end with `)` without a `(`.
