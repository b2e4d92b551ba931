"""A hostile environment: files of another user, damaged records, variables, names, escape sequences."""

from __future__ import annotations

import json
from collections.abc import Iterator

import pytest

from tests.machine.conftest import StartService
from tests.machine.machine import Machine
from tests.machine.runs import Run, parsed, runbook, unit_file, write_runbook
from tests.machine.tree import USER

RUNS = "/var/lib/runbook/runs"
LOCKS = "/run/runbook/system"
TOUCHES = 'unit: web\nsteps: [run: {run: "touch /run/touched"}]\n'
VICTIM = "/root/victim"

FLOCK = (
    "import fcntl, os, sys; fd = os.open(sys.argv[1], os.O_RDONLY); fcntl.flock(fd, fcntl.LOCK_EX);"
    " print(flush=True); sys.stdin.readline()"
)


@pytest.fixture(autouse=True)
def _clean(machine: Machine) -> Iterator[None]:
    machine.run(["rm", "-rf", "/var/lib/runbook", "/run/touched"])
    yield
    machine.run(["rm", "-rf", "/var/lib/runbook", "/run/touched", "/tmp/evil", "/opt/evil"])


@pytest.fixture
def web(service: StartService) -> str:
    return service("web.service", unit_file("/usr/bin/sleep infinity"))


def there(machine: Machine, path: str) -> bool:
    return machine.run(["test", "-e", path], check=False).returncode == 0


def refused(machine: Machine, run: Run, *words: str) -> None:
    """Assert that a run did not begin, gives its reason, and changed nothing."""
    assert (run.exit, run.last["status"], run.last["exit"]) == (5, "not-begun", 5), run.last
    assert [word for word in words if word not in run.last["reason"]] == [], run.last["reason"]
    assert run.last["hint"]
    assert "Traceback" not in run.stderr
    assert not there(machine, "/run/touched")


def ask(machine: Machine, *argv: str) -> tuple[int, str]:
    """Run a command that shows runs, and return its status and its output."""
    done = machine.run(["runbook", *argv], check=False, timeout=60)
    printed = done.stdout + done.stderr
    assert "Traceback" not in printed, printed
    return done.returncode, " ".join(printed.split())


# -- the lock


def test_another_user_cannot_block_a_run_of_root(machine: Machine, web: str) -> None:
    """A user who can open a file, even to read it, can lock it. So other users must not open these files."""
    assert runbook(machine, "apply", TOUCHES).exit == 0
    lock = f"{LOCKS}/web.service"
    held = machine.run(["python3", "-c", FLOCK, lock], check=False, user=USER, input="\n")
    assert (held.returncode, "PermissionError" in held.stderr) == (1, True)
    # The file that an earlier version made may still be open in a process of another user. That user is named.
    machine.run(["chmod", "644", lock])
    with machine.popen(["python3", "-c", FLOCK, lock], user=USER, stdin=-1) as stranger:
        assert stranger.stdout is not None
        stranger.stdout.readline()
        locked = runbook(machine, "apply", TOUCHES)
        stranger.communicate("\n", timeout=20)
    assert (locked.exit, f"user {USER})" in locked.last["reason"]) == (75, True)
    assert machine.run(["stat", "-c", "%a", lock]).stdout.strip() == "600"
    assert runbook(machine, "apply", TOUCHES).exit == 0


@pytest.mark.parametrize("folder", ["/run/runbook", LOCKS])
def test_a_lock_folder_that_others_may_change_is_refused(machine: Machine, web: str, folder: str) -> None:
    machine.run(["rm", "-rf", "/run/runbook"])
    machine.run(["mkdir", "-p", "/run/runbook", "/tmp/evil"])
    try:
        for plant in (["install", "-d", "-o", USER], ["ln", "-s", "/tmp/evil"], ["install", "-d", "-m", "1777"]):
            machine.run(["rm", "-rf", folder])
            machine.run([*plant, folder])
            refused(machine, runbook(machine, "apply", TOUCHES), f"cannot lock {folder.rpartition('/')[2]}: {folder}")
        assert machine.run(["find", "/tmp/evil", "-mindepth", "1"]).stdout == ""
    finally:
        machine.run(["rm", "-rf", "/run/runbook"])


# -- the record


def test_a_record_folder_that_others_may_write_is_refused(machine: Machine, web: str) -> None:
    plants = {
        f"install -d -o {USER} /var/lib/runbook": "/var/lib/runbook belongs to user 1000",
        "install -d -m 1777 /var/lib/runbook": "others may write in /var/lib/runbook",
        "install -d -m 770 -g 1000 /var/lib/runbook": "others may write in /var/lib/runbook",
        f"install -d /var/lib/runbook && install -d -o {USER} {RUNS}": f"{RUNS} belongs to user 1000",
        f"install -d -o {USER} /tmp/evil && ln -s /tmp/evil /var/lib/runbook": "/var/lib/runbook belongs to user 1000",
        "touch /var/lib/runbook": "no place for the run's record",
        "ln -s /nowhere /var/lib/runbook": "no place for the run's record",
    }
    for plant, why in plants.items():
        machine.run(["rm", "-rf", "/var/lib/runbook", "/tmp/evil"])
        machine.run(["sh", "-ec", plant])
        refused(machine, runbook(machine, "apply", TOUCHES), why)
        assert not there(machine, "/tmp/evil/runs")


def test_variables_do_not_change_the_place_of_roots_records(machine: Machine, web: str) -> None:
    machine.run(["install", "-d", "-m", "1777", "/tmp/evil"])
    path = write_runbook(machine, TOUCHES)
    env = {"XDG_STATE_HOME": "/tmp/evil", "XDG_RUNTIME_DIR": "/tmp/evil", "TMPDIR": "/tmp/evil", "HOME": "/tmp/evil"}
    machine.run(["runbook", "apply", path], env={**env, "SUDO_UID": "1000", "SUDO_USER": USER})
    assert machine.run(["ls", RUNS]).stdout.count("\n") == 1
    assert machine.run(["find", "/tmp/evil", "-mindepth", "1"]).stdout == ""


def test_a_user_s_record_in_a_world_writable_folder_is_refused(machine: Machine) -> None:
    path = write_runbook(machine, "steps: [run: {run: 'true', read-only: true}]\n", f"/home/{USER}/x.yaml")
    machine.run(["install", "-d", "-m", "777", "/tmp/evil"])
    argv = ["runbook", "apply", path, "--output", "json"]
    done = machine.run(argv, check=False, user=USER, env={"XDG_STATE_HOME": "/tmp/evil"})
    refused(machine, parsed(done.stdout, done.returncode, done.stderr), "others may write in /tmp/evil")


BROKEN = {
    "rm {run}/run.json && ln -s /root/victim {run}/run.json": None,
    "rm {run}/run.json && mkfifo {run}/run.json": None,
    "rm {run}/run.json && mkdir {run}/run.json": None,
    "head -c 100000 /dev/urandom >{run}/run.json": None,
    "rm {run}/events.jsonl && ln -s /root/victim {run}/events.jsonl": "cut-short",
    "rm {run}/events.jsonl && mkfifo {run}/events.jsonl": "cut-short",
    "rm {run}/events.jsonl && mkdir {run}/events.jsonl": "cut-short",
    "truncate -s 1G {run}/events.jsonl": "interrupted",
    "head -c 100000 /dev/urandom >{run}/events.jsonl; echo >>{run}/events.jsonl": "record-lost",
    "rm {run}/runbook.yaml && mkfifo {run}/runbook.yaml": "interrupted",
    "rm {run}/runbook.yaml && ln -s /dev/zero {run}/runbook.yaml": "interrupted",
}
"""Damage to a record of root's, and the status of the run then, or None if no run is left."""


def test_a_damaged_record_is_reported_and_no_link_is_followed(machine: Machine) -> None:
    machine.write(VICTIM, "precious\n")
    path = write_runbook(machine, "steps: [run: {id: waits, run: 'sleep 100'}]\n")
    with machine.popen(["runbook", "apply", path, "--output", "json"]) as begun:
        assert begun.stdout is not None
        acting = next(line for line in map(json.loads, begun.stdout) if line["event"] == "step-acting")
        machine.run(["pkill", "-TERM", "-f", f"runbook apply {path}"])
        begun.communicate(timeout=30)
    assert begun.returncode == 143
    name = acting["run"]
    run = f"{RUNS}/{name}"
    machine.run(["cp", "-a", RUNS, "/root/kept"])
    for waste, stands in BROKEN.items():
        machine.run(["sh", "-c", f"rm -rf {RUNS} && cp -a /root/kept {RUNS}"])
        machine.run(["sh", "-ec", waste.format(run=run)])
        status, listed = ask(machine, "history")
        assert status == 0
        assert (stands or f"{run} cannot be read") in listed, (waste, listed)
        status, shown = ask(machine, "show", name)
        assert status == (0 if stands else 5), (waste, shown)
        status, gone_on = ask(machine, "resume", name)
        assert (status, name in gone_on) == (5, True), (waste, gone_on)
    assert machine.read(VICTIM) == "precious\n"
    machine.run(["rm", "-rf", "/root/kept", VICTIM])


def test_a_page_is_not_written_through_a_link_of_another_user(machine: Machine) -> None:
    machine.write(VICTIM, "precious\n")
    path = write_runbook(machine, "steps: [run: {run: 'true', read-only: true}]\n")
    machine.run(["runbook", "apply", path])
    machine.run(["ln", "-s", VICTIM, "/tmp/page.html"], user=USER)
    status, printed = ask(machine, "show", "--html", "/tmp/page.html")
    assert (status, "cannot write /tmp/page.html" in printed) == (5, True)
    machine.run(["rm", "/tmp/page.html"])
    machine.run(["touch", "/tmp/page.html"], user=USER)
    status, printed = ask(machine, "show", "--html", "/tmp/page.html")
    assert (status, "root must not replace /tmp/page.html" in printed) == (5, True)
    machine.run(["rm", "/tmp/page.html"])
    assert ask(machine, "show", "--html", "/tmp/page.html")[0] == 0
    assert machine.run(["stat", "-c", "%a %U", "/tmp/page.html"]).stdout.strip() == "600 root"
    assert machine.read(VICTIM) == "precious\n"
    machine.run(["rm", "/tmp/page.html", VICTIM])


# -- the runbook


def test_a_runbook_that_another_user_may_change_is_refused(machine: Machine, web: str) -> None:
    machine.run(["install", "-d", "-o", USER, "/tmp/evil"])
    write_runbook(machine, TOUCHES, "/tmp/evil/root.yaml")
    write_runbook(machine, TOUCHES, "/opt/evil/his.yaml")
    write_runbook(machine, TOUCHES, "/opt/evil/group.yaml")
    machine.run(["chown", USER, "/opt/evil/his.yaml"])
    machine.run(["sh", "-ec", "chgrp users /opt/evil/group.yaml; chmod 664 /opt/evil/group.yaml"])
    machine.run(["ln", "-s", "/opt/evil/group.yaml", "/opt/evil/to-it.yaml"])
    write_runbook(machine, TOUCHES, "/opt/good.yaml")
    machine.run(["ln", "-s", "/opt/good.yaml", "/tmp/evil/link.yaml"], user=USER)
    plants = {
        "/tmp/evil/root.yaml": f"its folder /tmp/evil belongs to {USER}",
        "/opt/evil/his.yaml": f"/opt/evil/his.yaml belongs to {USER}",
        "/opt/evil/group.yaml": "is writable by the group users",
        "/opt/evil/to-it.yaml": "is writable by the group users",
        "/tmp/evil/link.yaml": f"the link /tmp/evil/link.yaml belongs to {USER}",
    }
    for path, why in plants.items():
        done = machine.run(["runbook", "apply", path, "--output", "json"], check=False)
        refused(machine, parsed(done.stdout, done.returncode, done.stderr), why)
    machine.run(["rm", "/opt/good.yaml"])


READS = """\
unit: web
steps:
  - run: {run: "touch /run/touched", read-only: true}
"""


@pytest.mark.parametrize("command", [["apply"], ["apply", "--dry-run"], ["check"]])
@pytest.mark.parametrize(("loose", "mode"), [("/opt/evil", "777"), ("/opt/evil/a", "1777"), ("/opt/evil/a", "757")])
def test_each_folder_above_a_runbook_is_checked(
    machine: Machine, web: str, command: list[str], loose: str, mode: str
) -> None:
    """With a folder that others may write, they could put another file in the place of this one."""
    write_runbook(machine, READS, "/opt/evil/a/b/read.yaml")
    machine.run(["chown", USER, loose])
    machine.run(["chmod", mode, loose])
    done = machine.run(["runbook", *command, "/opt/evil/a/b/read.yaml", "--output", "json"], check=False)
    run = parsed(done.stdout, done.returncode, done.stderr)
    assert (run.exit, run.last["status"]) == (5, "not-begun"), run.last
    assert f"its folder {loose} belongs to {USER}" in run.last["reason"]
    assert not there(machine, "/run/touched")
    machine.run(["chown", "root", loose])
    machine.run(["chmod", "755", loose])
    done = machine.run(["runbook", *command, "/opt/evil/a/b/read.yaml", "--output", "json"], check=False)
    assert done.returncode == 0, done.stdout
    assert there(machine, "/run/touched")


def test_commands_of_a_file_in_a_sticky_folder_do_not_start_there(machine: Machine, web: str) -> None:
    """A file that another user puts there changes what a command runs: Python imports it, sh runs it."""
    machine.run(["install", "-d", "-m", "1777", "/tmp/evil"])
    machine.run(["sh", "-c", "echo 'import os; os.mkdir(\"/run/touched\")' >/tmp/evil/json.py"], user=USER)
    book = "steps: [run: {run: pwd; python3 -c 'import json'}]\n"
    write_runbook(machine, book, "/tmp/evil/sticky.yaml")
    done = machine.run(["runbook", "apply", "/tmp/evil/sticky.yaml", "--output", "json"], check=False)
    run = parsed(done.stdout, done.returncode, done.stderr)
    assert run.last["status"] == "changed", run.last
    assert run.step("run")["evidence"]["output"] == "/\n"
    assert not there(machine, "/run/touched")
    assert "its commands start in /, because other users can put files into /tmp/evil" in done.stdout
    machine.run(["install", "-d", "/opt/evil"])
    write_runbook(machine, book, "/opt/evil/own.yaml")
    done = machine.run(["runbook", "apply", "/opt/evil/own.yaml", "--output", "json"])
    assert parsed(done.stdout, 0).step("run")["evidence"]["output"] == "/opt/evil\n"
    # In `/` itself, which is root's, there is nothing to report.
    write_runbook(machine, book, "/own.yaml")
    done = machine.run(["sh", "-c", "cd /; runbook apply own.yaml --output json; rm own.yaml"])
    assert not parsed(done.stdout, 0).of("notice")
    done = machine.run(["sh", "-c", "cd /tmp/evil; runbook apply --dry-run sticky.yaml"])
    assert "put files into /tmp/evil;" in " ".join(done.stdout.split())


def test_another_user_does_not_read_a_script_in_ps(machine: Machine, web: str) -> None:
    """Neither that of a version command nor that of a probe; a running service must not be asked with a known token."""
    book = """\
unit: web
env: {TOKEN: "open-sesame"}
steps:
  - update: {run: "true", version: "sleep 1; : shibboleth; echo 1.0", to: "1.0"}
  - wait-ready:
      healthy-for: 2s
      probes: [run: {run: "sleep 1; : shibboleth"}]
  - verify-version: {run: "sleep 1; : shibboleth; echo 1.0", expect: "1.0"}
"""
    path = write_runbook(machine, book, "/opt/evil/secret.yaml")
    machine.run(["chmod", "600", path])
    look = (
        "while sleep 0.1; do cat /proc/[0-9]*/cmdline /proc/[0-9]*/task/*/comm /proc/[0-9]*/environ; done 2>/dev/null"
    )
    with machine.popen(["timeout", "6", "sh", "-c", look], user=USER) as watching:
        done = machine.run(["runbook", "apply", path, "--output", "json"], check=False)
        seen, _ = watching.communicate(timeout=30)
    assert done.returncode == 0, done.stdout
    assert "sleep" in seen
    assert [word for word in ("shibboleth", "sesame") if word in seen] == []


# -- variables

TRAP = "raise SystemExit('a trap')"
SURROUNDINGS = {
    "PATH": "/opt/evil:/usr/bin:/bin",
    "BASH_ENV": "/opt/evil/trap.sh",
    "ENV": "/opt/evil/trap.sh",
    "IFS": "/",
    "LD_LIBRARY_PATH": "/opt/evil",
    "PYTHONSTARTUP": "/opt/evil/trap.py",
    "DBUS_SESSION_BUS_ADDRESS": "unix:path=/opt/evil/bus",
    "XDG_RUNTIME_DIR": "/opt/evil",
    "SYSTEMD_LOG_LEVEL": "debug",
    "SYSTEMD_COLORS": "1",
    "SYSTEMD_PAGER": "/opt/evil/sh",
    "http_proxy": "http://127.0.0.1:1",
    "https_proxy": "http://127.0.0.1:1",
    "all_proxy": "http://127.0.0.1:1",
    "no_proxy": "",
    "TMPDIR": "/opt/evil",
    "LANG": "tr_TR.ISO-8859-9",
    "LC_ALL": "tr_TR.ISO-8859-9",
    "COLUMNS": "1",
    "LINES": "1",
    "TERM": "xterm",
    "FORCE_COLOR": "1",
    "TTY_COMPATIBLE": "1",
    "CDPATH": "/opt/evil",
    "_RUNBOOK_COMPLETE": "",
}
"""Variables of a caller that could affect other programs. Those that Python and the loader read are left out."""

LOOKS = """
    unit: web
    env: {GIVEN: given}
    steps:
      - run: {id: acts, run: [env, -0]}
      - run: {id: looks, run: [env, -0], read-only: true}
      - run: {id: script, run: 'set -- a b; echo "$*"; command -v id'}
      - update:
          run: 'env -0 >/run/installs; echo 2.0 >/run/version'
          version: 'env -0 >/run/asks; cat /run/version'
          to: "2.0"
      - wait-ready:
          healthy-for: 0
          timeout: 20s
          probes:
            - http: {url: "http://127.0.0.1:9321/"}
            - run: {run: 'env -0 >/run/probes'}
            - journal: {pattern: serving}
"""

SERVER = """
import http.server
class Answer(http.server.BaseHTTPRequestHandler):
    def do_GET(self):
        self.send_response(200)
        self.end_headers()
    def log_message(self, *_):
        pass
server = http.server.HTTPServer(("127.0.0.1", 9321), Answer)
print("serving", flush=True)
server.serve_forever()
"""


def test_variables_of_the_caller_do_not_affect_commands_and_queries(machine: Machine, service: StartService) -> None:
    for name in ("sh", "env", "id", "journalctl", "systemctl", "cat", "setpriv"):
        machine.write(f"/opt/evil/{name}", "#!/bin/sh\ntouch /run/touched\nexit 1\n", 0o755)
    machine.write("/opt/evil/trap.sh", "touch /run/touched\n")
    machine.write("/opt/evil/trap.py", TRAP)
    machine.write("/opt/server.py", SERVER)
    machine.write("/run/version", "1.0\n")
    service("web.service", unit_file("/usr/bin/python3 /opt/server.py", Type="exec"))
    path = write_runbook(machine, LOOKS)
    program = machine.run(["sh", "-c", "command -v runbook"]).stdout.strip()
    done = machine.run([program, "apply", path, "--output", "json"], check=False, env=SURROUNDINGS)
    run = parsed(done.stdout, done.returncode, done.stderr)
    assert (run.exit, run.last["status"]) == (0, "changed"), (run.last, run.stderr)
    name = run.last["run"]
    seen = {
        "acts": machine.read(f"{RUNS}/{name}/output/acts.log"),
        "looks": run.step("looks")["evidence"]["output"],
        **{what: machine.read(f"/run/{what}") for what in ("installs", "asks", "probes")},
    }
    for what, text in seen.items():
        known = dict(line.partition("=")[::2] for line in text.split("\0") if line)
        assert known["GIVEN"] == "given", what
        assert known["HOME"] == "/root"
        assert "/opt/evil" not in text, what
        strange = {key for key in known if key in SURROUNDINGS and known[key] == SURROUNDINGS[key]}
        assert strange == set(), what
    assert machine.read(f"{RUNS}/{name}/output/script.log") == "a b\n/usr/bin/id\n"
    assert not there(machine, "/run/touched")
    text = machine.run([program, "show", name], env=SURROUNDINGS).stdout
    assert "\x1b" not in text
    machine.run(["rm", "/run/installs", "/run/asks", "/run/probes", "/run/version", "/opt/server.py"])


# -- escapes

ESCAPES = r"\033]0;owned\007\033[2J\033[31mred\u202egnp\r"


def test_escape_sequences_are_not_printed_raw(machine: Machine, service: StartService) -> None:
    """They come from a command's output, a unit's log and a process's title. Each report of a run is checked."""
    machine.write("/opt/noisy.sh", f"#!/bin/bash\nprintf '{ESCAPES} unit\\n'; exit 3\n", 0o755)
    machine.write("/etc/systemd/system/noisy.service", unit_file("/opt/noisy.sh"))
    machine.run(["systemctl", "daemon-reload"])
    machine.write("/opt/prints.sh", f"#!/bin/bash\nprintf '{ESCAPES} command\\n'; exit 3\n", 0o755)
    book = """
        name: "an \\e[31m name \\u202e"
        unit: noisy
        steps:
          - run: {id: fails, run: /opt/prints.sh, on-failure: continue}
          - restart: {on-failure: continue}
          - wait-ready: {timeout: 10s}
    """
    path = write_runbook(machine, book)
    # script(1) gives the run a terminal.
    on_terminal = machine.run(
        ["script", "-qec", f"runbook apply {path}", "/dev/null"], check=False, env={"TERM": "xterm", "NO_COLOR": "1"}
    ).stdout
    reports = {"terminal": on_terminal}
    for output in ("plain", "auto", "json"):
        reports[f"apply {output}"] = machine.run(["runbook", "apply", path, "--output", output], check=False).stdout
    for argv in (["history"], ["show"], ["show", "--output", "json"], ["show", "--html", "/root/page.html"]):
        reports[" ".join(argv)] = machine.run(["runbook", *argv]).stdout
    reports["page"] = machine.read("/root/page.html")
    machine.run(["journalctl", "--sync"])
    reports["journal"] = machine.run(["journalctl", "--no-pager", "-t", "runbook", "-o", "cat", "--all"]).stdout
    assert "command" in reports["apply plain"]
    assert "unit" in reports["show"]
    assert r"begins: an \x1b[31m name \u202e" in reports["journal"]
    for where, text in reports.items():
        assert [mark for mark in ("\x1b]0;", "\x1b[2J", "\x1b[31m", "\x07", "\u202e") if mark in text] == [], where
    shown = machine.run(["journalctl", "--no-pager", "-t", "runbook"]).stdout
    assert "blob data" not in shown, "journalctl shows the text, not its size"
    machine.run(["systemctl", "stop", "noisy"], check=False)
    machine.run(["rm", "/etc/systemd/system/noisy.service", "/opt/noisy.sh", "/opt/prints.sh", "/root/page.html"])
    machine.run(["systemctl", "daemon-reload"])
    machine.run(["systemctl", "reset-failed"])
