"""What a command line asks for, and how a sentence names whoever gave it."""

from __future__ import annotations

import shlex

import pytest

from runbook.host.askers import Asked, Asker, asks_for, last_stop, somebody, telling

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
def test_what_asks(line: str) -> None:
    assert asks_for(shlex.split(line), NAMES, ("roof.service",))


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
    """It reads, means another unit or another machine, or makes no job."""
    assert not asks_for(shlex.split(line), NAMES, ("roof.service",))


def test_a_users_manager_is_another_one() -> None:
    assert asks_for(["systemctl", "--user", "restart", "ssh"], NAMES, of_user=True)
    assert not asks_for(["systemctl", "restart", "ssh"], NAMES, of_user=True)


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
        ("deb-systemd-inv", "/usr/bin/perl /usr/bin/deb-systemd-invoke restart gw", ""),
    ],
)
def test_what_tells_a_person_something(name: str, command: str, told: str) -> None:
    assert telling(name, shlex.split(command)) == told


STOP = Asker(70, ("systemctl", "stop", "gw"), "root", "anna", "PID 60 (roll.sh)", "session-3.scope")
START = Asker(71, ("systemctl", "start", "gw"), "root")


def test_names() -> None:
    assert somebody(None) == somebody(Asked(1)) == "somebody else"
    assert somebody(Asked(1, (START,))) == "somebody else (PID 71 `systemctl start gw` as root)"
    assert somebody(Asked(1, (STOP,))) == (
        "somebody else (PID 70 `systemctl stop gw`, run by PID 60 (roll.sh) as root for anna in session-3.scope)"
    )
    both = "PID 71 `systemctl start gw` as root or PID 70"
    assert both in somebody(Asked(1, (START, STOP)))


def test_a_command_of_the_run_is_not_somebody_else() -> None:
    own = Asker(72, ("systemctl", "start", "gw"), "root", own=True)
    assert somebody(Asked(1, (own,))).startswith("a command of this run (PID 72 ")
    assert somebody(Asked(1, (own, START))).startswith("somebody else (")


def test_a_command_line_is_shown_on_one_line_and_not_too_long() -> None:
    long = Asker(70, ("systemctl", "stop", "gw\n\x1b[2J" + "x" * 200), "root")
    assert str(long).isprintable()
    assert len(str(long)) < 120
    assert long.evidence()["command"].endswith("x" * 200)


def test_a_stop_is_the_last_job_or_is_not_known() -> None:
    stop = Asked(1, (STOP,))
    assert last_stop([stop]) is stop
    assert last_stop([]) is last_stop([stop, Asked(2)]) is last_stop([stop, Asked(2, (START,))]) is None
    assert last_stop([Asked(1, (STOP, START))]) is None
