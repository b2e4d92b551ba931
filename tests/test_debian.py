"""The Debian package has every dependency of pyproject.toml, in a version that fits, and the project's own version."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).parent.parent
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
REQUIREMENTS = [Requirement(line) for line in PROJECT["dependencies"]]
DEPENDS = dict(
    re.findall(
        r"^(?:Depends:)? +python3-([a-z0-9-]+)(?: \(>= ([\d.]+)\))?,?$", (ROOT / "debian/control").read_text(), re.M
    )
)
"""The versions that debian/control asks for, by the name after `python3-`."""
WHEELS = dict(re.findall(r"^([a-z-]+)==(\S+)", (ROOT / "debian/wheels.txt").read_text(), re.M))
DEBIAN_NAMES = {"pyyaml": "yaml"}


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=lambda one: one.name)
def test_a_dependency_is_a_wheel_or_a_package_of_debian(requirement: Requirement) -> None:
    name = canonicalize_name(requirement.name)
    if name in WHEELS:
        assert WHEELS[name] in requirement.specifier
    else:
        [lowest] = requirement.specifier
        assert (lowest.operator, lowest.version) == (">=", DEPENDS[DEBIAN_NAMES.get(name, name)])


def test_the_version_is_that_of_the_project() -> None:
    newest = (ROOT / "debian/changelog").read_text().splitlines()[0]
    assert newest.startswith(f"runbook ({PROJECT['version']}) ")
