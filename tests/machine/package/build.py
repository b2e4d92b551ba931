"""Builds the package, the wheel and the source archive for the tests, once for a state of the checkout.

`python -m tests.machine.package.build` builds and prints the folder.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
from pathlib import Path

from tests.machine.tree import CHECKOUT, locked

BUILT = CHECKOUT / "build/package"
SOURCES = ("debian", "pyproject.toml", "runbooks", "src", "CHANGELOG.md", "LICENSE", "Makefile", "README.md")


class BuildError(Exception):
    """A build failed. The message is its output."""


def run(*argv: str) -> str:
    """Run a command in the checkout, and return its output. Raises BuildError."""
    done = subprocess.run(argv, cwd=CHECKOUT, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise BuildError(f"{argv} ended with {done.returncode}\n{done.stdout}{done.stderr}")
    return done.stdout


def build(output: Path) -> None:
    """Build all three into a folder."""
    run("debian/build.sh", ".venv/bin/pip", str(output))
    run("make", "--silent", "dist", f"OUTPUT={output}")


def built() -> Path:
    """Return the folder that has all three. Build them if the checkout has changed. Raises BuildError."""
    git = ("git", "-c", f"safe.directory={CHECKOUT}")
    state = hashlib.sha256(run(*git, "log", "-1", "--format=%ct").encode())
    for name in run(*git, "ls-files", "--", *SOURCES).splitlines():
        path = CHECKOUT / name
        state.update(name.encode() + (path.read_bytes() if path.is_file() else b""))
    folder = BUILT / state.hexdigest()[:16]
    BUILT.mkdir(parents=True, exist_ok=True)
    with locked(BUILT / ".lock"):
        if not folder.is_dir():
            partial = BUILT / "partial"
            shutil.rmtree(partial, ignore_errors=True)
            build(partial)
            partial.rename(folder)
    return folder


if __name__ == "__main__":
    print(built())
