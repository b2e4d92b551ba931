"""The Python distribution in a virtual environment that a program belongs to, from the files that pip wrote."""

from __future__ import annotations

import re
import shlex
from pathlib import PurePosixPath

from runbook.document.init.lookup import Lookup
from runbook.document.init.packages import PACKAGE_VERSION, Package
from runbook.document.init.program import Program
from runbook.document.quoting import is_writable

_NAME = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9._-]*[A-Za-z0-9])?", re.ASCII)
_FIELD = re.compile(r"^(Name|Version): *(\S+) *$", re.M)
# RECORD lists the files of a distribution; `-D skip` opens no named pipe.
_SEARCH = 'cd "$1"/lib && exec grep -lsD skip -e "$2" python3*/site-packages/*.dist-info/RECORD'


def find_environment(lookup: Lookup, program: Program) -> str:
    """Return the virtual environment of a program; empty if it is in none."""
    for path in (program.named, program.interpreter):
        folder = PurePosixPath(path).parent
        if folder.name == "bin" and is_writable(path) and lookup.read(f"{folder.parent}/pyvenv.cfg"):
            return str(folder.parent)
    return ""


def find_pip_package(lookup: Lookup, program: Program) -> Package | None:
    """Return the distribution that brought a program."""
    environment = find_environment(lookup, program)
    what = program.module.partition(".")[0] or PurePosixPath(program.named).name
    if not environment or not _NAME.fullmatch(what):
        return None
    line = f"^{re.escape(what)}/" if program.module else rf"^\.\./\.\./\.\./bin/{re.escape(what)},"
    record = lookup.run("/bin/sh", "-c", _SEARCH, "sh", environment, line).partition("\n")[0]
    folder = f"{environment}/lib/{record.removesuffix('/RECORD')}"
    fields = dict(_FIELD.findall(lookup.read(f"{folder}/METADATA").partition("\n\n")[0])) if record else {}
    name, version = fields.get("Name", ""), fields.get("Version", "")
    if not (_NAME.fullmatch(name) and PACKAGE_VERSION.fullmatch(version) and is_writable(folder)):
        return None
    # Another distribution of this name may be in the index.
    if lookup.read(f"{folder}/direct_url.json"):
        return None
    packages, base = folder.rpartition("/")[0], folder.rpartition("/")[2]
    program_path = shlex.quote(f"{environment}/bin/python")
    return Package(
        what=f"the Python distribution {name}, in {environment}",
        version=version,
        run=(
            f"rm -rf {shlex.quote(packages)}/~*",  # what a killed pip leaves behind
            f"{program_path} -m pip install --no-input {name}==${{{{ to }}}}",
        ),
        version_command=(
            f"{program_path} -c {shlex.quote(f'from importlib.metadata import version; print(version({name!r}))')}",
        ),
        pattern=r"\S+",
        newer_than=(f"{packages}/{base.partition('-')[0]}-*.dist-info",),
        user=lookup.find_other_owner(f"{folder}/METADATA"),
        sources=(f"{folder}/METADATA",),
        executes=(f"{environment}/bin/python",),
    )
