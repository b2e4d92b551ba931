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
    """The service in a machine, installed by one tool."""

    machine: Machine
    tool: Tool
    book: str

    def sh(self, script: str) -> str:
        """Run a script in the machine, and return its output."""
        return self.machine.run(["sh", "-ec", script]).stdout

    def apply(self, *options: str, changes: Mapping[str, str] | None = None) -> Run:
        """Apply the page's runbook, with parts of it replaced."""
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
        """Return facts that change with each replacement of the files."""
        return self.sh(f"stat --format='%i %z' {self.tool.witness}")

    def proved_new(self, run: Run, invocation: str) -> None:
        """Assert that the update was made, and that a new process serves it."""
        assert (run.exit, run.last["status"], run.step("update")["verdict"]) == (0, "changed", "updated"), run.last
        assert run.step("verify-version")["verdict"] == "version-ok"
        assert self.serves == self.tool.new
        assert self.invocation != invocation

    def proved_untouched(self, run: Run, invocation: str) -> None:
        """Assert that the run failed at the update, the old process serves, and no process of the command is left."""
        assert (run.exit, run.last["status"]) == (1, "failed"), run.last
        assert [name for name, _, _ in run.verdicts] == ["update"]
        assert (self.serves, self.invocation) == (self.tool.old, invocation)
        assert self.sh("grep -l runbook- /proc/[0-9]*/cgroup || true") == ""


@pytest.fixture(scope="module", params=TOOLS)
def staged(request: pytest.FixtureRequest, suite: str) -> Iterator[App]:
    with Machine(suite, software=True) as machine:
        TOOLS[request.param].stage(machine)
        # The service is up as soon as it answers with its version.
        book = BOOKS[request.param].replace("healthy-for: 1s", "healthy-for: 100ms")
        yield App(machine, TOOLS[request.param], book)


@pytest.fixture
def app(staged: App) -> Iterator[App]:
    """Run the old version, and remove all obstacles of the tool at the end."""
    if staged.serves != staged.tool.old:
        assert staged.apply("--set", f"version={staged.tool.old}").exit == 0
    yield staged
    staged.sh(staged.tool.repair)


def test_an_update_succeeds_in_both_directions(app: App) -> None:
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


def test_a_tool_that_fails_changes_nothing(app: App) -> None:
    invocation = app.invocation
    app.sh(app.tool.breaks)
    for _ in range(2):  # After a first failure the version must not pass as installed.
        run = app.apply()
        assert run.step("update")["verdict"] == "update-failed"
        assert app.tool.error in run.step("update")["evidence"]["output"]
        app.proved_untouched(run, invocation)
    app.sh(app.tool.repair)
    app.proved_new(app.apply(), invocation)


def test_a_tool_that_is_killed_half_way_is_a_failure(app: App) -> None:
    invocation = app.invocation
    out, err, status = kill_half_way(app.machine, app.tool, write_runbook(app.machine, app.book))
    run = parsed(out, status, err)
    assert run.step("update")["verdict"] == "update-failed"
    app.proved_untouched(run, invocation)
    app.proved_new(app.apply(), invocation)


def test_a_tool_that_hangs_times_out(app: App) -> None:
    before = app.invocation, app.files
    app.sh(app.tool.hangs)
    run = app.apply(changes={re.findall("timeout: 1.min", app.book)[0]: "timeout: 2s"})
    assert run.step("update")["verdict"] == "timed-out"
    app.proved_untouched(run, before[0])
    assert app.files == before[1]
    app.sh(app.tool.repair)
    app.proved_new(app.apply(), before[0])


def test_a_tool_that_installs_another_version_is_a_failure(app: App) -> None:
    invocation = app.invocation
    app.sh(app.tool.strays)
    run = app.apply(changes={app.tool.named: app.tool.elsewhere})
    assert run.step("update")["verdict"] == "version-mismatch"
    assert f"{app.tool.old} is installed, not {app.tool.new}" in run.step("update")["reason"]
    app.proved_untouched(run, invocation)


@pytest.mark.parametrize("staged", ["apt"], indirect=True)
def test_a_changed_configuration_file_of_a_package_is_kept(app: App) -> None:
    """dpkg would ask what to do with the file, and fail without a terminal. The page's runbook has the answer."""
    run = app.apply(changes={"-o Dpkg::Options::=--force-confold ": ""})
    assert (run.exit, run.step("update")["verdict"]) == (1, "update-failed")
    assert "end of file on stdin at conffile prompt" in run.step("update")["evidence"]["output"]
    assert app.apply().step("update")["verdict"] == "updated"
    assert app.sh("cat /etc/app.conf") == "# mine\n"


@pytest.mark.parametrize("staged", ["npm"], indirect=True)
def test_a_tool_has_the_settings_of_its_user_and_not_of_the_caller(app: App) -> None:
    path = write_runbook(app.machine, 'steps: [run: {run: "npm config get prefix; echo $HOME $PATH"}]\n')
    caller = {"HOME": "/nowhere", "npm_config_prefix": "/elsewhere"}
    done = app.machine.run(["runbook", "apply", path, "--output", "json"], env=caller)
    run = parsed(done.stdout, done.returncode, done.stderr)
    prefix, home, path = run.step("run")["evidence"]["output"].split()
    assert (prefix, home) == ("/usr/local", "/root")
    assert path.startswith("/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin")


STOPPED_FIRST = {"timeout: 15min": "timeout: 15min\n      stop-first: true", "- restart\n": "- start\n"}


@pytest.mark.parametrize("staged", ["apt"], indirect=True)
def test_a_unit_that_its_package_starts_is_stopped_again(app: App) -> None:
    """debhelper's scripts start the unit after the files are replaced. It is stopped again, and that is reported."""
    invocation = app.invocation
    run = app.apply(changes=STOPPED_FIRST)
    app.proved_new(run, invocation)
    # The requester is the package's script, which may have exited before the scan.
    expected = (
        r"app.service was kept stopped meanwhile, and stopped again when (something else|a command .*\)) started it$"
    )
    assert re.search(expected, run.step("update")["reason"]), run.step("update")
    assert run.step("start")["verdict"] == "job-done"


@pytest.mark.parametrize("staged", ["apt"], indirect=True)
def test_a_failed_package_starts_the_unit_with_the_new_files(app: App) -> None:
    """dpkg has unpacked the new files before it fails. The unit is started again with them."""
    app.sh(app.tool.breaks)
    run = app.apply(changes=STOPPED_FIRST)
    assert (run.exit, run.step("update")["verdict"]) == (1, "update-failed")
    assert "app.service was started again and is active (running)" in run.step("update")["reason"]
    until(lambda: app.machine.run(["curl", "-fsS", "http://127.0.0.1:8090/"], check=False).stdout, "an answer")
    assert app.serves == app.tool.new
    app.sh(app.tool.repair)
    again = app.apply(changes=STOPPED_FIRST)
    assert (again.exit, again.step("update")["verdict"]) == (0, "updated")
    assert app.sh("dpkg-query -W -f '${db:Status-Status}' app") == "installed"
