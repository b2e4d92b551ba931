"""What installed the program of a unit, and how it is updated: apt, npm or pip."""

from __future__ import annotations

import re

from runbook.model import frozen

PACKAGE_VERSION = re.compile(r"[0-9A-Za-z][0-9A-Za-z.+:~_-]*", re.ASCII)


@frozen
class Package:
    """An installed package, and the fields of the `update` for it."""

    what: str  # for a comment: "Debian's package nginx"
    version: str  # that is installed
    run: tuple[str, ...]  # the lines of the command
    version_command: tuple[str, ...]  # the lines of the command that prints the installed version
    newer_than: tuple[str, ...]  # the files that change with each update
    candidate: str = ""  # a newer version that can be installed; empty if none is known
    pattern: str = ""  # which part of the output is the version; empty for the default
    user: str = ""  # the user who owns the files; empty if that is the caller
    env: tuple[tuple[str, str], ...] = ()
    sources: tuple[str, ...] = ()  # what was asked: "dpkg", "apt-cache"
    executes: tuple[str, ...] = ()  # the files beside those of the package that its commands execute
    no_rollback: str = ""  # why the previous version cannot be installed again; empty if it can

    @property
    def to(self) -> str:
        """The version to install: the newer one, if one is known."""
        return self.candidate or self.version
