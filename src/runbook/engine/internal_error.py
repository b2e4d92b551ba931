"""An error of this program itself, or no memory: what a run reports of it."""

from __future__ import annotations

import traceback
from pathlib import Path

from runbook.util.wording import shorten

PACKAGE = Path(__file__).parents[1]
MAX_TRACE_LINES = 60  # lines of the traceback that are recorded, the last ones
MAX_CAUSE = 300  # characters of the exception's own text in the sentence


def describe_internal_error(error: Exception) -> str:
    """Return a sentence: "internal error (KeyError: 'x', in steps/restart.py, line 20)"."""
    cause = shorten(f"{type(error).__name__}: {error}".removesuffix(": "), MAX_CAUSE)
    return f"internal error ({cause}{_find_place(error)})"


def format_trace(error: Exception) -> list[str]:
    """Return the lines of the traceback, for the record."""
    return "".join(traceback.format_exception(error)).splitlines()[-MAX_TRACE_LINES:]


def _find_place(error: Exception) -> str:
    """Return where in this program an error happened."""
    place, trace = "", error.__traceback__
    while trace is not None:
        path = Path(trace.tb_frame.f_code.co_filename)
        if path.is_relative_to(PACKAGE):
            place = f", in {path.relative_to(PACKAGE)}, line {trace.tb_lineno}"
        trace = trace.tb_next
    return place
