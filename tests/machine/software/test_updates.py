"""Updates by the real npm, apt, pip and tar, with the runbooks of docs/how-to/update-with.md."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

import pytest

from tests.docs import DOCS
from tests.machine.machine import Machine, until
from tests.machine.runs import Run, parsed, runbook, write_runbook
from tests.machine.software.updates import TOOLS, Tool, kill_half_way

PAGE = (DOCS / "how-to/update-with.md").read_text()
BOOKS = dict(re.findall(r"<!-- file: /root/(\w+)\.yaml -->\n```yaml\n(.*?)^```$", PAGE, re.MULTILINE | re.DOTALL))


@dataclass(frozen=True)
class App:
    """The service in a machine, as one tool brought it in."""

    machine: Machine
    tool: Tool
    book: str

    def sh(self, script: str) -> str:
        """Run a script in the machine and give what it prints."""
        return self.machine.run(["sh", "-ec", script]).stdout

    def apply(self, *options: str, changes: Mapping[str, str] | None = None) -> Run:
        """Apply the page's runbook, with pieces of it changed."""
        book = self.book
        for old, new in (changes or {}).items():
            assert old in book
            book = book.replace(old, new)
        return runbook(self.machine, "apply", book, *options)

    @property
    def serves(self) -> str:
        return self.sh("curl -fsS http://127.0.0.1:8090/")

    @property
    def invocation(self) -> str:
        return self.machine.show("app.service", "InvocationID")["InvocationID"]

    @property
    def files(self) -> str:
        """What changes with every swap of the files."""
        return self.sh(f"stat --format='%i %z' {self.tool.witness}")

    def proved_new(self, run: Run, invocation: str) -> None:
        """See that the update was made, and that a new process serves it."""
        assert (run.exit, run.last["status"], run.step("update")["verdict"]) == (0, "changed", "updated"), run.last
        assert run.step("verify-version")["verdict"] == "version-ok"
        assert self.serves == self.tool.new
        assert self.invocation != invocation

    def proved_untouched(self, run: Run, invocation: str) -> None:
        """See that the run ended there, that the old process serves, and that nothing of the command is left."""
        assert (run.exit, run.last["status"]) == (1, "failed"), run.last
        assert [name for name, _, _ in run.verdicts] == ["update"]
        assert (self.serves, self.invocation) == (self.tool.old, invocation)
        assert self.sh("grep -l runbook- /proc/[0-9]*/cgroup || true") == ""


@pytest.fixture(scope="module", params=TOOLS)
def staged(request: pytest.FixtureRequest, suite: str) -> Iterator[App]:
    with Machine(suite, software=True) as machine:
        TOOLS[request.param].stage(machine)
        # A service that tells its version is up at once.
        book = BOOKS[request.param].replace("healthy-for: 1s", "healthy-for: 100ms")
        yield App(machine, TOOLS[request.param], book)


@pytest.fixture
def app(staged: App) -> Iterator[App]:
    """The old version runs. Afterwards nothing is in its tool's way any more."""
    if staged.serves != staged.tool.old:
        assert staged.apply("--set", f"version={staged.tool.old}").exit == 0
    yield staged
    staged.sh(staged.tool.mends)


def test_there_and_back(app: App) -> None:
    before = app.invocation, app.files
    planned = app.apply("--dry-run")
    assert (planned.exit, app.invocation, app.files) == (0, *before)

    app.proved_new(run := app.apply(), before[0])
    assert run.step("update")["reason"] == f"{app.tool.old} -> {app.tool.new}"
    assert app.files != before[1]

    before = app.invocation, app.files
    again = app.apply()
    assert (again.exit, again.step("update")["verdict"], again.step("update")["status"]) == (0, "up-to-date", "ok")
    assert app.files == before[1]

    down = app.apply("--set", f"version={app.tool.old}")
    assert down.step("update")["reason"] == f"{app.tool.new} -> {app.tool.old}"
    assert app.serves == app.tool.old


def test_it_fails(app: App) -> None:
    invocation = app.invocation
    app.sh(app.tool.breaks)
    for _ in range(2):  # The second time it must not pass for installed.
        run = app.apply()
        assert run.step("update")["verdict"] == "update-failed"
        assert app.tool.says in run.step("update")["evidence"]["output"]
        app.proved_untouched(run, invocation)
    app.sh(app.tool.mends)
    app.proved_new(app.apply(), invocation)


def test_it_is_killed_half_way(app: App) -> None:
    invocation = app.invocation
    out, err, status = kill_half_way(app.machine, app.tool, write_runbook(app.machine, app.book))
    run = parsed(out, status, err)
    assert run.step("update")["verdict"] == "update-failed"
    app.proved_untouched(run, invocation)
    app.proved_new(app.apply(), invocation)


def test_it_hangs(app: App) -> None:
    before = app.invocation, app.files
    app.sh(app.tool.hangs)
    run = app.apply(changes={re.findall("timeout: 1.min", app.book)[0]: "timeout: 2s"})
    assert run.step("update")["verdict"] == "timed-out"
    app.proved_untouched(run, before[0])
    assert app.files == before[1]
    app.sh(app.tool.mends)
    app.proved_new(app.apply(), before[0])


def test_it_brings_another_version(app: App) -> None:
    invocation = app.invocation
    app.sh(app.tool.strays)
    run = app.apply(changes={app.tool.named: app.tool.elsewhere})
    assert run.step("update")["verdict"] == "version-mismatch"
    assert f"{app.tool.old} is installed, not {app.tool.new}" in run.step("update")["reason"]
    app.proved_untouched(run, invocation)


@pytest.mark.parametrize("staged", ["apt"], indirect=True)
def test_a_configuration_of_ones_own(app: App) -> None:
    """dpkg asks what to do with it, and nobody is there to answer: the page's runbook has answered before."""
    run = app.apply(changes={"-o Dpkg::Options::=--force-confold ": ""})
    assert (run.exit, run.step("update")["verdict"]) == (1, "update-failed")
    assert "end of file on stdin at conffile prompt" in run.step("update")["evidence"]["output"]
    assert app.apply().step("update")["verdict"] == "updated"
    assert app.sh("cat /etc/app.conf") == "# mine\n"


@pytest.mark.parametrize("staged", ["npm"], indirect=True)
def test_a_tool_has_the_settings_of_its_user_not_those_of_the_caller(app: App) -> None:
    path = write_runbook(app.machine, 'steps: [run: {run: "npm config get prefix; echo $HOME $PATH"}]\n')
    caller = {"HOME": "/nowhere", "npm_config_prefix": "/elsewhere"}
    done = app.machine.run(["runbook", "apply", path, "--output", "json"], env=caller)
    run = parsed(done.stdout, done.returncode, done.stderr)
    prefix, home, path = run.step("run")["evidence"]["output"].split()
    assert (prefix, home) == ("/usr/local", "/root")
    assert path.startswith("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin")


HELD = {"timeout: 15min": "timeout: 15min\n      stop-first: true", "- restart\n": "- start\n"}


@pytest.mark.parametrize("staged", ["apt"], indirect=True)
def test_a_package_that_starts_its_unit_while_it_is_held(app: App) -> None:
    """As debhelper's scripts do, after the files are in place: it is stopped again, and that is told."""
    invocation = app.invocation
    run = app.apply(changes=HELD)
    app.proved_new(run, invocation)
    # It was the package's script, which may be gone before anybody has looked.
    expected = (
        r"app.service was kept stopped meanwhile, and stopped again when (something else|a command .*\)) started it$"
    )
    assert re.search(expected, run.step("update")["reason"]), run.step("update")
    assert run.step("start")["verdict"] == "job-done"


@pytest.mark.parametrize("staged", ["apt"], indirect=True)
def test_a_package_that_fails_while_its_unit_is_held(app: App) -> None:
    """The unit is started again: with the new files, which dpkg had unpacked."""
    app.sh(app.tool.breaks)
    run = app.apply(changes=HELD)
    assert (run.exit, run.step("update")["verdict"]) == (1, "update-failed")
    assert "app.service was started again and is active (running)" in run.step("update")["reason"]
    until(lambda: app.machine.run(["curl", "-fsS", "http://127.0.0.1:8090/"], check=False).stdout, "an answer")
    assert app.serves == app.tool.new
    app.sh(app.tool.mends)
    again = app.apply(changes=HELD)
    assert (again.exit, again.step("update")["verdict"]) == (0, "updated")
    assert app.sh("dpkg-query -W -f '${db:Status-Status}' app") == "installed"
