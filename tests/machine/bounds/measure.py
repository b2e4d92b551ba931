"""Measures a command, inside a machine: `measure.py SECONDS COMMAND…` sends SIGTERM after SECONDS, unless that is 0.

Prints JSON: the seconds until the end, those since SIGTERM, the largest memory in MiB, the status, and the output.
"""

from __future__ import annotations

import json
import resource
import signal
import subprocess
import sys
import time


def main() -> None:
    """Run the command, and print what it took."""
    after, *command = sys.argv[1:]
    began = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        sent = 0.0
        if float(after):
            time.sleep(float(after))
            sent = time.monotonic()
            process.send_signal(signal.SIGTERM)
        out, err = process.communicate()
    ended = time.monotonic()
    print(
        json.dumps(
            {
                "seconds": ended - began,
                "since": ended - sent,
                "mib": resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss / 1024,
                "status": process.returncode,
                "out": out,
                "err": err,
            }
        )
    )


if __name__ == "__main__":
    main()
