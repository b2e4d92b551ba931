"""When a look must end."""

from __future__ import annotations

import pytest

from runbook.errors import LookLimitExceeded
from runbook.host.kernel.look_limit import LookLimit


def test_it_is_over_at_its_time() -> None:
    LookLimit().check()
    assert LookLimit(-1).is_over
    with pytest.raises(LookLimitExceeded):
        LookLimit(0).check()


def test_it_is_over_after_an_interruption_for_good() -> None:
    """The loop raises an interruption only once, and then reports none any more."""
    signals = [True, False]
    limit = LookLimit(10, lambda: signals.pop(0))
    assert limit.is_over
    assert limit.is_over
