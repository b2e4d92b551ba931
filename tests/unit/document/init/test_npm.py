"""The global npm package of a program."""

from __future__ import annotations

from runbook.document.init.npm import find_npm_package
from tests.unit.document.init.fakes import lookup

HOME = "/usr/local/lib/node_modules"


def manifest(name: str, version: str) -> str:
    return f'{{\n  "name": "{name}",\n  "version": "{version}",\n  "config": {{\n      "version": "0"\n  }}\n'


def test_the_package_and_its_update() -> None:
    file = f"{HOME}/openclaw/package.json"
    package = find_npm_package(lookup(files={file: manifest("openclaw", "2026.5.5")}), f"{HOME}/openclaw/openclaw.mjs")
    assert package is not None
    assert package.run == (f"rm -rf {HOME}/.openclaw-*", "npm install --global openclaw@${{ to }}")
    assert package.version_command[1] == f"node -p 'require(\"{file}\").version'"
    assert (package.version, package.candidate, package.newer_than) == ("2026.5.5", "", (file,))
    assert (package.user, package.no_rollback) == ("", "")


def test_a_package_with_a_scope_below_another_prefix_of_a_user() -> None:
    home = "/home/app user/.local/lib/node_modules"
    file = f"{home}/@org/gw/package.json"
    found = lookup(files={file: manifest("@org/gw", "1.0.0")}, owners={file: "app"})
    package = find_npm_package(found, f"{home}/@org/gw/bin/gw.js")
    assert package is not None
    assert package.run == (
        f"rm -rf '{home}/@org'/.gw-*",
        "npm install --global --prefix '/home/app user/.local' @org/gw@${{ to }}",
    )
    assert package.user == "app"


def test_no_package() -> None:
    file = f"{HOME}/gw/package.json"
    assert find_npm_package(lookup(), f"{HOME}/gw/gw.js") is None
    assert find_npm_package(lookup(files={file: manifest("other", "1")}), f"{HOME}/gw/gw.js") is None
    assert find_npm_package(lookup(files={file: manifest("gw", "1; rm")}), f"{HOME}/gw/gw.js") is None
    assert find_npm_package(lookup(), "/srv/gw.js") is None
    # A folder's name may be anything, also a template.
    odd = "/srv/${{ x }}/lib/node_modules/gw"
    assert find_npm_package(lookup(files={f"{odd}/package.json": manifest("gw", "1")}), f"{odd}/gw.js") is None
