"""A shell in a throwaway machine, to look around: `python -m tests.machine.shell [SUITE]`.

The checkout is at /opt/runbook, and `runbook` is on the PATH. The machine is deleted when the shell exits.
"""

from __future__ import annotations

import os
import subprocess
import sys

from tests.machine.machine import Machine
from tests.machine.tree import SUITES


def main() -> int:
    suite = sys.argv[1] if len(sys.argv) > 1 else SUITES[0]
    with Machine(suite) as machine:
        print(
            f"A throwaway Debian ({suite}) with runbook in it; all is gone when you leave with `exit`.", file=sys.stderr
        )
        # `script` gives the shell a terminal inside the machine. Commands from a pipe need no terminal.
        terminal = ["script", "--quiet", "--flush", "--return", "--command", "bash --login", "/dev/null"]
        shell = terminal if sys.stdin.isatty() else ["bash", "--login"]
        environment = {"TERM": os.environ.get("TERM", "dumb")}
        subprocess.call(machine.command(shell, env=environment))
    return 0


if __name__ == "__main__":
    sys.exit(main())
