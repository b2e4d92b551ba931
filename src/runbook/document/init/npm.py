"""The global npm package that a program belongs to, from its folder and its package.json."""

from __future__ import annotations

import json
import re
import shlex

from runbook.document.init.lookup import Lookup
from runbook.document.init.packages import PACKAGE_VERSION, Package
from runbook.document.quoting import is_writable

_FOLDER = re.compile(
    r"(?P<prefix>/.*)/lib/node_modules/(?P<name>(?:@[a-z0-9][a-z0-9._-]*/)?[a-z0-9][a-z0-9._-]*)/.+", re.ASCII
)
_FIELD = re.compile(r'^(?:  |    |\t)"(name|version)": "([^"\n]+)"', re.M)  # of package.json itself, by the indent


def find_npm_package(lookup: Lookup, real: str) -> Package | None:
    """Return the package below PREFIX/lib/node_modules that a file is in."""
    match = _FOLDER.fullmatch(real)
    if match is None or not is_writable(real):
        return None
    prefix, name = match["prefix"], match["name"]
    modules = f"{prefix}/lib/node_modules"
    file = f"{modules}/{name}/package.json"
    # Not as JSON: the file may be longer than what is read of it.
    fields = dict(reversed(_FIELD.findall(lookup.read(file))))
    version = fields.get("version", "")
    if fields.get("name") != name or not PACKAGE_VERSION.fullmatch(version):
        return None
    user = lookup.find_other_owner(file)
    scope, _, base = name.rpartition("/")
    # What a killed npm leaves behind: it then refuses to install again, and reports the new version all the same.
    rest = f"{shlex.quote('/'.join(filter(None, (modules, scope))))}/.{base}-*"
    place = "" if prefix == "/usr/local" and not user else f" --prefix {shlex.quote(prefix)}"
    return Package(
        what=f"the npm package {name}",
        version=version,
        run=(f"rm -rf {rest}", f"npm install --global{place} {name}@${{{{ to }}}}"),
        version_command=(
            f"if ls -d {rest} 2>/dev/null; then exit 1; fi",
            f"node -p {shlex.quote(f'require({json.dumps(file)}).version')}",
        ),
        newer_than=(file,),
        user=user,
        sources=(file,),
    )
