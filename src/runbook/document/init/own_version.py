"""The version that a program without a package prints itself.

A server that does not know `--version` may begin to serve. So it runs as a user without rights, in a network and a PID
namespace of its own, which end with it: it reaches no port and no process, and can write to no state of the service.
Only root can do that, and only a program is run that no other user can write.
"""

from __future__ import annotations

import os
import re

from runbook.checks.versions import VERSION, find_version
from runbook.document.init.lookup import Lookup, find_danger
from runbook.document.init.program import Program, is_interpreter
from runbook.document.quoting import is_writable

VERSION_OPTION_TIMEOUT = 5.0  # seconds for a program to print its version
MAX_VERSION_OUTPUT = 2000  # characters of a version; a server that has begun to log prints more
NO_RIGHTS = 65534  # the user and the group that own nothing
_ALONE = (
    *("unshare", "--net", "--ipc", "--pid", "--mount-proc", "--fork", "--kill-child", "--"),
    *(
        "setpriv",
        f"--reuid={NO_RIGHTS}",
        f"--regid={NO_RIGHTS}",
        "--clear-groups",
        "--no-new-privs",
        "--bounding-set=-all",
    ),
    *("--inh-caps=-all", "--"),
)


def find_own_version(lookup: Lookup, program: Program) -> tuple[str, str]:
    """Return the version that a program prints, and what it is not asked for; both empty if it prints none."""
    path = program.named
    if not path or is_interpreter(program.real) or not is_writable(path) or re.search(r"\s", path):
        return "", ""
    if os.geteuid() != 0:
        return "", f"{path} --version was not tried: only root runs it without its rights"
    if why := find_danger(path):
        return "", f"{path} --version was not tried, because {why}"
    output = lookup.run(*_ALONE, path, "--version", timeout=VERSION_OPTION_TIMEOUT)
    version = find_version(output, VERSION) if len(output) <= MAX_VERSION_OUTPUT else None
    return version or "", ""
