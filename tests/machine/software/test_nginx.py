"""runbooks/nginx.yaml and runbooks/nginx-reload.yaml on the distribution's nginx, healthy and with real failures."""

from __future__ import annotations

import subprocess
from collections.abc import Iterator

import pytest

from tests.machine.conftest import StartService
from tests.machine.incident import control_group, in_login
from tests.machine.machine import Machine, until
from tests.machine.runs import Run, parsed, runbook, unit_file
from tests.machine.software import nginx
from tests.machine.software.nginx import RELOAD, RUNBOOK, UNIT


@pytest.fixture
def web(machine: Machine) -> Iterator[Machine]:
    """Enable and start the unit, and remove everything of nginx at the end."""
    nginx.install(machine)
    yield machine
    nginx.clear(machine)


@pytest.fixture(scope="module")
def offered(machine: Machine) -> str:
    """Offer a newer package in a repository, and return its version."""
    return nginx.offer(machine)


def apply(machine: Machine, *options: str, version: str = "", book: str = RUNBOOK, command: str = "apply") -> Run:
    """Run the shipped runbook, for the installed version if no other is given."""
    version = version or machine.run(["dpkg-query", "--show", "--showformat", "${Version}", "nginx"]).stdout
    chosen = ["--set", f"version={version}"] if book == RUNBOOK else []
    argv = ["runbook", command, book, "--output", "json", *options, *(chosen if command == "apply" else [])]
    done = machine.run(argv, check=False, timeout=100)
    return parsed(done.stdout, done.returncode, done.stderr)


def verdict(run: Run, step: str) -> str:
    return str(run.step(step)["verdict"])


def identity(machine: Machine) -> dict[str, str]:
    return machine.show(UNIT, "InvocationID", "MainPID", "ActiveState")


def assert_the_unit_serves_alone(machine: Machine) -> None:
    """Assert from systemd, ss and curl that the unit's main process, the only master, and its workers hold the port."""
    main = int(identity(machine)["MainPID"])
    assert nginx.masters(machine) == [main]
    assert nginx.served(machine) == nginx.of_the_unit(machine) == {main, *nginx.workers(machine)}
    assert "200 OK" in machine.run(["curl", "-sSI", "http://127.0.0.1/"]).stdout


def assert_it_runs(machine: Machine, package: str) -> None:
    """Assert the version of the main process, from its own program."""
    main = identity(machine)["MainPID"]
    assert machine.run([f"/proc/{main}/exe", "-v"]).stderr.strip().endswith(f"nginx/{package.removesuffix('-1')}")


# -- healthy


def test_a_real_upgrade_succeeds(web: Machine, offered: str) -> None:
    before = identity(web)
    run = apply(web, version=offered)
    assert (run.exit, run.last["status"]) == (0, "changed"), run.last
    assert [(step, what) for step, _, what in run.verdicts] == [
        ("config", "command-done"),
        ("rehearse", "command-done"),
        ("update", "updated"),
        ("restart", "job-done"),
        ("remediate.check.wait-ready", "ready"),
        ("remediate.check.verify-port-owner", "owned"),
        ("remediate.check.verify-version", "version-ok"),
        ("remediate", "holds"),
    ]
    assert identity(web)["InvocationID"] != before["InvocationID"]
    assert_the_unit_serves_alone(web)
    assert_it_runs(web, offered)
    again = apply(web, version=offered)
    assert (again.exit, verdict(again, "update")) == (0, "up-to-date")


def test_the_package_s_own_hand_over_is_accepted(fresh_machine: Machine) -> None:
    """Without a restart the package's script hands over to the new program, and the checks pass."""
    offered = nginx.offer(fresh_machine)
    nginx.install(fresh_machine)
    before = identity(fresh_machine)
    text = fresh_machine.read(RUNBOOK)
    without = text.replace("  - restart\n", "")
    assert without != text
    run = runbook(fresh_machine, "apply", without, "--set", f"version={offered}")
    assert (run.exit, run.last["status"], verdict(run, "remediate")) == (0, "changed", "holds"), run.last
    after = identity(fresh_machine)
    assert after["InvocationID"] == before["InvocationID"]
    assert after["MainPID"] != before["MainPID"]
    assert_it_runs(fresh_machine, offered)


def test_a_missing_version_changes_nothing(web: Machine, offered: str) -> None:
    before = identity(web)
    run = apply(web, version="9.9.9-9")
    assert (run.exit, verdict(run, "rehearse")) == (1, "command-failed")
    assert "'9.9.9-9' for 'nginx' was not found" in run.last["reason"]
    assert identity(web) == before


# -- a master of another user


def test_an_upgrade_beside_a_master_started_by_hand_is_fixed(fresh_machine: Machine) -> None:
    """The package's script finds the port in use and still succeeds. The old version answers."""
    web = fresh_machine
    offered = nginx.offer(web)
    master = nginx.orphan(web)
    assert ".scope" in control_group(web, master)
    assert identity(web)["ActiveState"] == "failed"
    assert web.run(["test", "-e", "/run/nginx.pid"], check=False).returncode == 1  # systemd has removed it

    before = (nginx.served(web), identity(web))
    dry = apply(web, "--dry-run", version=offered)
    planned = {e["id"]: e for e in dry.of("step-planned")}
    assert (dry.exit, planned["remediate"]["verdict"]) == (0, "orphan-holds-port")
    assert planned["remediate.fix.kill-orphan"]["reason"].startswith(f"would kill PID {master}, ")
    looked = apply(web, command="check")
    assert (looked.exit, verdict(looked, "remediate.check.verify-port-owner")) == (1, "orphan-holds-port")
    assert (nginx.served(web), identity(web)) == before

    run = apply(web, version=offered)
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    log = web.run(["sh", "-c", "cat /var/lib/runbook/runs/*/output/update.log"]).stdout
    assert "Not attempting to start NGINX, port 80 is already in use." in log
    assert run.step("restart")["status"] == "failed"
    # nginx tries for two and a half seconds. The step ends after two, or with the failed job if the machine is busy.
    assert verdict(run, "restart") == "orphan-holds-port"
    assert ("remediate.check.wait-ready", "failed", "orphan-holds-port") in run.verdicts
    killed = run.step("remediate.fix.kill-orphan")
    # A worker that exited with its master at that moment is not in the list.
    assert (killed["verdict"], killed["evidence"]["killed"][0]["pid"]) == ("killed", master)
    assert killed["reason"].endswith("exited on TERM; 80 is free")
    assert_the_unit_serves_alone(web)
    assert master not in nginx.masters(web)
    assert_it_runs(web, offered)


def test_the_workers_of_a_killed_master_are_killed(web: Machine) -> None:
    """They have no parent, and still serve."""
    web.run(["systemctl", "stop", UNIT])
    web.run(["kill", "-KILL", str(nginx.by_hand(web))])
    until(lambda: not nginx.masters(web), "the master to be gone")
    left = set(nginx.workers(web))
    assert nginx.served(web) == left
    assert len(left) == 2
    run = apply(web)
    assert (run.exit, run.last["status"]) == (0, "remediated"), run.last
    assert verdict(run, "remediate.fix.kill-orphan") == "killed"
    assert_the_unit_serves_alone(web)
    assert not left & set(nginx.workers(web))


def test_no_worker_is_left_after_its_master_is_killed(web: Machine) -> None:
    """Neither a worker that the master starts for another one is left, nor those that KILL leaves without a master."""
    web.run(["systemctl", "stop", UNIT])
    master = nginx.by_hand(web)
    run = runbook(web, "apply", "unit: nginx\nport: 80\nsteps: [kill-orphan: {signal: KILL}]\n")
    assert (run.exit, verdict(run, "kill-orphan")) == (0, "killed"), run.last
    assert master in {one["pid"] for one in run.step("kill-orphan")["evidence"]["killed"]}
    assert (nginx.served(web), nginx.masters(web), nginx.workers(web)) == (set(), [], [])


# -- protected processes


def test_the_nginx_of_another_unit_is_not_killed(web: Machine, service: StartService) -> None:
    web.run(["systemctl", "stop", UNIT])
    files = "pid /run/other.pid; daemon off; events {} http { server { listen 80; listen [::]:80; } }\n"
    web.write("/etc/nginx/other.conf", files)
    other = service("nginx-other.service", unit_file("/usr/sbin/nginx -c /etc/nginx/other.conf"))
    until(lambda: len(nginx.served(web)) == 2, "the other one's master and worker")
    held = nginx.served(web)
    run = apply(web)
    assert (run.exit, run.last["status"]) == (1, "failed")
    assert ("remediate.check.wait-ready", "failed", "other-unit-holds-port") in run.verdicts
    assert "nginx-other.service is a live service; stop it" in run.last["reason"]
    assert not [e for e in run.events if e.get("id", "").startswith("remediate.fix")]
    assert (nginx.served(web), web.show(other, "ActiveState")) == (held, {"ActiveState": "active"})


def test_a_program_that_is_no_nginx_is_not_killed(web: Machine) -> None:
    web.run(["systemctl", "stop", UNIT])
    with in_login(web, ["python3", "-m", "http.server", "80"], user="root") as login:
        held = until(lambda: nginx.served(web), "the program to listen")
        run = apply(web)
        assert nginx.served(web) == held
        web.run(["kill", *map(str, held)])
        login.wait(10)
    assert (run.exit, run.last["status"]) == (1, "failed")
    assert "which is not what was expected: its executable is /usr/bin/python3" in run.last["reason"]
    assert not [e for e in run.events if e.get("id", "").startswith("remediate.fix")]


# -- configuration


def test_a_broken_configuration_changes_nothing(web: Machine, offered: str) -> None:
    web.write(nginx.SITE, "server { listen 80 default; nonsense on; }\n")
    before = identity(web)
    dry = apply(web, "--dry-run", version=offered)
    assert (dry.exit, dry.of("step-planned")[0]["verdict"]) == (0, "command-failed")
    run = apply(web, version=offered)
    assert (run.exit, run.verdicts) == (1, [("config", "failed", "command-failed")])
    assert run.last["reason"].endswith("configuration file /etc/nginx/nginx.conf test failed")
    assert 'unknown directive "nonsense"' in run.step("config")["evidence"]["output"]
    assert not run.of("step-acting")
    assert identity(web) == before


def test_the_advice_names_its_log_files(web: Machine) -> None:
    """nginx logs its errors to a file, which the process before the restart had open."""
    web.write("/etc/nginx/conf.d/broken.conf", "nonsense;\n")
    run = runbook(web, "apply", f"unit: {UNIT}\nsteps: [restart]\n")
    web.run(["rm", "/etc/nginx/conf.d/broken.conf"])
    files = "/var/log/nginx/error.log /var/log/nginx/access.log"
    assert run.last["hint"] == f"journalctl -u {UNIT} -n 30 or tail -n 30 {files} shows why", run.last


def test_a_configuration_that_the_new_program_rejects_changes_nothing(fresh_machine: Machine) -> None:
    """The new version does not have a directive. The package's own script would stop nginx then."""
    web = fresh_machine
    offered = nginx.rejected(web)
    before = identity(web)
    run = apply(web, version=offered)
    assert (run.exit, run.last["status"]) == (1, "failed")
    assert run.verdicts == [("config", "ok", "command-done"), ("rehearse", "failed", "command-failed")]
    assert 'unknown directive "sendfile_max_chunk"' in run.step("rehearse")["evidence"]["output"]
    assert identity(web) == before
    assert not web.run(["dpkg-query", "--show", "--showformat", "${Version}", "nginx"]).stdout.startswith(offered)
    assert_the_unit_serves_alone(web)


# -- old code


def test_a_replaced_program_that_was_only_reloaded_is_found(web: Machine) -> None:
    nginx.new_program(web)
    for _ in range(2):
        looked = apply(web, command="check")
        assert (looked.exit, verdict(looked, "remediate.check.verify-version")) == (1, "old-code-serving")
        assert "runs /usr/sbin/nginx, and that file was replaced" in looked.last["reason"]
        web.run(["systemctl", "reload", UNIT])
    run = apply(web)
    assert (run.exit, verdict(run, "remediate.check.verify-version")) == (0, "version-ok"), run.last
    assert_the_unit_serves_alone(web)


def test_a_hand_over_that_left_two_masters_is_finished(web: Machine) -> None:
    """USR2 starts the new program beside the old one. Without QUIT to the old master both serve."""
    nginx.new_program(web)
    old = int(identity(web)["MainPID"])
    web.run(["kill", "-USR2", str(old)])
    until(lambda: len(nginx.masters(web)) == 2 and len(nginx.workers(web)) == 4, "both masters to have workers")
    looked = apply(web, command="check")
    assert (looked.exit, verdict(looked, "remediate.check.verify-port-owner")) == (1, "owned")
    assert verdict(looked, "remediate.check.verify-version") == "old-code-serving"
    run = apply(web)
    assert run.exit == 0, run.last
    assert_the_unit_serves_alone(web)
    assert old not in nginx.masters(web)


# -- reload


@pytest.fixture
def client(web: Machine) -> Iterator[subprocess.Popen[str]]:
    """Run a client that does not finish its request."""
    script = "exec 3<>/dev/tcp/127.0.0.1/80; printf 'GET / HTTP/1.1\\r\\nHost: x\\r\\n' >&3; echo sent; cat <&3"
    with web.popen(["bash", "-c", script]) as process:
        assert process.stdout is not None
        assert process.stdout.readline() == "sent\n"
        yield process
        process.kill()


@pytest.mark.usefixtures("client")
def test_a_reload_does_not_wait_for_a_worker_that_is_shutting_down(web: Machine) -> None:
    before = identity(web)
    old = set(nginx.workers(web))
    run = apply(web, book=RELOAD)
    assert (run.exit, run.last["status"]) == (0, "changed"), run.last
    assert [(step, what) for step, _, what in run.verdicts[1:]] == [
        ("reload", "reloaded"),
        ("wait-ready", "ready"),
        ("verify-port-owner", "owned"),
    ]
    assert identity(web) == before
    lingering = {int(p) for p in web.run(["pgrep", "-f", "^nginx: worker process is shutting down"]).stdout.split()}
    assert len(lingering) == 1
    assert lingering < old
    assert not lingering & nginx.served(web)
    looked = apply(web, command="check")
    assert looked.exit == 0, looked.last


def test_a_reload_of_a_broken_configuration_changes_nothing(web: Machine) -> None:
    before = (identity(web), nginx.workers(web))
    web.write(nginx.SITE, "server { listen 80 default; nonsense on; }\n")
    run = apply(web, book=RELOAD)
    assert (run.exit, len(run.verdicts), verdict(run, "run")) == (1, 1, "command-failed")
    assert (identity(web), nginx.workers(web)) == before


def test_a_reload_that_nginx_did_not_apply_is_found(web: Machine) -> None:
    """systemd reports the job as done, but nginx found a new port in use, and kept its old configuration."""
    text = web.read(RELOAD).replace("port: 80 ", "port: [80, 8080]")
    web.write("/root/reload.yaml", text)
    web.write(nginx.SITE, "server { listen 8080; }\n")
    with in_login(web, ["python3", "-m", "http.server", "8080"]) as login:
        until(lambda: web.run(["ss", "-Hltn", "sport = :8080"]).stdout, "8080 to be held")
        run = apply(web, book="/root/reload.yaml")
        web.run(["pkill", "-f", "http.server 8080"])
        login.wait(10)
    assert (run.exit, verdict(run, "reload"), verdict(run, "wait-ready")) == (1, "reloaded", "orphan-holds-port")
    assert_the_unit_serves_alone(web)
