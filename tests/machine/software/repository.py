"""Builds a new version of a Debian package from the installed one, in a repository in the machine.

Files, dependencies and maintainer scripts are the real ones. Only the version is different, so that apt can upgrade,
and each file is a new one on the disk.
"""

from __future__ import annotations

import re

from tests.machine.machine import Machine

FOLDER = "/opt/repository"

_REPACK = r"""
package=$1 tree=$(mktemp -d)
mkdir "$tree/DEBIAN"
chmod 755 "$tree"
cat >"$tree/DEBIAN/control"
dpkg-query --listfiles "$package" | while read -r file; do
    case $file in /bin | /lib | /sbin) continue ;; esac  # links, where /usr is merged
    if [ -L "$file" ] || [ -f "$file" ]; then cp --archive --parents "$file" "$tree"; else mkdir -p "$tree$file"; fi
done
for script in preinst postinst prerm postrm conffiles templates triggers; do
    file=/var/lib/dpkg/info/$package.$script
    if [ -f "$file" ]; then cp --archive "$file" "$tree/DEBIAN/$script"; fi
done
if [ "$3" ]; then find "$tree$3" -type f -exec sed --in-place "$4" {} +; fi
dpkg-deb --root-owner-group -Znone --build "$tree" "$2" >/dev/null
rm -r "$tree"
"""


def offer(machine: Machine, *packages: str, new: str = "", programs: str = "", edit: str = "") -> str:
    """Offer a newer version of installed packages, which have the same version, and return it.

    `edit` are commands for sed on `programs`, a file or a folder. They must not change the length of a file.
    """
    old = installed(machine, packages[0])
    new = new or f"{old}+1"
    machine.run(["mkdir", "-p", FOLDER])
    for package in packages:
        control = _without(machine.run(["dpkg-query", "--status", package]).stdout, "Status", "Conffiles")
        # The packages depend on each other in this version, and on other packages in versions that stay.
        for field in ("\nVersion: {}\n", *(f"{name} (= {{}})" for name in packages)):
            control = control.replace(field.format(old), field.format(new))
        machine.run(["sh", "-ec", _REPACK, "sh", package, FOLDER, programs, edit], input=control)
    machine.run(["sh", "-ec", f"cd {FOLDER} && apt-ftparchive packages . >Packages"])
    machine.run(["rm", "-rf", "/etc/apt/sources.list.d"])
    machine.write("/etc/apt/sources.list", f"deb [trusted=yes] file:{FOLDER} ./\n")
    machine.run(["apt-get", "update"])
    return new


def substitute(old: str, new: str) -> str:
    """Return the command for sed that replaces a version everywhere."""
    dots = old.replace(".", "\\.")
    return f"s/{dots}/{new}/g"


def installed(machine: Machine, package: str) -> str:
    """Return the version of a package, from dpkg."""
    return machine.run(["dpkg-query", "--show", "--showformat=${Version}", package]).stdout


def _without(control: str, *fields: str) -> str:
    """Return a control file without some fields and their continuation lines."""
    for field in fields:
        control = re.sub(rf"^{field}:.*\n(?: .*\n)*", "", control, flags=re.MULTILINE)
    return control
