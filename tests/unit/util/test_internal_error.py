"""What is reported of an error of this program itself."""

from __future__ import annotations

import pytest

from runbook.util import internal_error, timespan
from runbook.util.internal_error import describe_internal_error, format_trace


def raised(text: object) -> Exception:
    """Return an exception that this program raises by a mistake."""
    with pytest.raises(Exception) as caught:  # noqa: PT011 - any
        timespan.parse_span(text)  # type: ignore[arg-type]
    return caught.value


def test_the_place_is_named() -> None:
    error = raised(None)
    sentence = describe_internal_error(error)
    assert sentence.startswith("internal error (AttributeError: 'NoneType' object has no attribute 'strip', in util/")
    assert ".py, line " in sentence
    assert format_trace(error)[0] == "Traceback (most recent call last):"
    assert format_trace(error)[-1].startswith("AttributeError")


def test_an_error_from_elsewhere_without_words() -> None:
    assert describe_internal_error(MemoryError()) == "internal error (MemoryError)"


def test_of_very_much_the_end_is_kept(monkeypatch: pytest.MonkeyPatch) -> None:
    error = ValueError("x\n" * 5000)
    assert len(describe_internal_error(error)) < 400
    assert len(format_trace(error)) == internal_error.MAX_TRACE_LINES
