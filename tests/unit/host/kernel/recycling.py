"""Reuses a thousand PIDs while their processes are signalled.

Command: `python -m tests.unit.host.kernel.recycling MOMENT`.

MOMENT is one of `moments.MOMENTS`, or `watched`: the PID is reused before a pidfd is opened.
Prints as JSON how many PIDs were reused at that moment, how many signals found their process gone, how many of the
new processes are alive, and how many were signalled.
"""

from __future__ import annotations

import json
import sys
from collections import Counter

from runbook.host.holders import SignalResult
from runbook.host.kernel import processes
from runbook.host.kernel.signals import open_pidfd

from .family import Family, was_hit
from .moments import signal_with_change

ROUNDS, AT_ONCE = 1000, 100


def main(moment: str) -> None:
    counts = Counter({"reused": 0, "gone": 0, "alive": 0, "hit": 0})
    with Family() as family:
        for _ in range(ROUNDS // AT_ONCE):
            # All are judged before the first is killed: each must be a tick of the clock old by then.
            judged = [family.judged(pid) for pid in [family.bear() for _ in range(AT_ONCE)]]
            for holder in judged:
                pid = holder.process.pid

                def change(now: str, pid: int = pid) -> None:
                    if now == moment:
                        family.replace(pid)

                if moment == "watched":
                    family.replace(pid)
                    sent = SignalResult.GONE if open_pidfd(holder.process.id) is None else SignalResult.SENT
                else:
                    sent = signal_with_change(holder, change)
                heir = processes.read_id(pid)
                counts["reused"] += heir is not None and heir != holder.process.id
                counts["gone"] += sent is SignalResult.GONE
                counts["alive"] += heir is not None and processes.is_alive(heir)
                counts["hit"] += was_hit(pid)
                family.end(pid)
    print(json.dumps(counts))


if __name__ == "__main__":
    main(sys.argv[1])
