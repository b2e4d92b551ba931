"""Builds the package once for all tests of a session, and boots machines that have neither Python nor the checkout."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.machine import Machine
from tests.machine.tree import CHECKOUT, locked

PIP = CHECKOUT / ".venv/bin/pip"


def build(output: Path) -> Path:
    """Build the package, and return the path of the .deb."""
    argv = [str(CHECKOUT / "debian/build.sh"), str(PIP), str(output)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [deb] = output.glob("*.deb")
    return deb


def build_wheel(output: Path) -> Path:
    """Build the source archive and the wheel, and return the path of the wheel."""
    argv = ["make", "--silent", "dist", f"OUTPUT={output}"]
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    [wheel] = output.glob("*.whl")
    return wheel


@pytest.fixture(scope="session")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder that all workers of pytest-xdist share."""
    base = tmp_path_factory.getbasetemp()
    return base.parent if "PYTEST_XDIST_WORKER" in os.environ else base


@pytest.fixture(scope="session")
def deb(shared: Path) -> Path:
    """Return the path of the package."""
    with locked(shared / "package.lock"):
        return next((shared / "deb").glob("*.deb"), None) or build(shared / "deb")


@pytest.fixture(scope="session")
def wheel(shared: Path) -> Path:
    """Return the path of the wheel, with the source archive beside it."""
    with locked(shared / "package.lock"):
        return next((shared / "wheel").glob("*.whl"), None) or build_wheel(shared / "wheel")


@pytest.fixture
def clean_machine(suite: str, deb: Path) -> Iterator[Machine]:
    """Boot a machine that has what Debian installs at first, and the package in /srv/package."""
    with Machine(suite, clean=True, bind={deb.parent: "/srv/package"}) as booted:
        yield booted
