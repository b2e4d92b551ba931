"""When a look at all processes must end, although it has not read all of them."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from runbook.errors import LookLimitExceeded

LOOK_TIMEOUT = 10.0  # seconds; 3,000 processes with 20 descriptors each take 0.1


class LookLimit:
    """A time-out, and SIGTERM. Several threads may share it.

    `is_interrupted` is called often, and in any thread.
    """

    def __init__(self, seconds: float = LOOK_TIMEOUT, is_interrupted: Callable[[], bool] = bool) -> None:
        self._until = time.monotonic() + seconds
        self._is_interrupted = is_interrupted
        self._over = False
        self.large_tables = Counter[int]()  # by PID, how many descriptors were read from tables that have many

    @property
    def is_over(self) -> bool:
        """True from the moment at which the look must end."""
        self._over = self._over or time.monotonic() >= self._until or self._is_interrupted()
        return self._over

    def check(self) -> None:
        """Raise LookLimitExceeded if the look must end."""
        if self.is_over:
            raise LookLimitExceeded("a look at all processes takes too long")
