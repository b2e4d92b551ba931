"""The package of Debian that a program belongs to, and the versions that apt could install. Both without a network."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from runbook.document.init.lookup import Lookup
from runbook.document.init.packages import PACKAGE_VERSION, Package
from runbook.host.facts import Unit

STATUS = "/var/lib/dpkg/status"  # as a source of apt: only the installed version, which is in no archive
MAX_SIBLINGS = 12  # packages of one source that are named in one command

_NAME = re.compile(r"[a-z0-9][a-z0-9+.-]+")
# apt-cache would write its caches.
_POLICY = ("apt-cache", "-o", "Dir::Cache::pkgcache=", "-o", "Dir::Cache::srcpkgcache=", "policy", "--")
_SIBLINGS = (
    r"dpkg-query -W -f '${source:Package} ${Package} ${Version} ${db:Status-Status}\n'"
    """ | awk -v source="$1" '$1 == source && $4 == "installed" { print $2, $3 }'"""
)
_INSTALL = (
    "apt-get install -qy --no-remove",
    "-o DPkg::Lock::Timeout=120 -o Dpkg::Options::=--force-confold",
)
ENVIRONMENT = (("DEBIAN_FRONTEND", "noninteractive"), ("NEEDRESTART_SUSPEND", "1"))


class Versions(NamedTuple):
    """The versions of one package, as apt has them."""

    installed: str = ""
    candidate: str = ""
    available: tuple[str, ...] = ()  # those that an archive has


def find_apt_package(lookup: Lookup, paths: Iterable[str], unit: Unit) -> Package | None:
    """Return the package of the first of these files that has one.

    Of several packages of one source and version, the one is named that has the unit's name or file.
    """
    owner, path = next(((name, path) for path in paths if (name := _find_owner(lookup, path))), ("", ""))
    facts = lookup.run("dpkg-query", "-W", "-f", "${source:Package} ${Essential}", "--", owner) if owner else ""
    source, _, essential = facts.partition(" ")
    # A script that ends in `exec sleep infinity` is no program of coreutils.
    if not _NAME.fullmatch(source) or essential == "yes":
        return None
    # Packages of one source often need each other in the very same version.
    installed = dict(_parse_siblings(lookup.run("/bin/sh", "-c", _SIBLINGS, "sh", source)))
    version = installed.get(owner, "")
    if not PACKAGE_VERSION.fullmatch(version):
        return None
    alike = [name for name, other in installed.items() if other == version and name != owner]
    policy = parse_policy(lookup.run(*_POLICY, owner, *alike[:MAX_SIBLINGS]))
    own = policy.get(owner, Versions())
    candidate = own.candidate if _is_newer(lookup, own.candidate, version) else ""
    siblings = [name for name in alike if policy.get(name, Versions()).candidate == own.candidate]
    likely = (unit.name.rpartition(".")[0], _find_owner(lookup, unit.fragment_path))
    named = next((name for name in likely if name in (owner, *siblings)), owner)
    names = [named, *sorted({owner, *siblings} - {named})]
    no_rollback = (
        ""
        if version in own.available
        else f"by apt's lists, no archive has {version}, so it could not be installed again"
    )
    downgrade = "" if no_rollback else " --allow-downgrades"
    return Package(
        what=f"Debian's package {named}",
        version=version,
        candidate=candidate,
        run=(_INSTALL[0] + downgrade, _INSTALL[1], *_wrap(f"{name}=${{{{ to }}}}" for name in names)),
        version_command=(f"dpkg-query -W -f '${{db:Status-Status}} ${{Version}}' {named}",),
        pattern=r"^installed (\S+)",
        newer_than=(path,),
        env=ENVIRONMENT,
        sources=("dpkg", "apt-cache policy"),
        no_rollback=no_rollback,
    )


def _find_owner(lookup: Lookup, path: str) -> str:
    """Return the package that a file belongs to. Since /bin is a link to /usr/bin, dpkg may have it by either name."""
    if not path.startswith("/"):
        return ""
    other = path.removeprefix("/usr") if path.startswith("/usr/") else f"/usr{path}"
    for one in (path, other):
        # dpkg takes a pattern.
        output = lookup.run("dpkg-query", "-S", "--", re.sub(r"([][*?\\])", r"\\\1", one))
        for line in output.splitlines():
            names, _, found = line.partition(": ")
            name = names.split(",")[0].partition(":")[0]
            if found == one and _NAME.fullmatch(name) and not names.startswith("diversion "):
                return name
    return ""


def _parse_siblings(output: str) -> Iterator[tuple[str, str]]:
    for line in output.splitlines():
        name, _, version = line.partition(" ")
        if _NAME.fullmatch(name):
            yield name, version


def parse_policy(output: str) -> dict[str, Versions]:
    """Return the versions in the output of `apt-cache policy`, by package."""
    found: dict[str, Versions] = {}
    name = version = ""
    for line in output.splitlines():
        word, _, value = line.strip().partition(": ")
        if line[:1].strip() and line.endswith(":"):
            name = line.removesuffix(":")
            found[name] = Versions()
        elif name and word in ("Installed", "Candidate"):
            known = "" if value.startswith("(") else value
            old = found[name]
            found[name] = old._replace(installed=known) if word == "Installed" else old._replace(candidate=known)
        elif match := re.fullmatch(r"(?: \*\*\*|    ) (\S+) -?\d+", line.rstrip()):
            version = match[1]
        elif version and (match := re.fullmatch(r"\s+-?\d+ (\S.*)", line)) and match[1].strip() != STATUS:
            found[name] = found[name]._replace(available=(*found[name].available, version))
    return found


def _is_newer(lookup: Lookup, candidate: str, version: str) -> bool:
    if not PACKAGE_VERSION.fullmatch(candidate) or candidate == version:
        return False
    compare = ("/bin/sh", "-c", 'dpkg --compare-versions "$1" gt "$2" && echo newer', "sh", candidate, version)
    return bool(lookup.run(*compare))


def _wrap(words: Iterable[str]) -> list[str]:
    """Return words in lines of at most 80 characters."""
    lines: list[str] = []
    for word in words:
        if lines and len(lines[-1]) + len(word) < 80:  # noqa: PLR2004
            lines[-1] += f" {word}"
        else:
            lines.append(word)
    return lines
