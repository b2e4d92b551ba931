"""Search for a pattern from a runbook, within a time limit: `(a+)+$` takes years on forty letters.

While `re` searches, no other thread of this process runs and no signal is handled. Therefore a child process
searches, and the kernel kills it at the limit. Such a search takes 12 ms; an interpreter that does nothing takes 7.

The package `regex` has a time-out of its own. It is not used:

- It reads some patterns differently from `re`: `a{e}` matches approximately, `[[:alpha:]]` is a class.
  Of 60,000 random patterns, 298 matched a different text, 2,287 were accepted that `re` refuses, and 2,092 were
  refused that `re` accepts. Of 403 patterns of Python's own tests, 27 had their error at another character.
- Its time-out does not cover compilation: `(?:()()…){500}` with 80 groups (169 characters) took 13 seconds, and
  `(?:a{1000}){1000}` took 263 MB. `re` compiles both at once.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence

from runbook.errors import HostError

CPU_LIMIT = 0.25  # seconds of processor time for a search. An ordinary search of 64 KiB takes a thousandth of it
CHILD_TIMEOUT = 3.0  # seconds until the child is killed, for a busy machine
_REPEATS = re.compile(r"[*+?{|]")  # A pattern without any of these characters cannot backtrack, so no child is needed

_CHILD = """
import json, re, signal, sys
pattern, texts, flags = json.load(sys.stdin)
signal.setitimer(signal.ITIMER_VIRTUAL, float(sys.argv[1]))
search = re.compile(pattern, flags).search
found = next(((at, it) for at, text in enumerate(texts) if (it := search(text))), None)
json.dump(found and [found[0], found[1][0], *found[1].groups()], sys.stdout)
"""


def search(pattern: str, text: str, *, multiline: bool = False) -> list[str | None] | None:
    """Return the whole match of a pattern and its groups, or None. Raises HostError if it takes too long."""
    found = _search(pattern, [text], multiline)
    return found[1] if found else None


def find_first(pattern: str, texts: Sequence[str], *, multiline: bool = False) -> int | None:
    """Return the index of the first text that a pattern is found in, or None. Raises HostError as `search` does."""
    found = _search(pattern, texts, multiline)
    return found[0] if found else None


def _search(pattern: str, texts: Sequence[str], multiline: bool) -> tuple[int, list[str | None]] | None:
    flags = int(re.MULTILINE) if multiline else 0
    if not _REPEATS.search(pattern):
        plain = re.compile(pattern, flags)
        matches = ((at, match) for at, text in enumerate(texts) if (match := plain.search(text)))
        return next(((at, [match[0], *match.groups()]) for at, match in matches), None)
    try:
        done = subprocess.run(  # noqa: S603 - this very Python; the pattern is input, not code
            [sys.executable, "-IS", "-c", _CHILD, str(CPU_LIMIT)],
            input=json.dumps([pattern, list(texts), flags]).encode(),
            capture_output=True,
            timeout=CHILD_TIMEOUT,
            check=False,
            # Ctrl-C at a terminal is for this program to handle.
            process_group=0,
        )
    except subprocess.TimeoutExpired:
        raise _too_slow(pattern) from None
    except OSError as error:
        raise HostError(f"cannot search for `{pattern}`: {error.strerror}") from None
    if done.returncode == -signal.SIGVTALRM:
        raise _too_slow(pattern)
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["the search was interrupted"])[-1]
        raise HostError(f"cannot search for `{pattern}`: {last}")
    result = json.loads(done.stdout)
    return (result[0], result[1:]) if result else None


def _too_slow(pattern: str) -> HostError:
    hint = "a repetition inside a repetition, as in (a+)+, can take years: write the pattern without it"
    return HostError(f"cannot search for `{pattern}`: it takes too long", hint=hint)
