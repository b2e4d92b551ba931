"""The command `runbook` with an error in it, inside a machine: `broken.py STEP METHOD CALL ARGUMENT…`.

The method of that step type raises an error at that call, counted from 1: it asks for more memory than there is, or, if
the variable TOKEN is set, for a variable of that name.
"""

from __future__ import annotations

import os
import sys
from typing import Any

from runbook.cli import main
from runbook.steps import registry


def breaks(kind: str, method: str, at: int) -> None:
    """Make one call of a method of a step type fail."""
    model = registry()[kind]
    good: Any = getattr(model, method)
    calls = [0]

    def broken(*arguments: Any) -> Any:
        calls[0] += 1
        if calls[0] != at:
            return good(*arguments)
        return os.environ[os.environ["TOKEN"]] if "TOKEN" in os.environ else bytearray(1 << 62)

    setattr(model, method, broken)


if __name__ == "__main__":
    step, name, call, *sys.argv[1:] = sys.argv[1:]
    breaks(step, name, int(call))
    main()
