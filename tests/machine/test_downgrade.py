"""A lower version is installed only if an operator asks for it, and the plan names it: a file that is behind does not.

The program is a real Debian package, in two versions that apt can choose from.
"""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.machine.machine import Machine
from tests.machine.runs import RUNBOOK, Run, parsed, write_runbook

BUILD = r"""
set -e
mkdir -p /srv/repo && cd /srv/repo
for version in 2.0-1 3.0-1; do
    mkdir -p app/DEBIAN app/usr/lib/app
    printf 'Package: downgraded-app\nVersion: %s\nArchitecture: all\n' $version >app/DEBIAN/control
    printf 'Maintainer: M <m@example.org>\nDescription: an app\n' >>app/DEBIAN/control
    echo $version >app/usr/lib/app/version
    dpkg-deb --build -Znone app downgraded-app_$version.deb >/dev/null
    rm -r app
done
"""

BOOK = """
name: upgrade the app
vars: {{version: "2.0-1", line: "${{{{ vars.version }}}}"}}
steps:
{before}
  - update:
      run: dpkg -i /srv/repo/downgraded-app_${{{{ to }}}}.deb
      version: dpkg-query -W -f '${{Version}}' downgraded-app
      to: {to}
      {extra}
{after}
"""


class App:
    """The package in a machine."""

    def __init__(self, machine: Machine) -> None:
        self.machine = machine

    def install(self, version: str) -> None:
        self.machine.run(["dpkg", "-i", f"/srv/repo/downgraded-app_{version}.deb"])

    @property
    def version(self) -> str:
        return self.machine.run(["dpkg-query", "-W", "-f", "${Version}", "downgraded-app"]).stdout

    def run(
        self, *options: str, to: str = "${{ vars.line }}", before: str = "", extra: str = "", after: str = ""
    ) -> Run:
        write_runbook(self.machine, BOOK.format(to=to, before=before, extra=extra, after=after))
        done = self.machine.run(["runbook", "apply", RUNBOOK, "--output", "json", *options], check=False)
        return parsed(done.stdout, done.returncode, done.stderr)


@pytest.fixture
def app(machine: Machine) -> Iterator[App]:
    machine.run(["sh", "-c", BUILD])
    made = App(machine)
    made.install("3.0-1")
    yield made
    machine.run(["dpkg", "-P", "downgraded-app"])
    machine.run(["rm", "-f", "/run/touched"])


def refused(app: App, run: Run) -> None:
    assert (run.exit, run.last["status"]) == (5, "not-begun"), run.last
    assert "update: 3.0-1 -> 2.0-1 is a downgrade" in run.last["reason"]
    assert "`--set NAME=VERSION`" in run.last["hint"]
    assert "`downgrade: true`" in run.last["hint"]
    assert app.version == "3.0-1"
    assert not run.of("step-acting")


def test_a_file_that_is_behind_is_refused(app: App) -> None:
    refused(app, app.run())
    refused(app, app.run(to="2.0-1"))


def test_it_is_refused_before_an_earlier_step_changes_anything(app: App) -> None:
    refused(app, app.run(before="  - run: {run: touch /run/touched}"))
    assert app.machine.run(["test", "-e", "/run/touched"], check=False).returncode == 1


@pytest.mark.parametrize(
    ("options", "extra"),
    [(["--set", "version=2.0-1"], ""), (["--set", "line=2.0-1"], ""), ([], "downgrade: true")],
)
def test_a_downgrade_that_is_asked_for_is_done_and_the_plan_names_it(app: App, options: list[str], extra: str) -> None:
    plan = app.run("--dry-run", *options, extra=extra)
    assert ": 3.0-1 -> 2.0-1, a downgrade" in plan.of("step-planned")[0]["reason"]
    run = app.run(*options, extra=extra)
    assert (run.exit, app.version) == (0, "2.0-1"), run.last


def test_the_plan_names_both_versions_and_the_refusal(app: App) -> None:
    plan = app.run("--dry-run")
    assert (plan.exit, plan.last["would-change"]) == (0, False)
    assert "would fail: 3.0-1 -> 2.0-1 is a downgrade" in plan.of("step-planned")[0]["reason"]
    assert "a run would end at update" in plan.last["reason"]
    app.install("2.0-1")
    assert ": 2.0-1 -> 3.0-1" in app.run("--dry-run", to="3.0-1").of("step-planned")[0]["reason"]


@pytest.mark.parametrize("given", [[], ["--set", "version=3.0-1"]])
def test_a_variable_that_the_version_does_not_come_from_permits_nothing(app: App, given: list[str]) -> None:
    run = app.run(*given, to="2.0-1")
    refused(app, run)


def test_a_rollback_goes_back(app: App) -> None:
    app.install("2.0-1")
    fails = "  - run: {run: exit 3}\nrollback: auto"
    run = app.run(to="3.0-1", after=fails)
    assert (run.exit, app.version) == (4, "2.0-1"), (run.last["reason"], run.verdicts)
    listed = "  - run: {run: exit 3}\nrollback: [update: {run: dpkg -i /srv/repo/downgraded-app_2.0-1.deb,"
    listed += " version: \"dpkg-query -W -f '${Version}' downgraded-app\", to: 2.0-1}]"
    run = app.run(to="3.0-1", after=listed)
    assert (run.exit, app.version) == (4, "2.0-1"), (run.last["reason"], run.verdicts)
