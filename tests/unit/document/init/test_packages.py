"""The version that an update installs."""

from __future__ import annotations

from dataclasses import replace

from runbook.document.init.packages import Package


def test_the_newer_version_if_one_is_known() -> None:
    package = Package("the package app", "1.0", ("install",), ("version",), ("/usr/bin/app",))
    assert package.to == "1.0"
    assert replace(package, candidate="1.1").to == "1.1"
