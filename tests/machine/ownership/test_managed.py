"""Processes that a live manager runs outside of its own cgroup: none of them is an orphan, and each is named."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.machine.machine import Machine
from tests.machine.ownership.staging import ACTOR, PortCase, Stage, shell
from tests.machine.tree import USER

BARE = f"env -i {ACTOR}"
SLURM = "/system.slice/slurmstepd.scope"
BY_NAME = (
    "qemu-system-x86_64",
    "qemu-kvm",
    "VBoxHeadless",
    "VirtualBoxVM",
    "vmware-vmx",
    "firecracker",
    "cloud-hypervisor",
    "crosvm",
    "gvproxy",
)
BY_DEVICE = ("/dev/kvm", "/dev/vboxdrv", "/dev/vmmon", "/dev/vhost-net", "/srv/jail/dev/kvm")


def orphan(port: int, where: str) -> PortCase:
    """Return the case of a process that no manager runs."""
    return PortCase("idle", str(port), "orphan-holds-port", where, "orphan-holds-port", "kill PID")


def job(port: int, manager: str) -> PortCase:
    """Return the case of a process that a manager runs. Both verdicts name the manager."""
    return PortCase("idle", str(port), "other-unit-holds-port", manager, "refused-to-kill", manager)


def virtual(port: int, why: str = "it runs a virtual machine") -> PortCase:
    return PortCase("idle", str(port), "other-unit-holds-port", why, "refused-to-kill", why)


CASES = (
    # A child of a live service, in a cgroup that systemd does not know; of its main process, and of an executor that
    # the last restart of the service left running.
    job(9501, r"PID \d+ \(python3\) of nomad\.service"),
    job(9502, r"PID \d+ \(python3\) of kept\.service"),
    # The executor is gone, but another process of the same job has one.
    job(9503, r"PID \d+ \(python3\) of nomad2\.service"),
    # A delegated scope with a live manager: its child, and a job whose own parent has exited.
    job(9504, r"PID \d+ \(python3\).* slurmstepd\.scope"),
    job(9505, r"PID \d+ \(python3\).* slurmstepd\.scope"),
    # The same in the scope itself, without a cgroup below it.
    job(9506, r"PID \d+ \(python3\).* flat\.scope"),
    # A scope that systemd knows, below a live service: `systemd-run --scope` in its script.
    job(9507, r"PID \d+ \(\w+\) of runner\.service"),
    # A cgroup with the name of a service that systemd does not know.
    job(9508, r"PID \d+ \(python3\) of pbs\.service"),
    # An agent that was started by hand, with its job elsewhere.
    job(9509, r"PID \d+ \(python3\)"),
    # A service of a user's manager.
    job(9510, rf"PID \d+ \(python3\) of agent\.service of the user manager of {USER}"),
    # A job of which no other process is left; its cgroup has the name of the service.
    job(9515, r"named as a cgroup of nomad\.service"),
    # No manager: alone in its scope, with a child of its own, and in a scope whose other process is a child of it.
    orphan(9511, r"in alone\.scope"),
    orphan(9512, r"in master\.scope"),
    orphan(9513, "in no unit"),
    # A login that a service started.
    orphan(9514, rf"in session-\S+\.scope of user {USER}"),
    *(virtual(9520 + at) for at, _ in enumerate(BY_NAME) if BY_NAME[at] != "gvproxy"),
    virtual(9520 + BY_NAME.index("gvproxy"), "it passes on the ports of a virtual machine"),
    *(virtual(9540 + at) for at, _ in enumerate(BY_DEVICE)),
    virtual(9549),
    orphan(9550, r"in reads\.scope"),
    # Below a multiplexer, two levels down, in the multiplexer's scope and in one of its own; below a virtual machine.
    job(9560, r"PID \d+ \(tmux\)"),
    job(9561, r"PID \d+ \(tmux\)"),
    job(9562, r"PID \d+ \(screen\)"),
    job(9563, r"PID \d+ \(qemu-kvm\)"),
)


@pytest.fixture(scope="module")
def machine(suite: str) -> Iterator[Machine]:
    """A machine that may have virtual machines, if this host may."""
    device = Path("/dev/kvm")
    with Machine(suite, bind={device: "/dev/kvm"} if device.exists() else {}) as booted:
        yield booted


def start_all(stage: Stage) -> None:
    _jobs(stage)
    _virtual_machines(stage)
    _multiplexers(stage)
    stage.start(*stage.units)
    stage.as_user("daemon-reload")
    stage.as_user("start", "agent.service")
    stage.listening(*(case.port for case in CASES))
    stage.machine.run(["systemctl", "restart", "kept.service"])
    stage.judge(CASES)


def _jobs(stage: Stage) -> None:
    share = "/nomad.slice/share.slice"
    stage.service("nomad.service", f"child group={share}/0f3c.web.scope listen=0.0.0.0:9501")
    executor = f"{BARE} child group={share}/1a2b.web.scope listen=0.0.0.0:9502"
    kept = shell("test -e /run/kept && exec sleep 1h", f"touch /run/kept; {executor} & exec sleep 1h")
    stage.service("kept.service", kept, KillMode="process")
    stage.begin([*BARE.split(), f"group={share}/3c4d.web.scope", "daemon", "listen=0.0.0.0:9515"])
    # Its parent stays in the job's cgroup; the holder itself has no parent.
    stage.service("nomad2.service", f"child group={share}/2b3c.web.scope child daemon listen=0.0.0.0:9503")
    task = f"group={SLURM}/job_42/step_0/user/task_0"
    delegated = "--property=Delegate=yes"
    stage.scope(f"group=system child {task} listen=0.0.0.0:9504", "--unit=slurmstepd", delegated)
    stage.machine.run(["mkdir", "-p", f"/sys/fs/cgroup{SLURM}/job_43"])
    stage.begin([*BARE.split(), f"group={SLURM}/job_43/step_0/user/task_0", "daemon", "listen=0.0.0.0:9505"])
    stage.scope("child listen=0.0.0.0:9506", "--unit=flat", delegated)
    runner = f"systemd-run --quiet --scope --unit=run-of-runner {BARE} listen=0.0.0.0:9507"
    stage.service("runner.service", shell(f"{runner}", "true"))
    stage.service("pbs.service", "child group=/pbs_jobs.service/jobid/42 listen=0.0.0.0:9508")
    stage.begin(
        ["systemd-run", "--quiet", "--scope", *ACTOR.split(), "child", "group=/dev-agent/1", "listen=0.0.0.0:9509"]
    )
    stage.users_manager()
    units = f"/home/{USER}/.config/systemd/user"
    task = f"{BARE} child group=/user.slice/user-1000.slice/user@1000.service/jobs/7.scope listen=0.0.0.0:9510"
    stage.machine.write(f"{units}/agent.service", f"[Service]\nExecStart=/usr/bin/{task}\n")
    stage.machine.run(["chown", "-R", USER, f"/home/{USER}/.config"])
    stage.scope("listen=0.0.0.0:9511", "--unit=alone", delegated)
    stage.scope("group=main fork listen=0.0.0.0:9512", "--unit=master", delegated)
    stage.begin([*BARE.split(), "group=/mine/by/hand", "daemon", "listen=0.0.0.0:9513"])
    stage.begin(["su", "-", USER, "-c", f"{ACTOR} listen=0.0.0.0:9514"])


def _virtual_machines(stage: Stage) -> None:
    actor = ACTOR.split()[1:]
    stage.machine.run(["mkdir", "-p", "/opt/programs", "/srv/jail/dev"])
    for at, program in enumerate(BY_NAME):
        stage.machine.run(["cp", "/usr/bin/python3", f"/opt/programs/{program}"])
        stage.begin(
            ["systemd-run", "--quiet", "--scope", f"/opt/programs/{program}", *actor, f"listen=0.0.0.0:{9520 + at}"]
        )
    for at, device in enumerate(BY_DEVICE):
        stage.scope(f"open={device} listen=0.0.0.0:{9540 + at}")
    real = "kvm" if stage.exists("/dev/kvm") and Path("/dev/kvm").exists() else "open=/dev/kvm"
    stage.scope(f"{real} listen=0.0.0.0:9549")
    stage.scope("open=/opt/programs/kvm listen=0.0.0.0:9550", "--unit=reads")


def _multiplexers(stage: Stage) -> None:
    for program in ("tmux", "screen"):
        stage.machine.run(["cp", "/usr/bin/python3", f"/opt/programs/{program}"])
    spawned = "systemd-run --quiet --scope --unit=tmux-spawn-1"
    for program, port, before in (
        ("tmux", 9560, ""),
        ("tmux", 9561, f"{spawned} "),
        ("screen", 9562, ""),
        ("qemu-kvm", 9563, ""),
    ):
        inside = f"import subprocess; subprocess.run(['sh', '-c', '{before}{ACTOR} listen=0.0.0.0:{port}; true'])"
        stage.begin(["systemd-run", "--quiet", "--scope", f"/opt/programs/{program}", "-c", inside])


@pytest.mark.parametrize("case", CASES, ids=str)
def test_whose_it_is(stage: Stage, case: PortCase) -> None:
    stage.assert_verdict(case)
