"""Stages the holders of scene.py inside a machine: one function for each.

Each process has the path of its attempt, /run/attempts/PORT, in its command line, or its port in the name of its unit.
So all of them are found again, without asking the program under test.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

PROJECT = "/opt/runbook/tests/machine"
ACTOR = f"/usr/bin/python3 {PROJECT}/ownership/actor.py"
PARTS = f"/usr/bin/python3 {PROJECT}/ending/actors.py"
USER = "agentops"
HOME = f"/home/{USER}"
AS_USER = (
    "setpriv --reuid=1000 --regid=1000 --init-groups"
    f" env XDG_RUNTIME_DIR=/run/user/1000 HOME={HOME} USER={USER} LOGNAME={USER}"
)
HEX = "3f4f9a1b2c3d4e5f60718293a4b5c6d7e8f90123456789abcdef0123456"
Process = tuple[str, str, str]  # start time, command line, cgroup
OTHERS = "other"
"""The answer of a service that shares the port, so that it is told from that of the unit."""
PATIENCE = 40.0
"""Seconds after which a wait fails."""


@dataclass
class Stage:
    """One attempt: its port, its folder, and what the staging of its holder reports."""

    port: int
    unit: str
    answer: str
    user: bool = False  # the unit is of the user's manager, and the user runs the program under test
    system: dict[int, Process] = field(default_factory=dict)  # the machine's own processes
    may: str = "none"  # the staged processes that may be killed: none, holders, workers, leftovers, all
    wrap: list[str] = field(default_factory=list)  # what runs the program under test
    up: list[str] = field(default_factory=list)  # units that must be up at the end

    @property
    def folder(self) -> Path:
        return Path("/run/attempts") / str(self.port)

    @property
    def open(self) -> Path:
        """Return the folder that users may write to. The runbook's own must not be such a folder."""
        return self.folder / "open"

    def control(self, *words: str, check: bool = True) -> None:
        """Run a systemctl command on the manager of the unit."""
        systemctl(*words, check=check, user=self.user)

    def words(self, text: str) -> str:
        """Return a command with the words of this attempt in place of names in braces."""
        there = f"touch={self.open}/there"
        default = f"listen=127.0.0.1:{self.port} answer={self.answer} {there}"
        known = {"ACTOR": ACTOR, "PARTS": PARTS, "AS_USER": AS_USER, "HEX": f"{HEX}{self.port}"}
        known |= {
            "port": str(self.port),
            "folder": str(self.folder),
            "open": str(self.open),
            "holds": default,
            "there": there,
        }
        known |= {"answer": f"answer={self.answer}", "unit": self.unit}
        return re.sub(r"\{(\w+)\}", lambda found: known[found[1]], text)

    def begin(self, command: str) -> None:
        """Start a shell command that outlives its parent."""
        null = subprocess.DEVNULL
        subprocess.run(["setsid", "-f", "sh", "-c", self.words(command)], check=True, stdout=null, stderr=null)

    def scope(self, command: str, name: str = "scope", options: str = "", before: str = "") -> None:
        """Start a command in a scope of its own."""
        self.begin(f"exec {before} systemd-run --quiet --scope --unit={name}-{{port}} {options} {command}")

    def users_scope(self, command: str, name: str = "scope", options: str = "") -> None:
        self.scope(command, name, f"--user {options}", AS_USER)

    def innocent(self, command: str, unit: str = "innocent", kind: str = "service") -> None:
        """Start another service, with a shell command, or its socket unit."""
        (self.folder / "innocent").write_text(self.words(command))
        name = f"{unit}@{self.port}.{kind}"
        systemctl("start", name)
        self.up.append(name)

    def receiver(self, start: Callable[[str], None]) -> None:
        """Start a process that waits for a socket which another one sends it."""
        start("{ACTOR} receive={folder}/door {answer} {there}")
        until((self.folder / "door").exists, f"the receiver of {self.port}")

    def wait(self, file: str = "there") -> None:
        until((self.open / file).exists, f"{file} of {self.port}")

    def report(self) -> None:
        """Report, as the actors do, that all is in place."""
        (self.open / "there").touch()

    def wait_for_holder(self) -> None:
        """Wait for a process that does not report itself, and report it."""
        until(lambda: holders(self.port), f"a holder of {self.port}")
        self.report()

    def spawn(self, command: str) -> None:
        """Let an earlier invocation of the unit start a command. The unit stays up."""
        (self.open / "spawn").write_text(self.words(command))
        self.control("start", self.unit)
        self.wait()

    def login(self, user: str, command: str) -> None:
        """Leave a process behind in a login session."""
        line = self.words(f"nohup setsid {command} >/dev/null 2>&1 &")
        subprocess.run(["su", "-", user, "-c", line], check=True, start_new_session=True, timeout=60)


def systemctl(*words: str, check: bool = True, user: bool = False) -> None:
    argv = [*(f"{AS_USER} systemctl --user" if user else "systemctl").split(), *words]
    subprocess.run(argv, stderr=subprocess.DEVNULL, check=check, timeout=60)


def show(unit: str, *names: str, user: bool = False) -> dict[str, str]:
    argv = [*(f"{AS_USER} systemctl --user" if user else "systemctl").split(), "show", f"--property={','.join(names)}"]
    lines = subprocess.run([*argv, unit], stdout=subprocess.PIPE, text=True, check=True).stdout.splitlines()
    return dict(line.partition("=")[::2] for line in lines)


def until(holds: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + PATIENCE
    while not holds():
        if time.monotonic() > deadline:
            raise TimeoutError(f"waited for {what}")
        time.sleep(0.02)


# Orphans and leftovers


def free(stage: Stage) -> None:
    stage.report()


def nohup(stage: Stage) -> None:
    stage.may = "holders"
    stage.login(USER, "{ACTOR} {holds}")


def root_login(stage: Stage) -> None:
    stage.may = "holders"
    stage.login("root", "{ACTOR} {holds}")


def console(stage: Stage) -> None:
    stage.may = "holders"
    stage.begin("exec {ACTOR} {holds}")


def scope(stage: Stage) -> None:
    stage.may = "holders"
    stage.scope("{ACTOR} {holds}", options="--slice=user.slice")


def user_scope(stage: Stage) -> None:
    stage.may = "holders"
    stage.users_scope("{ACTOR} {holds}")


def escaped(stage: Stage) -> None:
    stage.may = "holders"
    stage.spawn("setsid -f systemd-run --quiet --scope --unit=escaped-{port} {ACTOR} {holds}")
    stage.control("stop", stage.unit)


def deaf(stage: Stage) -> None:
    stage.may = "holders"
    stage.scope("sh -c 'trap \"\" TERM; exec {ACTOR} {holds}'")


def stopped(stage: Stage) -> None:
    stage.may = "holders"
    stage.scope("{ACTOR} {holds}", "stopped")
    stage.wait()
    systemctl("kill", "--signal=STOP", f"stopped-{stage.port}.scope")


def thread(stage: Stage) -> None:
    stage.may = "all"
    stage.scope("{ACTOR} thread {holds}")


def first_thread_gone(stage: Stage) -> None:
    stage.may = "all"
    stage.scope("{ACTOR} hide {holds}")


def two_orphans(stage: Stage) -> None:
    """Two processes in two scopes share one socket."""
    stage.may = "holders"
    stage.receiver(lambda command: stage.scope(command, "second"))
    stage.scope("{ACTOR} listen=127.0.0.1:{port} send={folder}/door {answer}", "first")


def orphan_and_stranger(stage: Stage) -> None:
    """The unit's log names the address that it cannot have, so the stranger on another one is no rival."""
    stage.may = "holders"
    stage.scope("{ACTOR} listen=127.0.0.2:{port} {answer} touch={open}/first", "stranger")
    stage.wait("first")
    stage.scope("{ACTOR} {holds}")


def forged_command(stage: Stage) -> None:
    stage.may = "holders"
    stage.users_scope("bash -c 'exec -a \"nginx: master process /usr/sbin/nginx\" {ACTOR} {holds}'")


def leftover(stage: Stage) -> None:
    stage.may = "all"
    stage.spawn("exec {ACTOR} {holds}")
    stage.control("stop", stage.unit)


def idle_leftover(stage: Stage) -> None:
    stage.may = "leftovers"
    stage.spawn("exec {ACTOR} {there}")
    stage.control("stop", stage.unit)


def sharing_orphan(stage: Stage) -> None:
    stage.may = "holders"
    stage.scope("{ACTOR} listen=127.0.0.1:{port},reuseport {answer} {there}")


def dying(stage: Stage) -> None:
    stage.may = "all"
    stage.scope("timeout -s KILL 2 {ACTOR} {holds}", "dying")


def supervised(stage: Stage) -> None:
    stage.may = "workers"
    stage.scope("{PARTS} prefork {port} {open}/there", "supervised")


def supervised_loop(stage: Stage) -> None:
    stage.may = "workers"
    stage.scope("{PARTS} again {port} shell", "supervised")
    stage.wait_for_holder()


# Processes of live services and managers


def other_unit(stage: Stage) -> None:
    stage.innocent("exec {ACTOR} {holds}")


def other_child(stage: Stage) -> None:
    stage.innocent("systemd-run --quiet --scope --unit=child-{port} {ACTOR} {holds}; true")


def other_escaped(stage: Stage) -> None:
    """Its parent has exited, and it left the cgroup; only its INVOCATION_ID is that of the service."""
    stage.innocent("setsid -f {ACTOR} group=/escaped-{port} {holds}; exec sleep 1h")


def other_leftover(stage: Stage) -> None:
    stage.innocent("{ACTOR} {holds} & exec sleep 1h", "spared")
    stage.wait()
    systemctl("stop", stage.up.pop())


def other_inherited(stage: Stage) -> None:
    """A live service and a scope have the same socket."""
    stage.receiver(lambda command: stage.scope(command, "second"))
    stage.innocent("exec {ACTOR} listen=127.0.0.1:{port} send={folder}/door {answer}")


def sharing_unit(stage: Stage) -> None:
    stage.answer = OTHERS
    stage.innocent("exec {ACTOR} listen=127.0.0.1:{port},reuseport {answer} {there}")


def sharing_both(stage: Stage) -> None:
    stage.innocent("exec {ACTOR} listen=127.0.0.1:{port},reuseport {answer} touch={open}/first")
    stage.wait("first")
    stage.scope("{ACTOR} listen=127.0.0.1:{port},reuseport {answer} {there}")


def user_unit(stage: Stage) -> None:
    (stage.folder / "innocent").write_text(stage.words("exec {ACTOR} listen=127.0.0.1:{port} {answer}"))
    systemctl("start", f"innocent@{stage.port}.service", user=True)
    stage.wait_for_holder()


def other_socket(stage: Stage) -> None:
    stage.innocent("exec {ACTOR} adopt {answer}", kind="socket")
    stage.report()


def _multiplexer(stage: Stage, program: str, before: str = "") -> None:
    inside = f"import subprocess; subprocess.run(['sh', '-c', '{before}{ACTOR} {{holds}}; true'])"
    stage.scope(f'/opt/programs/{program} -c "{inside}"', "multiplexer")


def tmux(stage: Stage) -> None:
    _multiplexer(stage, "tmux")


def screen(stage: Stage) -> None:
    _multiplexer(stage, "screen")


def tmux_scope(stage: Stage) -> None:
    _multiplexer(stage, "tmux", "systemd-run --quiet --scope --unit=tmux-spawn-{port} ")


def tmux_gone(stage: Stage) -> None:
    """The multiplexer has exited; its child is an orphan."""
    stage.may = "all"
    tmux_scope(stage)
    stage.wait()
    gone = f"multiplexer-{stage.port}.scope"
    systemctl("kill", "--signal=KILL", gone)
    until(lambda: not any(gone in group for _, _, group in processes().values()), "the multiplexer to end")


def podman(stage: Stage) -> None:
    stage.begin("exec systemd-run --quiet --scope --slice=machine.slice --unit=libpod-{HEX} {ACTOR} {holds}")


def docker(stage: Stage) -> None:
    stage.begin("exec systemd-run --quiet --scope --unit=docker-{HEX} unshare --pid --fork {ACTOR} {holds}")


def kubernetes(stage: Stage) -> None:
    group = "/kubepods.slice/kubepods-burstable.slice/kubepods-burstable-pod{port}.slice/cri-containerd-{HEX}.scope"
    stage.begin(f"exec env -i {ACTOR} group={group} {{holds}}")


def nomad(stage: Stage) -> None:
    stage.innocent("exec env -i {ACTOR} child group=/nomad.slice/share.slice/{port}.web.scope {holds}")


def slurm(stage: Stage) -> None:
    job = "group=/system.slice/slurmstepd-{port}.scope/job_42/step_0/task_0"
    stage.scope(f"{ACTOR} group=system child {job} {{holds}}", "slurmstepd", "--property=Delegate=yes")


def vm_device(stage: Stage) -> None:
    stage.scope("{ACTOR} open=/dev/kvm {holds}")


def vm_name(stage: Stage) -> None:
    stage.scope(f"/opt/programs/firecracker {ACTOR.split()[1]} {{holds}}", "vm")


def vm_child(stage: Stage) -> None:
    _multiplexer(stage, "qemu-kvm")


# Facts that a user can forge


def handed(stage: Stage, *, unit: bool = False) -> None:
    """A user's socket, sent to a process of root's."""
    stage.receiver(lambda command: stage.innocent(f"exec {command}") if unit else stage.scope(command, "deputy"))
    stage.users_scope("{ACTOR} listen=127.0.0.1:{port} send={folder}/door close", "giver")
    stage.wait()
    until(lambda: len(holders(stage.port)) == 1, "the giver to close its socket")


def handed_unit(stage: Stage) -> None:
    handed(stage, unit=True)


def in_flight(stage: Stage) -> None:
    stage.users_scope("{ACTOR} listen=127.0.0.1:{port} flight {there}")


def bus(stage: Stage) -> None:
    stage.users_scope("{ACTOR} listen=127.0.0.1:{port} bus {there}")


def _claims(stage: Stage, unit: str) -> None:
    invocation = show(unit, "InvocationID")["InvocationID"]
    stage.users_scope(f"{ACTOR} become={invocation} {{holds}}")


def forged_id(stage: Stage) -> None:
    stage.innocent("exec sleep 1h")
    _claims(stage, stage.up[-1])


def forged_own_id(stage: Stage) -> None:
    stage.may = "all"
    (stage.open / "spawn").write_text("true")
    stage.control("start", stage.unit)
    _claims(stage, stage.unit)


def forged_name(stage: Stage) -> None:
    stage.may = "all"
    stage.begin(
        "exec {AS_USER} systemd-run --user --quiet --scope --unit=named-{port} {PARTS} named {port} 'tmux: server'"
    )
    stage.wait_for_holder()


def forged_container(stage: Stage) -> None:
    stage.begin("exec {AS_USER} systemd-run --user --quiet --scope --unit=docker-{HEX} {ACTOR} {holds}")


# No rivals of the unit, or no holders


def ancestor(stage: Stage) -> None:
    """The holder itself runs the program under test."""
    inside = f"import socket, subprocess, sys; s = socket.create_server(('127.0.0.1', {stage.port})); "
    stage.wrap = ["python3", "-c", f"{inside}sys.exit(subprocess.call(sys.argv[1:]))"]
    stage.report()


def bound(stage: Stage) -> None:
    stage.scope("{ACTOR} listen=127.0.0.1:{port},bound {there}")


def other_address(stage: Stage) -> None:
    stage.scope("{ACTOR} listen=127.0.0.2:{port} {answer} {there}")


def other_family(stage: Stage) -> None:
    stage.scope("{ACTOR} listen=[::]:{port},v6only {answer} {there}")


def udp(stage: Stage) -> None:
    stage.scope("{ACTOR} listen=127.0.0.1:{port},udp {there}")


def other_network(stage: Stage) -> None:
    stage.scope("unshare --net {ACTOR} listen=0.0.0.0:{port} {answer} {there}")


def outside(stage: Stage) -> None:
    """The unit has a network of its own."""
    stage.scope("{ACTOR} {holds}")


def client(stage: Stage) -> None:
    """The process is staged once the unit is up."""
    stage.scope("{PARTS} client {port}", "client")
    time.sleep(0.5)
    stage.report()


LATER = (other_address, other_family, client, udp, other_network, outside)
"""Holders that are staged after the unit is up."""


def holders(port: int, inside: tuple[str, ...] = ()) -> set[int]:
    """Return the PIDs that hold a listening TCP socket on 127.0.0.1, from ss. `inside` enters another network."""
    argv = [*inside, "ss", "-H", "-ltnp", f"( sport = :{port} )"]
    # If the process in the other network has ended, nothing holds a port in it.
    done = subprocess.run(argv, stdout=subprocess.PIPE, text=True, check=not inside)
    lines = done.stdout.splitlines()
    overlapping = [line for line in lines if line.split()[3].startswith(("127.0.0.1:", "0.0.0.0:", "*:"))]
    return {int(pid) for line in overlapping for pid in re.findall(r"pid=(\d+),", line)}


def function_of(holder: str) -> Callable[[Stage], None]:
    found: Callable[[Stage], None] = globals()[holder.replace("-", "_")]
    return found


def processes() -> dict[int, Process]:
    """Return start time, command line and cgroup of each process that runs. A zombie does not, unless a thread does."""
    found = {}
    for folder in Path("/proc").iterdir():
        if not folder.name.isdigit():
            continue
        try:
            fields = (folder / "stat").read_text().rpartition(")")[2].split()
            if fields[0] == "Z" and len(os.listdir(folder / "task")) < 2:  # noqa: PTH208
                continue
            command = (folder / "cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
            group = (folder / "cgroup").read_text().splitlines()[-1].removeprefix("0::")
        except (OSError, IndexError):
            continue
        found[int(folder.name)] = (fields[19], command, group)
    return found
