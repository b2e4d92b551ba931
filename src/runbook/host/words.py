"""Words for people: what the operating system says when something does not work."""

from __future__ import annotations


def in_words(error: Exception) -> str:
    """Say what went wrong, without Python's own decoration."""
    if isinstance(error, TimeoutError):
        return "no answer in time"
    if isinstance(error, OSError) and error.strerror:
        return error.strerror.lower()
    return str(error) or type(error).__name__
