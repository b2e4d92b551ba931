"""Who holds a port that is not the unit's: each is named as what it is, and only what is nobody's may be ended."""

from __future__ import annotations

import re

import pytest

from tests.machine.conftest import StartService
from tests.machine.machine import until
from tests.machine.ownership.street import ACTOR, USER_UNITS, House, Street, ask, assert_said, shell
from tests.machine.runs import unit_file
from tests.machine.tree import USER

PID = r"PID \d+ \(python3\)"
ID = "3f4f9a1b2c3d4e5f60718293a4b5c6d7e8f90123456789abcdef0123456789ab"
SHORT = ID[:12]
PODS = "/sys/fs/cgroup/kubepods.slice/kubepods-besteffort.slice/cri-containerd-"


def orphan(port: int, where: str) -> House:
    return House(
        "idle", str(port), "orphan-holds-port", f"{PID}, in {where}: not this unit", "orphan-holds-port", "kill PID"
    )


def spared(port: int, name: str, why: str) -> House:
    """One that is nobody's, and must live."""
    return House("idle", str(port), "orphan-holds-port", rf"PID \d+ \({name}\)", "refused-to-kill", why)


def other(port: int, whose: str, why: str) -> House:
    return House("idle", str(port), "other-unit-holds-port", whose, "refused-to-kill", why)


CONTAINER = f"it belongs to the container {SHORT}, which the container's engine can stop"
TERMINALS = "it keeps people's connections or terminals.*kill it by hand if it is not needed: kill [0-9]+$"

HOUSES = (
    orphan(9101, r"run-\S+\.scope of user root"),
    orphan(9102, "no unit of user root"),
    orphan(9103, rf"session-\S+\.scope of user {USER}"),
    orphan(9104, rf"run-\S+\.scope of user {USER}"),
    # A terminal multiplexer, ssh -R; and what was started in the multiplexer.
    spared(9105, "tmux", TERMINALS),
    spared(9106, "sshd", TERMINALS),
    orphan(9107, r"run-\S+\.scope of user root"),
    # Another service, up, down, failed, and without a file any more.
    other(9108, rf"{PID}, in live\.service$", r"is a live service; stop it \(systemctl stop live\.service\)"),
    other(9109, r"in gone\.service$", r"gone\.service, which is inactive; kill it \(systemctl kill gone\.service\)"),
    other(9110, r"in broke\.service$", r"broke\.service, which is failed; kill it \(systemctl kill broke\.service\)"),
    other(9111, r"in filed\.service$", r"filed\.service, which is \S.*kill it \(systemctl kill filed\.service\)"),
    # A user's manager: its service of the same name, and its socket unit.
    other(
        9112, rf"in idle\.service of the user manager of {USER}", rf"\(systemctl --user -M {USER}@ stop idle\.service\)"
    ),
    other(9113, r"\(systemd\), in user@1000\.service", rf"systemctl --user -M {USER}@ list-sockets"),
    # A stray socket unit of the system's.
    other(9114, r"\(systemd\), for stray\.socket$", r"stop it \(systemctl stop stray\.socket\)"),
    # Containers, by the places that their engines give them, by their namespaces, and their proxies.
    other(9115, f"docker-{ID}", CONTAINER),
    other(9116, f"libpod-{ID}", CONTAINER),
    other(9117, f"cri-containerd-{ID}", CONTAINER),
    other(9118, r"machine-web\.scope", "the container web,"),
    other(9119, "a container", "another PID namespace"),
    other(9120, "a container", "another user namespace"),
    other(
        9121,
        r"\(docker-proxy\), in docker\.service",
        "passes on a container's port: the container's engine can stop it$",
    ),
    # Nobody has it in his table: it is under way between two processes.
    House("idle", "9122", "owner-unknown", "is open, and no process has it", "refused-to-kill", "no process has it"),
)

BY_USER = (
    House("idle", "9112", "owned", "held only by"),
    House("wakes", "9113", "owned", r"systemd listens on port 9113 for wakes\.service"),
    House("wakes.socket", "9113", "owned"),
    House("idle", "9113", "other-unit-holds-port", r"\(systemd\), for wakes\.socket$"),
    House("idle", "9104", "orphan-holds-port"),
    House("idle", "9103", "orphan-holds-port"),
    House("idle", "9108", "owner-unknown", r"cannot be found; root can see it: ss -lntp sport = :9108"),
    # A leftover whose parent is the user's manager, which is the subreaper of all that is in it.
    House("lingers", "9123", "leftover-holds-port", rf"{PID}, in lingers\.service, left over"),
)
BY_NOBODY = (
    House("live", "9108", "owner-unknown", "cannot be found; run it as root, which can read every process"),
    House("idle", "9108", "owner-unknown", "cannot be found; run it as root, which can read every process"),
    House("idle", "9122", "owner-unknown", "cannot be found; run it as root, which can read every process"),
    House("idle", "9101", "owner-unknown", "run it as root"),
)


def move_in(street: Street) -> None:
    street.users_manager()
    for program in ("tmux", "sshd", "docker-proxy"):
        street.machine.run(["cp", "/usr/bin/python3", f"/opt/{program}"])
    actor = ACTOR.split()[1:]
    street.scope("listen=0.0.0.0:9101")
    street.begin([*ACTOR.split(), "listen=0.0.0.0:9102"])
    street.begin(["su", "-", USER, "-c", f"{ACTOR} listen=0.0.0.0:9103 & wait"])
    street.begin(["systemd-run", "--user", "--quiet", "--scope", *ACTOR.split(), "listen=0.0.0.0:9104"], USER)
    for program, port in (("tmux", 9105), ("sshd", 9106)):
        street.begin(["systemd-run", "--quiet", "--scope", f"/opt/{program}", *actor, f"listen=0.0.0.0:{port}"])
    inner = f"import subprocess; subprocess.run({[*ACTOR.split(), 'listen=0.0.0.0:9107']})"
    street.begin(["systemd-run", "--quiet", "--scope", "/opt/tmux", "-c", inner])
    street.service("live.service", "listen=0.0.0.0:9108")
    for name, port in (("gone", 9109), ("filed", 9111)):
        street.service(f"{name}.service", shell(f"ACTOR listen=0.0.0.0:{port} & exec sleep 1h"), KillMode="process")
    broke = shell(
        "ACTOR listen=0.0.0.0:9110 touch=/run/broke & until test -e /run/broke; do sleep 0.05; done", "exit 3"
    )
    street.service("broke.service", broke, KillMode="process")
    street.machine.write(f"{USER_UNITS}/idle.service", unit_file(f"{ACTOR} listen=0.0.0.0:9112"))
    street.machine.write(f"{USER_UNITS}/wakes.service", unit_file(f"{ACTOR} adopt"))
    street.machine.write(f"{USER_UNITS}/wakes.socket", "[Socket]\nListenStream=9113\n")
    lingers = shell(
        "test -e /run/user/1000/once && exec sleep 1h",
        "touch /run/user/1000/once",
        "exec ACTOR daemon listen=0.0.0.0:9123",
    )
    street.machine.write(f"{USER_UNITS}/lingers.service", unit_file(lingers, KillMode="process"))
    street.machine.run(["chown", "-R", USER, f"/home/{USER}/.config"])
    street.as_user("daemon-reload")
    street.as_user("start", "idle.service", "wakes.socket", "lingers.service")
    street.write("stray.socket", "[Socket]\nListenStream=9199\nListenStream=9114\n")
    street.service("stray.service", "adopt")
    scopes = ((9115, f"docker-{ID}"), (9116, f"libpod-{ID}"), (9118, "machine-web"))
    for port, name in scopes:
        where = "system.slice" if port == 9115 else "machine.slice"
        street.scope(f"listen=0.0.0.0:{port}", f"--unit={name}.scope", f"--slice={where}")
    pod = f"{PODS}{ID}.scope"
    street.begin(["sh", "-ec", f"mkdir -p {pod}; echo 0 >{pod}/cgroup.procs; exec {ACTOR} listen=0.0.0.0:9117"])
    street.begin(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *ACTOR.split(), "listen=0.0.0.0:9119"])
    street.begin(["unshare", "--user", "--map-root-user", *ACTOR.split(), "listen=0.0.0.0:9120"])
    street.service("docker.service", " ".join(["/opt/docker-proxy", *actor, "listen=0.0.0.0:9121"]))
    street.scope("listen=0.0.0.0:9122 flight")
    street.start(*(unit for unit in street.units if unit != "stray.service"))
    street.listening(*range(9101, 9124))
    street.machine.run(["systemctl", "stop", "gone.service", "filed.service"])
    street.machine.run(["rm", "/etc/systemd/system/filed.service"])
    street.machine.run(["systemctl", "daemon-reload"])
    street.as_user("restart", "lingers.service")
    until(lambda: street.machine.show("broke.service", "ActiveState")["ActiveState"] == "failed", "the failed service")
    until(
        lambda: "pid=" not in street.machine.run(["ss", "-Hltnp", "sport = :9122"]).stdout, "the socket to be under way"
    )
    street.judge(HOUSES)


@pytest.mark.parametrize("house", HOUSES, ids=str)
def test_whose_it_is(street: Street, house: House) -> None:
    street.assert_said(house)


def test_as_the_user_sees_it(street: Street) -> None:
    """He may not look into his own manager; what it opened for a socket unit is known all the same."""
    said = ask(street.machine, "check", "verify-port-owner", BY_USER, user=USER, scope="user")
    for house in BY_USER:
        assert_said(said[str(house)], house)


@pytest.mark.parametrize("hidepid", ["0", "2"])
def test_as_somebody_sees_it_who_may_see_little(street: Street, hidepid: str) -> None:
    """Whoever is not root, without and with the mount option of /proc that hides the others' processes."""
    try:
        street.machine.run(["mount", "-o", f"remount,hidepid={hidepid}", "/proc"])
        said = ask(street.machine, "check", "verify-port-owner", BY_NOBODY, user=USER)
    finally:
        street.machine.run(["mount", "-o", "remount,hidepid=0", "/proc"])
    for house in BY_NOBODY:
        assert_said(said[str(house)], house)


def test_the_command_that_is_told_frees_the_port(street: Street, service: StartService) -> None:
    """A stop of the unit that left it would do nothing: it is down, and its file is gone."""
    service("litter.service", unit_file(shell("ACTOR listen=0.0.0.0:9131 & exec sleep 1h"), KillMode="process"))
    street.listening(9131)
    street.machine.run(["systemctl", "stop", "litter.service"])
    street.machine.run(["rm", "/etc/systemd/system/litter.service"])
    street.machine.run(["systemctl", "daemon-reload"])
    house = House("idle", "9131", "refused-to-kill")
    said = ask(street.machine, "plan", "kill-orphan", [house])[str(house)]["reason"]
    told = re.search(r"\((systemctl kill litter\.service)\)", said)
    assert told, said
    street.machine.run(told[1].split())
    until(lambda: not street.holders(9131), "the port to be free")
