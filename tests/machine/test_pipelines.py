"""The workflows of the how-to guides, as printed, against a staging server: a real sshd, sudo, and each exit status.

The runner is another user of the same machine. Steps of others (`uses:`) and `Install` are left out.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import junitparser
import pytest
import yaml

from tests.docs import blocks_of_test
from tests.machine.machine import Machine, until

HOME, REPOSITORY = "/home/runner", "/home/runner/shop"
SETUP = r"""
useradd --create-home --shell /bin/bash runner
useradd --create-home --shell /bin/bash deploy
echo 'deploy ALL=(ALL) NOPASSWD: ALL' >/etc/sudoers.d/deploy
echo "127.0.0.1 staging.example.com $(hostname)" >>/etc/hosts
systemctl start ssh
install -d -o deploy -m 700 ~deploy/.ssh
ssh-keygen -q -t ed25519 -N '' -f /root/key
install -o deploy -m 600 /root/key.pub ~deploy/.ssh/authorized_keys
ssh-keyscan staging.example.com >/root/known_hosts 2>/dev/null
install -o runner -m 600 /root/key /root/known_hosts ~runner
printf '[Service]\nExecStart=python3 -m http.server 8080\n' >/etc/systemd/system/web.service
printf '[Service]\nType=notify\nExecStart=sleep infinity\nTimeoutStartSec=90\n' >/etc/systemd/system/slow.service
systemctl daemon-reload
systemctl reset-failed
systemctl start web
until ss -Hltn | grep -q :8080; do sleep 0.1; done
"""
PROOF = "  - wait-ready: {healthy-for: 100ms}\n  - verify-port-owner\n"
OK = f"unit: web\nport: 8080\nsteps:\n  - restart\n{PROOF}"
HELD = "touch /srv/begun; until test -e /srv/go; do sleep 0.1; done; rm /srv/begun /srv/go"
LONG = f"unit: web\nport: 8080\nsteps:\n  - restart\n  - run: {{run: {HELD}}}\n  - wait-ready: {{healthy-for: 100ms}}\n"
BOOKS = {
    0: OK,
    1: "steps:\n  - run: {run: 'false'}\n",
    2: "steps:\n  - restrat\n",
    3: (
        "unit: slow\nsteps:\n  - run: {run: systemctl restart --no-block slow}\n"
        "  - wait-ready: {healthy-for: 500ms, timeout: 1s}\n"
    ),
    4: (
        "unit: web\nport: 8080\nrollback: auto\nsteps:\n"
        "  - update: {run: 'echo ${{ to }} >/srv/version', version: cat /srv/version, to: 1.1}\n"
        f"  - restart\n{PROOF}  - run: {{run: 'false'}}\n"
    ),
    5: "unit: none\nsteps:\n  - restart\n",
    6: (
        "steps:\n  - remediate:\n      check:\n        - run: {run: test -e /srv/flag, read-only: true}\n"
        "      fix:\n        - run: {run: touch /srv/flag}\n"
    ),
}
"""Runbooks by the exit status of the first run."""


@pytest.fixture(scope="module")
def machine(suite: str) -> Iterator[Machine]:
    """Boot a machine with sshd and sudo."""
    with Machine(suite, software=True) as booted:
        booted.run(["bash", "-ec", SETUP])
        yield booted


@pytest.fixture(autouse=True)
def _clear(machine: Machine) -> Iterator[None]:
    machine.run(
        ["bash", "-ec", "rm -rf /srv/flag /srv/begun /srv/go ~runner/shop ~runner/.ssh; echo 1.0 >/srv/version"]
    )
    machine.run(["systemctl", "start", "web"])
    yield
    machine.run(["systemctl", "stop", "slow"])
    machine.run(["systemctl", "reset-failed", "web", "slow"], check=False)


class Job:
    """One job of a workflow: its steps by their names, run one after the other until one fails."""

    def __init__(self, machine: Machine, number: int) -> None:
        self.machine = machine
        self.folder = f"{REPOSITORY}/{number}"
        self.log = ""
        self.status = 0
        self.step = ""  # the one that failed

    def prepare(self, book: str) -> None:
        """Check the repository out."""
        script = f"install -d {self.folder}/runbooks && cat >{self.folder}/runbooks/gateway.yaml"
        self.machine.run(["bash", "-ec", script], input=book, user="runner")

    def run(self, name: str, script: str, env: Mapping[str, str], *, always: bool = False) -> None:
        """Run the text of a step, as the runner does, unless one failed before."""
        if self.status and (not always or self.step.lower() == "validate"):  # The other jobs need `validate`.
            return
        shell = ["bash", "--noprofile", "--norc", "-eo", "pipefail", "-c", f"cd {self.folder}\n{script}"]
        done = self.machine.run(shell, user="runner", env=env, check=False, timeout=100)
        self.log += f"## {name}: {done.returncode}\n{done.stdout}{done.stderr}"
        if done.returncode and not self.status:
            self.status, self.step = done.returncode, name

    def read(self, file: str) -> str:
        return self.machine.read(f"{self.folder}/{file}")

    def junit(self, tmp_path: Path) -> dict[str, str]:
        copy = tmp_path / "junit.xml"
        copy.write_text(self.read("results/apply.xml"))
        (suite,) = junitparser.JUnitXml.fromfile(str(copy))
        properties: Any = suite
        return {one.name: one.value for one in properties.properties()}


def github(machine: Machine, number: int, book: str, event: str = "push") -> Job:
    """Run the workflow of the page."""
    [text] = blocks_of_test("test_the_workflow_of_github")
    workflow = yaml.safe_load(text)
    job = Job(machine, number)
    job.prepare(book)
    given = {
        "github.run_id": str(number),
        "github.run_attempt": "1",
        "secrets.STAGING_KEY": machine.read(f"{HOME}/key").rstrip(),
        "secrets.STAGING_KNOWN_HOSTS": machine.read(f"{HOME}/known_hosts"),
    }

    def fill(texts: Mapping[str, str]) -> dict[str, str]:
        return {
            name: re.sub(r"\$\{\{ (\S+) \}\}", lambda found: given[found[1]], value) for name, value in texts.items()
        }

    known = fill(workflow["env"])
    known |= {"GITHUB_ACTIONS": "true", "GITHUB_STEP_SUMMARY": f"{job.folder}/page.md", "GITHUB_WORKSPACE": job.folder}
    for step in (one for jobs in workflow["jobs"].values() for one in jobs["steps"]):
        condition = step.get("if", "")
        if (
            "run" in step
            and step["name"] != "Install"
            and (condition != "github.event_name == 'push'" or event == "push")
        ):
            machine.run(["touch", f"{job.folder}/page.md"])
            machine.run(["chown", "runner", f"{job.folder}/page.md"])
            job.run(step["name"], step["run"], {**known, **fill(step.get("env", {}))}, always=condition == "always()")
    return job


def gitlab(machine: Machine, number: int, book: str, event: str = "push") -> Job:
    """Run the pipeline of the page."""
    [text] = blocks_of_test("test_the_pipeline_of_gitlab")
    pipeline = yaml.safe_load(text)
    job = Job(machine, number)
    job.prepare(book)
    files = {"STAGING_KEY": f"{HOME}/key", "STAGING_KNOWN_HOSTS": f"{HOME}/known_hosts"}
    folder = pipeline["variables"]["FOLDER"].replace("$CI_JOB_ID", str(number))
    known = {**pipeline["variables"], **files, "FOLDER": folder, "CI_PROJECT_DIR": job.folder}
    shared = pipeline[".over-ssh"]
    job.run("validate", "\n".join(pipeline["validate"]["script"]), known)
    for name in ("dry-run", *(["rehearse"] if event == "push" else [])):
        one = {**shared, **pipeline[name]}
        job.run(name, "\n".join([*one["before_script"], *one["script"]]), known)
        if "after_script" in one:
            job.run("after_script", "\n".join(one["after_script"]), known, always=True)
    return job


KINDS = {"github": github, "gitlab": gitlab}


@pytest.mark.parametrize("kind", KINDS)
def test_each_exit_status(machine: Machine, kind: str, tmp_path: Path) -> None:
    for status, book in BOOKS.items():
        number = 100 * (1 + list(KINDS).index(kind)) + status
        machine.run(["systemctl", "reset-failed", "web"], check=False)
        machine.run(["bash", "-c", "rm -f /srv/flag; echo 1.0 >/srv/version"])
        job = KINDS[kind](machine, number, book)
        print(f"#### {kind}, {status}\n{job.log}")
        assert job.status == status, job.log
        if status == 2:
            assert job.step in ("Validate", "validate")
            if kind == "github":
                assert "::error file=runbooks/gateway.yaml,line=2,title=invalid-runbook::unknown step type" in job.log
            else:
                [issue] = json.loads(job.read("validate.json"))
                assert issue["location"] == {"path": "runbooks/gateway.yaml", "lines": {"begin": 2}}
            continue
        if status == 5:
            assert "systemd has no unit none.service" in " ".join(job.log.split())
            continue
        run = job.junit(tmp_path)
        assert run["exit"] == str(status)
        assert job.read("results/report.html").startswith("<!DOCTYPE html>")
        assert f"exit status {status}" in job.read("results/apply.md")
        assert ("Check" in job.log or kind == "gitlab") is (status == 0 or kind == "gitlab")
        if kind == "github":
            assert f"exit status {status}" in job.read("page.md")
            assert ("::error file=runbooks/gateway.yaml,line=" in job.log) is (status not in (0, 6))
        elif status not in (0, 6):
            assert json.loads(job.read("results/apply.json"))[0]["location"]["path"] == "runbooks/gateway.yaml"
        if status == 3:
            assert f"next: ssh deploy@staging.example.com sudo runbook resume {run['run-id']}" in job.log
            again = machine.run(["runbook", "resume", run["run-id"]], check=False)
            assert again.returncode == 3
            machine.run(["runbook", "resume", "--abandon"])
            machine.run(["systemctl", "stop", "slow"])


def test_a_pull_request_only_plans(machine: Machine) -> None:
    for number, kind in enumerate(KINDS, 300):
        before = machine.show("web", "InvocationID")
        job = KINDS[kind](machine, number, OK, "pull_request")
        assert job.status == 0, job.log
        assert "would restart" in " ".join(job.read("results/dry-run.txt").split())
        assert machine.show("web", "InvocationID") == before


@pytest.mark.parametrize("kind", KINDS)
def test_two_at_once_a_lost_connection_and_an_interruption(machine: Machine, kind: str) -> None:
    numbers = iter(range(400 if kind == "github" else 500, 600))

    def running() -> bool:
        return machine.run(["test", "-e", "/srv/begun"], check=False).returncode == 0

    def let_go() -> None:
        machine.run(["touch", "/srv/go"])

    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(KINDS[kind], machine, next(numbers), LONG)
        until(running, "the first pipeline to be under way")
        second = KINDS[kind](machine, next(numbers), OK)
        assert second.status == 75, second.log
        assert "another run has the lock: run this job again" in second.log
        let_go()
        assert first.result().status == 0, first.result().log

        lost = pool.submit(KINDS[kind], machine, next(numbers), LONG)
        until(running, "the pipeline to be under way")
        machine.run(["pkill", "-KILL", "-u", "deploy", "sshd"])
        let_go()
        job = lost.result()
        assert "the connection is lost, and the run goes on" in job.log
        assert job.status == 0, job.log
        assert "### ✅ changed" in job.read("results/apply.md")

        # An interruption; then, as if the server went down: the connection first, then the program.
        for signals in ("pkill -TERM", "pkill -KILL -u deploy sshd; pkill -KILL"):
            machine.run(["rm", "-f", "/srv/begun", "/srv/go"])
            cut = pool.submit(KINDS[kind], machine, next(numbers), LONG)
            until(running, "the pipeline to be under way")
            machine.run(["sh", "-c", f"{signals} -f '[b]in/runbook apply'"])
            job = cut.result()
            assert job.status == 143, job.log
            assert "next: ssh deploy@staging.example.com sudo runbook resume 2" in job.log
            let_go()
            machine.run(["runbook", "resume", "--abandon"])
