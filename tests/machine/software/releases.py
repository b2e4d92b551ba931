"""Builds releases of `app`, a small service that answers with its version, for four package tools.

It runs in a machine with the distribution's Python: `python3 releases.py FOLDER TOOL`. It writes the releases to the
folder, in the form in which the tool's registry, repository or index offers them.
"""

from __future__ import annotations

import hashlib
import io
import json
import subprocess
import sys
import tarfile
import zipfile
from pathlib import Path

VERSIONS = ("1.0.0", "2.0.0")
DEBIAN = {"1.0.0": "1:1.0-1~deb12u1", "2.0.0": "1:2.0-1+deb12u1"}
URL = "http://127.0.0.1:4873"
MANY = 3000
"""Number of files in a wheel and in a tarball, so that unpacking takes a while."""

SERVER = """\
#!/usr/bin/python3
import http.server, pathlib, sys
VERSION = pathlib.Path(__file__).with_name("VERSION").read_text()
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
        self.wfile.write(VERSION.encode())
def main():
    if sys.argv[1:] == ["--version"]:
        print("app", VERSION)
    else:
        http.server.HTTPServer(("127.0.0.1", 8090), Answer).serve_forever()
if __name__ == "__main__":
    main()
"""

NODE_SERVER = """\
#!/usr/bin/env node
const version = require("./package.json").version;
if (process.argv[2] === "--version") {
    console.log("app " + version);
} else {
    require("http").createServer((_, answer) => answer.end(version)).listen(8090, "127.0.0.1");
}
"""

HOOK = """\
echo "migrating the data"
if test -e /run/app-fails; then
    echo "cannot migrate the data: no space left" >&2
    exit 1
fi
if test -p /run/app-waits; then
    cat /run/app-waits
fi
"""
"""A package's script at installation. It can be made to fail, and to wait."""

POSTINST = """\
#!/bin/sh
set -e
if test "$1" = configure; then
    sh /usr/lib/app/hook.sh
    deb-systemd-helper unmask app.service >/dev/null || true
    if deb-systemd-helper --quiet was-enabled app.service; then
        deb-systemd-helper enable app.service >/dev/null || true
    else
        deb-systemd-helper update-state app.service >/dev/null || true
    fi
    if test -d /run/systemd/system; then
        systemctl --system daemon-reload >/dev/null || true
        if test -n "$2"; then action=restart; else action=start; fi
        deb-systemd-invoke $action app.service >/dev/null || true
    fi
fi
"""
"""The script that debhelper's dh_installsystemd writes."""

UNIT = """\
[Unit]
StartLimitIntervalSec=0
[Service]
ExecStart=/usr/lib/app/server.py
[Install]
WantedBy=multi-user.target
"""


def npm(folder: Path) -> None:
    """Write the metadata of `app` in a registry, and its tarballs."""
    (folder / "npm").mkdir(parents=True)
    versions = {}
    for version in VERSIONS:
        about = {
            "name": "app",
            "version": version,
            "bin": {"app": "app.js"},
            "scripts": {"postinstall": "sh hook.sh"},
        }
        files = {"package.json": json.dumps(about), "app.js": NODE_SERVER, "hook.sh": HOOK}
        data = _tar({f"package/{name}": text for name, text in files.items()})
        (folder / f"npm/app-{version}.tgz").write_bytes(data)
        shasum = hashlib.sha1(data, usedforsecurity=False).hexdigest()
        versions[version] = {**about, "dist": {"tarball": f"{URL}/npm/app-{version}.tgz", "shasum": shasum}}
    # The tag names the old version, as when the new release is a candidate or was withdrawn.
    metadata = {"name": "app", "dist-tags": {"latest": VERSIONS[0]}, "versions": versions}
    (folder / "npm/app").write_text(json.dumps(metadata))


def apt(folder: Path) -> None:
    """Build a repository of `app`, with the maintainer scripts of debhelper, and of `other`, which waits."""
    (folder / "apt").mkdir(parents=True)
    for version in DEBIAN.values():
        files = {
            "usr/lib/app/server.py": SERVER,
            "usr/lib/app/VERSION": version,
            "usr/lib/app/hook.sh": HOOK,
            "usr/lib/systemd/system/app.service": UNIT,
            "etc/app.conf": f"# of {version}\n",
            "DEBIAN/conffiles": "/etc/app.conf\n",
            "DEBIAN/postinst": POSTINST,
        }
        _deb(folder, "app", version, files)
    _deb(folder, "other", "1.0", {"DEBIAN/postinst": f"#!/bin/sh\n{HOOK}"})
    listed = subprocess.run(
        ["apt-ftparchive", "packages", "."], cwd=folder / "apt", check=True, capture_output=True, text=True
    )
    (folder / "apt/Packages").write_text(listed.stdout)


def pip(folder: Path) -> None:
    """Build a simple index of wheels."""
    (folder / "simple/app").mkdir(parents=True)
    links = []
    for version in VERSIONS:
        info = f"app-{version}.dist-info"
        files = {
            "app/__init__.py": "",
            "app/server.py": SERVER,
            "app/VERSION": version,
            **{f"app/data/{number}": version for number in range(MANY)},
            f"{info}/METADATA": f"Metadata-Version: 2.1\nName: app\nVersion: {version}\n",
            f"{info}/WHEEL": "Wheel-Version: 1.0\nGenerator: app\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
            f"{info}/entry_points.txt": "[console_scripts]\napp = app.server:main\n",
        }
        record = "".join(f"{name},,\n" for name in (*files, f"{info}/RECORD"))
        name = f"app-{version}-py3-none-any.whl"
        with zipfile.ZipFile(folder / f"simple/app/{name}", "w") as wheel:
            for path, text in {**files, f"{info}/RECORD": record}.items():
                wheel.writestr(path, text)
        digest = hashlib.sha256((folder / f"simple/app/{name}").read_bytes()).hexdigest()
        links.append(f'<a href="{name}#sha256={digest}">{name}</a>')
    (folder / "simple/app/index.html").write_text("<!DOCTYPE html>\n" + "\n".join(links))


def tarball(folder: Path) -> None:
    """Build tarballs."""
    folder.mkdir(parents=True, exist_ok=True)
    for version in VERSIONS:
        data = _tar({"server.py": SERVER, "VERSION": version, **{f"data/{n}": version for n in range(MANY)}})
        (folder / f"app-{version}.tar.gz").write_bytes(data)


def _tar(files: dict[str, str]) -> bytes:
    made = io.BytesIO()
    with tarfile.open(fileobj=made, mode="w:gz") as archive:
        for name, text in files.items():
            member = tarfile.TarInfo(name)
            member.size, member.mode = len(text), 0o755
            archive.addfile(member, io.BytesIO(text.encode()))
    return made.getvalue()


def _deb(folder: Path, name: str, version: str, files: dict[str, str]) -> None:
    root = folder / f"build/{name}_{version}"
    control = f"Package: {name}\nVersion: {version}\nArchitecture: all\nMaintainer: nobody <nobody@localhost>\n"
    for path, text in {**files, "DEBIAN/control": f"{control}Description: {name}\n"}.items():
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text(text)
        (root / path).chmod(0o644 if path.endswith(("control", "conffiles", ".conf", ".service")) else 0o755)
    subprocess.run(["dpkg-deb", "--build", root, folder / "apt"], check=True, capture_output=True)


if __name__ == "__main__":
    {"npm": npm, "apt": apt, "pip": pip, "tarball": tarball}[sys.argv[2]](Path(sys.argv[1]))
