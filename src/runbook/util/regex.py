"""Searching for an operator's pattern, which may take for ever: `(a+)+$` needs years for forty letters.

Python's search holds up the whole program, threads, signals and all. So it is done by a child, which the kernel
ends when its time is over.
"""

from __future__ import annotations

import json
import re
import signal
import subprocess
import sys
from collections.abc import Sequence

from runbook.errors import HostError

LIMIT = 0.25
"""Seconds of processor time that a search may take; a good one of 64 KiB takes a thousandth of it."""

PATIENCE = 3.0
"""Seconds that are waited for the child itself, on a machine that has much else to do."""

_REPEATS = re.compile(r"[*+?{|]")
"""Without one of these a pattern has nothing to try again: no child is needed."""

_CHILD = """
import json, re, signal, sys
pattern, texts, flags = json.load(sys.stdin)
signal.setitimer(signal.ITIMER_VIRTUAL, float(sys.argv[1]))
search = re.compile(pattern, flags).search
found = next(((at, it) for at, text in enumerate(texts) if (it := search(text))), None)
json.dump(found and [found[0], found[1][0], *found[1].groups()], sys.stdout)
"""


def search(pattern: str, text: str, *, multiline: bool = False) -> list[str | None] | None:
    """Find a pattern: all of what was found, and its groups; None where it is not there.

    Raises HostError when that cannot be told within a moment.
    """
    found = _search(pattern, [text], multiline)
    return found[1] if found else None


def first(pattern: str, texts: Sequence[str], *, multiline: bool = False) -> int | None:
    """Tell which of several texts is the first that has a pattern; None where none has. Raises HostError."""
    found = _search(pattern, texts, multiline)
    return found[0] if found else None


def _search(pattern: str, texts: Sequence[str], multiline: bool) -> tuple[int, list[str | None]] | None:
    flags = int(re.MULTILINE) if multiline else 0
    if not _REPEATS.search(pattern):
        plain = re.compile(pattern, flags)
        matches = ((at, match) for at, text in enumerate(texts) if (match := plain.search(text)))
        return next(((at, [match[0], *match.groups()]) for at, match in matches), None)
    try:
        done = subprocess.run(  # noqa: S603 - this very Python, and no word of anybody's
            [sys.executable, "-IS", "-c", _CHILD, str(LIMIT)],
            input=json.dumps([pattern, list(texts), flags]).encode(),
            capture_output=True,
            timeout=PATIENCE,
            check=False,
            # Ctrl-C at a terminal is this program's to answer.
            process_group=0,
        )
    except subprocess.TimeoutExpired:
        raise _too_slow(pattern) from None
    except OSError as error:
        raise HostError(f"cannot search for `{pattern}`: {error.strerror}") from None
    if done.returncode == -signal.SIGVTALRM:
        raise _too_slow(pattern)
    if done.returncode:
        last = (done.stderr.decode(errors="replace").strip().splitlines() or ["its search broke off"])[-1]
        raise HostError(f"cannot search for `{pattern}`: {last}")
    result = json.loads(done.stdout)
    return (result[0], result[1:]) if result else None


def _too_slow(pattern: str) -> HostError:
    hint = "a repetition within a repetition, as in (a+)+, is tried in every way there is: write it without"
    return HostError(f"cannot search for `{pattern}`: it takes too long", hint=hint)
