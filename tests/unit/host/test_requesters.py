"""What a command line requests, and how a sentence names the process that requested a job."""

from __future__ import annotations

import shlex

import pytest

from runbook.host import requesters
from runbook.host.requesters import (
    JobRequest,
    Requester,
    describe_requester,
    find_last_start,
    find_last_stop,
    is_interactive_shell,
    is_runtime,
    name_program,
    requests_job,
)

NAMES = ("ssh.service", "sshd.service")


@pytest.mark.parametrize(
    "line",
    [
        "systemctl restart ssh.service",
        "systemctl restart ssh",
        "systemctl stop sshd",
        "/usr/bin/systemctl --no-block reload ssh",
        "systemctl start other.service ssh.service",
        "systemctl --job-mode replace -n 5 try-restart ssh",
        "systemctl --quiet --job-mode=replace reload-or-restart -- ssh",
        "systemctl restart 'ssh*'",
        "systemctl restart --now ssh",
        "systemctl disable --now ssh",
        "systemctl restart roof.service",
        "busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 Manager RestartUnit ss ssh.service replace",
    ],
)
def test_what_requests_a_job(line: str) -> None:
    assert requests_job(shlex.split(line), NAMES, ("roof.service",))


@pytest.mark.parametrize(
    "line",
    [
        "",
        "systemctl",
        "systemctl status ssh",
        "systemctl show ssh.service",
        "systemctl is-active ssh",
        "systemctl kill ssh",
        "systemctl disable ssh",
        "systemctl enable ssh",
        "systemctl daemon-reload",
        "systemctl restart",
        "systemctl restart other",
        "systemctl restart ssh.socket",
        "systemctl restart sshd2 xssh",
        "systemctl -p restart show ssh",
        "systemctl --user restart ssh",
        "systemctl -M box restart ssh",
        "systemctl -Mbox restart ssh",
        "systemctl --machine=box restart ssh",
        "systemctl -H admin@host restart ssh",
        "systemctl --root /mnt enable --now ssh",
        "systemctl start roof.service",
        "busctl call org.freedesktop.systemd1 /org/freedesktop/systemd1 Manager GetUnit s ssh.service",
        "busctl monitor org.freedesktop.systemd1",
    ],
)
def test_what_does_not_ask(line: str) -> None:
    """The command only reads, names another unit or another machine, or requests no job."""
    assert not requests_job(shlex.split(line), NAMES, ("roof.service",))


def test_a_users_manager_is_another_one() -> None:
    assert requests_job(["systemctl", "--user", "restart", "ssh"], NAMES, of_user=True)
    assert not requests_job(["systemctl", "restart", "ssh"], NAMES, of_user=True)


@pytest.mark.parametrize(
    ("name", "command", "told"),
    [
        ("needrestart", "/usr/bin/perl /usr/sbin/needrestart", "needrestart"),
        ("python3", "/usr/bin/python3 -E /root/.ansible/tmp/AnsiballZ_systemd.py", "AnsiballZ_systemd.py"),
        ("python3", "python3 -m http.server", "python3"),
        ("cron", "/usr/sbin/CRON -f", "cron"),
        ("nginx.postinst", "/bin/sh /var/lib/dpkg/info/nginx.postinst configure", "nginx.postinst"),
        ("bash", "bash -e /usr/local/sbin/roll.sh --all", "roll.sh"),
        ("sh", "sh -c 'systemctl restart gw'", ""),
        ("sh", "sh -ec 'systemctl restart gw'", ""),
        ("bash", "-bash", ""),
        ("sudo", "sudo systemctl restart gw", ""),
        ("bash", "bash -o errexit /usr/local/sbin/roll.sh", "roll.sh"),
        ("bash", "bash -euo pipefail ./roll.sh", "roll.sh"),
        ("bash", "bash -oeu pipefail ./roll.sh", "roll.sh"),
        ("bash", "bash +e x.sh", "x.sh"),
        ("bash", "bash --rcfile /root/rc --norc -- x.sh", "x.sh"),
        ("busybox", "busybox sh -e x.sh", "x.sh"),
        ("python3", "python3 -W ignore -Xdev -Es deploy.py", "deploy.py"),
        ("perl", "perl -I /opt/lib -Mstrict -w /usr/sbin/roll", "roll"),
        ("php", "php -d memory_limit=1G roll.php", "roll.php"),
        ("node", "node --trace-warnings /srv/app.js", "app.js"),
        ("deb-systemd-inv", "/usr/bin/perl /usr/bin/deb-systemd-invoke restart gw", ""),
    ],
)
def test_a_meaningful_name_of_a_program(name: str, command: str, told: str) -> None:
    assert name_program(name, shlex.split(command)) == told


@pytest.mark.parametrize(
    ("name", "command"),
    [
        ("bash", "bash -ce 'export PW=hunter2; systemctl restart gw'"),
        ("sh", "sh -cx 'mysql -phunter2; systemctl restart gw'"),
        ("sh", "sh -c hunter2"),
        ("bash", "bash -o errexit -c hunter2"),
        ("bash", "bash -euo pipefail -c hunter2"),
        ("bash", "bash -oc pipefail hunter2"),
        ("bash", "bash --norc -c hunter2"),
        ("bash", "bash --rcfile /root/rc -c hunter2"),
        ("bash", "bash -s hunter2"),
        ("bash", "bash - hunter2"),
        ("bash", "bash 'export PW=hunter2'"),
        ("busybox", "busybox sh -c hunter2"),
        ("fish", "fish --command hunter2"),
        ("fish", "fish -C hunter2"),
        ("perl", "perl -e hunter2"),
        ("perl", "perl -wE hunter2"),
        ("perl", "perl -lane hunter2"),
        ("perl", "perl -CSDe hunter2"),
        ("perl", "perl -de hunter2"),
        ("perl", "perl -i -pe hunter2"),
        ("perl", "perl -I lib -e hunter2"),
        ("ruby", "ruby -e hunter2"),
        ("ruby", "ruby -rjson -e hunter2"),
        ("node", "node -e hunter2"),
        ("node", "node -pe hunter2"),
        ("node", "node --eval hunter2"),
        ("node", "node --print hunter2"),
        ("php", "php -r hunter2"),
        ("php", "php -d mysqli.default_pw=hunter2 -r hunter2"),
        ("php", "php --run hunter2"),
        ("lua5.4", "lua5.4 -e hunter2"),
        ("python3", "python3 -c hunter2"),
        ("python3", "python3 -Esc hunter2"),
        ("python3", "python3 -W ignore -c hunter2"),
        ("python3", "python3 -um module hunter2"),
        ("python3", "python3 - hunter2"),
    ],
)
def test_the_text_of_a_script_is_never_shown(name: str, command: str) -> None:
    shell = name in ("bash", "sh", "fish", "busybox")
    assert name_program(name, shlex.split(command)) == ("" if shell else name)


def patterns_tried(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Return the patterns that are tried from now on; none of them matches."""
    tried: list[str] = []

    def tries(_name: str, pattern: str) -> bool:
        tried.append(pattern)
        return False

    monkeypatch.setattr(requesters, "fnmatchcase", tries)
    return tried


@pytest.mark.parametrize(
    "words",
    [
        [f"a{number}" for number in range(200_000)] + ["ssh"],
        ["[a-" * 15_000],
        ["*a" * 60_000],
        ["*a" * 100 + "*"],
        ["?" * 256],
        [f"{number}*" for number in range(90)],
        ["x" * 2000, "ssh"],
    ],
)
def test_a_command_line_that_takes_long_to_judge_is_not(monkeypatch: pytest.MonkeyPatch, words: list[str]) -> None:
    tried = patterns_tried(monkeypatch)
    assert not requests_job(["systemctl", "stop", *words], NAMES)
    assert tried == []


def test_plain_words_are_compared_and_no_patterns(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = patterns_tried(monkeypatch)
    assert not requests_job(["systemctl", "stop", "other", "gw", "db*"], NAMES)
    assert set(tried) == {"db*.service"}


STOP = Requester(70, ("systemctl", "stop", "gw"), "root", "anna", "PID 60 (roll.sh)", "session-3.scope")
START = Requester(71, ("systemctl", "start", "gw"), "root")


def test_names() -> None:
    assert describe_requester(None) == describe_requester(JobRequest(1)) == "something else"
    assert describe_requester(JobRequest(1, (START,))) == "something else (PID 71 `systemctl start gw` as root)"
    assert describe_requester(JobRequest(1, (STOP,))) == (
        "something else (PID 70 `systemctl stop gw`, run by PID 60 (roll.sh) as root for anna in session-3.scope)"
    )
    both = "PID 71 `systemctl start gw` as root or PID 70"
    assert both in describe_requester(JobRequest(1, (START, STOP)))


def test_a_command_of_the_run_is_named_as_such() -> None:
    own = Requester(72, ("systemctl", "start", "gw"), "root", is_own=True)
    assert describe_requester(JobRequest(1, (own,))).startswith("a command of this run (PID 72 ")
    assert describe_requester(JobRequest(1, (own, START))).startswith("something else (")


def test_a_command_line_is_shown_on_one_line_and_not_too_long() -> None:
    long = Requester(70, ("systemctl", "stop", "gw\n\x1b[2J" + "x" * 200), "root")
    assert str(long).isprintable()
    assert len(str(long)) < 120
    assert long.evidence()["command"].endswith("x" * 200)
    longer = Requester(70, ("systemctl", "stop", "x" * 50_000), "root").evidence()["command"]
    assert (len(longer), longer.isprintable()) == (1000, True)


def test_the_evidence_names_what_is_the_runs_own() -> None:
    assert START._replace(is_own=True).evidence()["own"] is True
    assert "own" not in START.evidence()


def test_a_stop_is_the_last_job_or_unknown() -> None:
    stop = JobRequest(1, (STOP,))
    assert find_last_stop([stop]) is stop
    assert (
        find_last_stop([])
        is find_last_stop([stop, JobRequest(2)])
        is find_last_stop([stop, JobRequest(2, (START,))])
        is None
    )
    assert find_last_stop([JobRequest(1, (STOP, START))]) is None


def test_a_start_that_came_after_a_job() -> None:
    first, second = JobRequest(3, (START,)), JobRequest(5, (START,))
    jobs = [first, second, JobRequest(6, (STOP,)), JobRequest(7)]
    assert find_last_start(jobs, 0) is find_last_start(jobs, 4) is second
    assert find_last_start(jobs, 5) is find_last_start([], 0) is None


def test_what_may_have_begun_an_invocation() -> None:
    assert JobRequest(1).may_start
    assert JobRequest(1, (STOP, START)).may_start
    assert not JobRequest(1, (STOP,)).may_start
    assert not JobRequest(1, (Requester(70, ("systemctl", "reload", "gw"), "root"),)).may_start


@pytest.mark.parametrize(
    ("command", "interactive"),
    [
        ("-bash", True),
        ("bash -l", True),
        ("/bin/bash --rcfile /etc/x -i", True),
        ("zsh", True),
        ("bash -c 'server & wait'", False),
        ("sh -s", False),
        ("bash loop.sh", False),
        ("bash -o pipefail loop.sh", False),
        ("server", False),
    ],
)
def test_shells_that_people_type_into(command: str, interactive: bool) -> None:
    words = shlex.split(command)
    assert is_interactive_shell(words[0].rpartition("/")[2], words) is interactive


def test_programs_that_run_others() -> None:
    assert all(map(is_runtime, ("bash", "python3.11", "java")))
    assert not is_runtime("squid")
