"""Other holders of the unit's port: each is named correctly, and only processes of no service may be killed."""

from __future__ import annotations

import re

import pytest

from tests.machine.conftest import StartService
from tests.machine.machine import until
from tests.machine.ownership.staging import ACTOR, USER_UNITS, PortCase, Stage, ask, assert_verdict, shell
from tests.machine.runs import unit_file
from tests.machine.tree import USER

PID = r"PID \d+ \(python3\)"
ID = "3f4f9a1b2c3d4e5f60718293a4b5c6d7e8f90123456789abcdef0123456789ab"
SHORT = ID[:12]
PODS = "/sys/fs/cgroup/kubepods.slice/kubepods-besteffort.slice/cri-containerd-"


def orphan(port: int, where: str) -> PortCase:
    return PortCase(
        "idle", str(port), "orphan-holds-port", f"{PID}{where}: not this unit", "orphan-holds-port", "kill PID"
    )


def protected(port: int, name: str, why: str) -> PortCase:
    """Return the case of a process that belongs to no service, and must not be killed."""
    return PortCase("idle", str(port), "orphan-holds-port", rf"PID \d+ \({name}\)", "refused-to-kill", why)


def other(port: int, whose: str, why: str) -> PortCase:
    return PortCase("idle", str(port), "other-unit-holds-port", whose, "refused-to-kill", why)


CONTAINER = f"it belongs to the container {SHORT}, which the container's engine can stop"
TERMINALS = "it keeps people's connections or terminals.*kill it by hand if it is not needed: kill [0-9]+$"

CASES = (
    orphan(9101, r", in run-\S+\.scope of user root"),
    orphan(9102, ", of user root, in no unit"),
    orphan(9103, rf", in session-\S+\.scope of user {USER}"),
    orphan(9104, rf", in run-\S+\.scope of user {USER}"),
    # A terminal multiplexer, ssh -R, and a program in the multiplexer.
    protected(9105, "tmux", TERMINALS),
    protected(9106, "sshd", TERMINALS),
    other(9107, r"its ancestor PID \d+ \(tmux\) keeps people's connections", r"tmux.*kill it by hand.*: kill \d+$"),
    # Another service: up, down, failed, and without a file.
    other(9108, rf"{PID}, in live\.service$", r"is a live service; stop it \(systemctl stop live\.service\)"),
    other(9109, r"in gone\.service$", r"gone\.service, which is inactive; kill it \(systemctl kill gone\.service\)"),
    other(9110, r"in broke\.service$", r"broke\.service, which is failed; kill it \(systemctl kill broke\.service\)"),
    other(9111, r"in filed\.service$", r"filed\.service, which is \S.*kill it \(systemctl kill filed\.service\)"),
    # A user's manager: its service of the same name, and its socket unit.
    other(
        9112, rf"in idle\.service of the user manager of {USER}", rf"\(systemctl --user -M {USER}@ stop idle\.service\)"
    ),
    other(9113, r"\(systemd\), in user@1000\.service", rf"systemctl --user -M {USER}@ list-sockets"),
    # A socket unit of the system that belongs to no other case.
    other(9114, r"\(systemd\), for stray\.socket$", r"stop it \(systemctl stop stray\.socket\)"),
    # Containers, by the cgroups of their engines and by their namespaces, and a proxy.
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
    # No process has the socket in its table, as it is being passed on.
    PortCase("idle", "9122", "owner-unknown", "is open, and no process has it", "refused-to-kill", "no process has it"),
)

BY_USER = (
    PortCase("idle", "9112", "owned", "held only by"),
    PortCase("wakes", "9113", "owned", r"systemd listens on port 9113 for wakes\.service"),
    PortCase("wakes.socket", "9113", "owned"),
    PortCase("idle", "9113", "other-unit-holds-port", r"\(systemd\), for wakes\.socket$"),
    PortCase("idle", "9104", "orphan-holds-port"),
    PortCase("idle", "9103", "orphan-holds-port"),
    PortCase("idle", "9108", "owner-unknown", r"cannot be found; root can see it: ss -lntp sport = :9108"),
    # A leftover whose parent is the user's manager, the subreaper of its processes.
    PortCase("lingers", "9123", "leftover-holds-port", rf"{PID}, in lingers\.service, left over"),
)
WITHOUT_RIGHTS = (
    PortCase("live", "9108", "owner-unknown", "cannot be found; run it as root, which can read every process"),
    PortCase("idle", "9108", "owner-unknown", "cannot be found; run it as root, which can read every process"),
    PortCase("idle", "9122", "owner-unknown", "cannot be found; run it as root, which can read every process"),
    PortCase("idle", "9101", "owner-unknown", "run it as root"),
)


def start_all(stage: Stage) -> None:
    stage.users_manager()
    for program in ("tmux", "sshd", "docker-proxy"):
        stage.machine.run(["cp", "/usr/bin/python3", f"/opt/{program}"])
    actor = ACTOR.split()[1:]
    stage.scope("listen=0.0.0.0:9101")
    stage.begin([*ACTOR.split(), "listen=0.0.0.0:9102"])
    stage.begin(["su", "-", USER, "-c", f"{ACTOR} listen=0.0.0.0:9103 & wait"])
    stage.begin(["systemd-run", "--user", "--quiet", "--scope", *ACTOR.split(), "listen=0.0.0.0:9104"], USER)
    for program, port in (("tmux", 9105), ("sshd", 9106)):
        stage.begin(["systemd-run", "--quiet", "--scope", f"/opt/{program}", *actor, f"listen=0.0.0.0:{port}"])
    inner = f"import subprocess; subprocess.run({[*ACTOR.split(), 'listen=0.0.0.0:9107']})"
    stage.begin(["systemd-run", "--quiet", "--scope", "/opt/tmux", "-c", inner])
    stage.service("live.service", "listen=0.0.0.0:9108")
    for name, port in (("gone", 9109), ("filed", 9111)):
        stage.service(f"{name}.service", shell(f"ACTOR listen=0.0.0.0:{port} & exec sleep 1h"), KillMode="process")
    broke = shell(
        "ACTOR listen=0.0.0.0:9110 touch=/run/broke & until test -e /run/broke; do sleep 0.05; done", "exit 3"
    )
    stage.service("broke.service", broke, KillMode="process")
    stage.machine.write(f"{USER_UNITS}/idle.service", unit_file(f"{ACTOR} listen=0.0.0.0:9112"))
    stage.machine.write(f"{USER_UNITS}/wakes.service", unit_file(f"{ACTOR} adopt"))
    stage.machine.write(f"{USER_UNITS}/wakes.socket", "[Socket]\nListenStream=9113\n")
    lingers = shell(
        "test -e /run/user/1000/once && exec sleep 1h",
        "touch /run/user/1000/once",
        "exec ACTOR daemon listen=0.0.0.0:9123",
    )
    stage.machine.write(f"{USER_UNITS}/lingers.service", unit_file(lingers, KillMode="process"))
    stage.machine.run(["chown", "-R", USER, f"/home/{USER}/.config"])
    stage.as_user("daemon-reload")
    stage.as_user("start", "idle.service", "wakes.socket", "lingers.service")
    stage.write("stray.socket", "[Socket]\nListenStream=9199\nListenStream=9114\n")
    stage.service("stray.service", "adopt")
    scopes = ((9115, f"docker-{ID}"), (9116, f"libpod-{ID}"), (9118, "machine-web"))
    for port, name in scopes:
        where = "system.slice" if port == 9115 else "machine.slice"
        stage.scope(f"listen=0.0.0.0:{port}", f"--unit={name}.scope", f"--slice={where}")
    pod = f"{PODS}{ID}.scope"
    stage.begin(["sh", "-ec", f"mkdir -p {pod}; echo 0 >{pod}/cgroup.procs; exec {ACTOR} listen=0.0.0.0:9117"])
    stage.begin(["unshare", "--pid", "--fork", "--kill-child", "--mount-proc", *ACTOR.split(), "listen=0.0.0.0:9119"])
    stage.begin(["unshare", "--user", "--map-root-user", *ACTOR.split(), "listen=0.0.0.0:9120"])
    stage.service("docker.service", " ".join(["/opt/docker-proxy", *actor, "listen=0.0.0.0:9121"]))
    stage.scope("listen=0.0.0.0:9122 flight")
    stage.start(*(unit for unit in stage.units if unit != "stray.service"))
    stage.listening(*range(9101, 9124))
    stage.machine.run(["systemctl", "stop", "gone.service", "filed.service"])
    stage.machine.run(["rm", "/etc/systemd/system/filed.service"])
    stage.machine.run(["systemctl", "daemon-reload"])
    stage.as_user("restart", "lingers.service")
    until(lambda: stage.machine.show("broke.service", "ActiveState")["ActiveState"] == "failed", "the failed service")
    until(
        lambda: "pid=" not in stage.machine.run(["ss", "-Hltnp", "sport = :9122"]).stdout, "the socket to be in flight"
    )
    stage.judge(CASES)


@pytest.mark.parametrize("case", CASES, ids=str)
def test_the_verdict_on_the_port(stage: Stage, case: PortCase) -> None:
    stage.assert_verdict(case)


def test_the_verdict_for_the_user_of_the_manager(stage: Stage) -> None:
    """The user cannot read the manager's own process. What it opened for a socket unit is found anyway."""
    found = ask(stage.machine, "check", "verify-port-owner", BY_USER, user=USER, scope="user")
    for case in BY_USER:
        assert_verdict(found[str(case)], case)


@pytest.mark.parametrize("hidepid", ["0", "2"])
def test_the_verdict_for_a_user_without_rights(stage: Stage, hidepid: str) -> None:
    """/proc is mounted without and with the option that hides processes of other users."""
    try:
        stage.machine.run(["mount", "-o", f"remount,hidepid={hidepid}", "/proc"])
        found = ask(stage.machine, "check", "verify-port-owner", WITHOUT_RIGHTS, user=USER)
    finally:
        stage.machine.run(["mount", "-o", "remount,hidepid=0", "/proc"])
    for case in WITHOUT_RIGHTS:
        assert_verdict(found[str(case)], case)


def test_the_advised_command_frees_the_port(stage: Stage, service: StartService) -> None:
    """The unit of the leftover is down and its file is gone, so a stop would do nothing."""
    service("litter.service", unit_file(shell("ACTOR listen=0.0.0.0:9131 & exec sleep 1h"), KillMode="process"))
    stage.listening(9131)
    stage.machine.run(["systemctl", "stop", "litter.service"])
    stage.machine.run(["rm", "/etc/systemd/system/litter.service"])
    stage.machine.run(["systemctl", "daemon-reload"])
    case = PortCase("idle", "9131", "refused-to-kill")
    reason = ask(stage.machine, "plan", "kill-orphan", [case])[str(case)]["reason"]
    advised = re.search(r"\((systemctl kill litter\.service)\)", reason)
    assert advised, reason
    stage.machine.run(advised[1].split())
    until(lambda: not stage.holders(9131), "the port to be free")
