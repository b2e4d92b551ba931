"""`runbook doctor` without a unit: the whole machine, as root and as an ordinary user."""

from __future__ import annotations

import re
from typing import Any

from tests import docs
from tests.machine.conftest import InstallUnit, StartService
from tests.machine.doctor.doctoring import carry_out, doctor, look
from tests.machine.incident import UNIT, Incident, loop
from tests.machine.machine import Machine, least, until
from tests.machine.runs import unit_file
from tests.machine.tree import USER

LIBRARY = "/usr/lib/libshown.so.1"
SERVER = """#!/usr/bin/python3
import ctypes, time
ctypes.CDLL("/usr/lib/libshown.so.1")
print("loaded", flush=True)
time.sleep(1e6)
"""
SERVE = "/usr/bin/python3 -m http.server"
PACKAGE = """set -e
rm -rf /root/package
mkdir -p /root/package/DEBIAN /root/package/usr/lib
printf 'Package: libshown\\nVersion: {version}\\nArchitecture: all\\nMaintainer: a <a@b.c>\\nDescription: shown\\n' \
    > /root/package/DEBIAN/control
cp "$(find /usr/lib -name 'libm.so.6' | head -1)" /root/package/usr/lib/libshown.so.1
dpkg-deb --root-owner-group -b /root/package /root/package.deb
dpkg -i /root/package.deb
"""


def about(found: dict[str, Any], subject: str) -> list[dict[str, str]]:
    return [one for one in found["findings"] if one["subject"] == subject]


def test_a_healthy_machine(machine: Machine) -> None:
    found = look(machine)
    assert (found["exit"], found["findings"], found["unseen"]) == (0, [], [])
    assert found["services"] == found["healthy-services"] > 3
    done = doctor(machine)
    assert done.stdout.endswith(f"  [ok] {found['services']} services\n\nnothing is wrong\n"), done.stdout


def test_the_incident(machine: Machine, incident: Incident) -> None:
    loop(machine)
    [found] = about(look(machine), UNIT)
    assert found["kind"] in ("unit-failed", "restarted"), found
    until(lambda: machine.show(UNIT, "ActiveState")["ActiveState"] == "failed", "the start limit", 60)
    seen = look(machine)
    assert (seen["exit"], seen["severity"], len(seen["findings"])) == (1, "problem", 1)
    [found] = about(seen, UNIT)
    assert (found["kind"], found["severity"]) == ("unit-failed", "problem")
    assert f"is held by PID {incident.orphan} (gateway) of {USER} since " in found["reason"]
    assert "its start limit was reached" in found["reason"]
    assert found["next"] == f"runbook doctor {UNIT}"
    text = doctor(machine).stdout
    assert f"next: runbook doctor {UNIT}\n" in text
    assert text.endswith("\n1 problem\n")
    # The same for the user whose process it is, who sees less of the rest.
    seen = look(machine, USER)
    assert about(seen, UNIT)[0]["severity"] == "problem"
    assert about(seen, UNIT)[0]["next"] == f"sudo runbook doctor {UNIT}"
    assert seen["unseen"]


def test_an_orphan_on_a_port_that_no_unit_wants(machine: Machine) -> None:
    script = "setsid python3 -m http.server 8099 >/dev/null 2>&1 </dev/null & sleep 0.2"
    machine.run(["systemd-run", "--quiet", "--pipe", "--wait", "-pKillMode=none", "sh", "-c", script], check=False)
    until(lambda: machine.run(["ss", "-Hltn", "sport = :8099"]).stdout, "the server to listen")
    try:
        found = look(machine)
        assert found["exit"] == 1
        assert any("8099" in one["reason"] for one in found["findings"]), found
    finally:
        machine.run(["sh", "-c", "pkill -KILL -f 'http.server 8099'"], check=False)


def test_after_an_upgrade_old_code_is_serving(machine: Machine, service: StartService) -> None:
    machine.write("/opt/shown", SERVER, 0o755)
    machine.run(["sh", "-c", PACKAGE.format(version="1.0")])
    service("shown.service", unit_file("/opt/shown"))
    until(lambda: LIBRARY in maps(machine, "shown.service"), "the library to be mapped")
    assert about(look(machine), "shown.service") == []
    machine.run(["sh", "-c", PACKAGE.format(version="1.1")])
    seen = look(machine)
    assert (seen["exit"], seen["severity"]) == (1, "warning")
    [found] = about(seen, "shown.service")
    assert (found["kind"], found["next"]) == ("old-code-serving", "runbook restart shown.service")
    assert re.fullmatch(r"PID \d+ \(\S+\) runs code that was replaced since it began: libshown.so.1", found["reason"])
    # Another user may not read it, and that is no health.
    blind = look(machine, "nobody")
    assert (blind["exit"], about(blind, "shown.service")) == (1, [])
    assert any("files that" in text for text in blind["unseen"]), blind
    carry_out(machine, [found["next"]])
    assert about(look(machine), "shown.service") == []
    machine.run(["dpkg", "--purge", "libshown"])
    machine.run(["rm", "-rf", "/opt/shown", "/root/package", "/root/package.deb"])


def maps(machine: Machine, unit: str) -> str:
    return machine.read(f"/proc/{machine.show(unit, 'MainPID')['MainPID']}/maps")


def test_a_changed_file_and_few_starts(machine: Machine, unit: InstallUnit) -> None:
    limit = {"Unit_StartLimitIntervalSec": "1h", "Unit_StartLimitBurst": "4"}
    wanted = "[Install]\nWantedBy=multi-user.target\n"
    unit("few.service", unit_file("/bin/sleep infinity", **limit) + wanted)
    machine.run(["systemctl", "enable", "-q", "few.service"])
    for _ in range(3):
        machine.run(["systemctl", "restart", "few.service"])
    [found] = about(look(machine), "few.service")
    assert (found["kind"], found["severity"]) == ("start-limit", "warning")
    assert "one more is left" in found["reason"]
    machine.run(["sh", "-c", "echo >> /etc/systemd/system/few.service"])
    found = about(look(machine), "few.service")[-1]
    assert (found["kind"], found["next"]) == ("changed-file", "systemctl daemon-reload")
    carry_out(machine, [found["next"]])
    # A reload of systemd 252 loses the counter of a unit that is up.
    left = ["start-limit"] if machine.suite == "trixie" else []
    assert [one["kind"] for one in about(look(machine), "few.service")] == left


def test_a_machine_with_a_user_manager(machine: Machine, service: StartService) -> None:
    folder = f"/home/{USER}/.config/systemd/user"
    machine.write(f"{folder}/web.service", unit_file("/bin/sleep infinity"))
    machine.write(f"{folder}/broken.service", unit_file("/bin/false"))
    machine.run(["chown", "-R", USER, f"/home/{USER}/.config"])
    machine.run(["systemctl", "--user", "daemon-reload"], user=USER)
    machine.run(["systemctl", "--user", "start", "web.service", "broken.service"], user=USER)
    service("web.service", unit_file("/bin/sleep infinity"))
    failed = ["systemctl", "--user", "is-failed", "broken.service"]
    until(lambda: machine.run(failed, check=False, user=USER).returncode == 0, "the unit to fail")
    for user in (None, USER):
        seen = look(machine, user)
        assert seen["user-managers"] >= 1
        [broken] = about(seen, "broken.service")
        assert (broken["user"], broken["severity"]) == (USER, "problem")
        assert "its main process exited with status 1" in broken["reason"]
        [double] = about(seen, "web.service")
        assert double["kind"] == "two-managers"
        own = "runbook doctor --user broken.service"
        assert broken["next"] == (own if user else f"su - {USER} -c '{own}'")
    # It loops, because a service of the system has its port.
    machine.write(
        f"{folder}/taken.service",
        unit_file(f"{SERVE} 8097", Restart="always", RestartSec="300ms", Unit_StartLimitIntervalSec="0"),
    )
    service("holder.service", unit_file(f"{SERVE} 8097"))
    until(lambda: machine.run(["ss", "-Hltn", "sport = :8097"]).stdout, "the server to listen")
    machine.run(["systemctl", "--user", "daemon-reload"], user=USER)
    machine.run(["systemctl", "--user", "start", "taken.service"], user=USER)
    restarts = ["systemctl", "--user", "show", "--value", "-p", "NRestarts", "taken.service"]
    until(lambda: int(machine.run(restarts, user=USER).stdout) >= 3, "the restarts")
    for user in (None, USER):
        [taken] = about(look(machine, user), "taken.service")
        assert (taken["kind"], taken["severity"]) == ("crash-loop", "problem")
        holder = "a process of root$" if user else r"PID \d+ \(\S+\) of root since .*, in holder.service$"
        assert re.search(f"port 8097 is held by {holder}", taken["reason"]), taken
    # Another user may not ask that manager.
    seen = look(machine, "nobody")
    assert (about(seen, "broken.service"), seen["exit"]) == ([], 1)
    assert any("user manager" in text and USER in text for text in seen["unseen"]), seen
    machine.run(["systemctl", "--user", "stop", "web.service", "taken.service"], user=USER)
    machine.run(["systemctl", "--user", "reset-failed"], user=USER)
    machine.run(["rm", "-rf", f"{folder}/web.service", f"{folder}/broken.service", f"{folder}/taken.service"])
    machine.run(["systemctl", "--user", "daemon-reload"], user=USER)


def test_the_metrics(machine: Machine) -> None:
    """The commands of the page, for a healthy machine."""
    [script] = docs.blocks_of_test("test_the_metrics")
    folder = "/var/lib/prometheus/node-exporter"
    machine.run(["mkdir", "-p", folder])
    machine.run(["sh", "-ec", script])
    text = machine.read(f"{folder}/runbook.prom")
    assert "# TYPE runbook_doctor_healthy gauge\nrunbook_doctor_healthy 1\n" in text
    assert doctor(machine, "dbus", "--output", "prometheus").returncode == 2
    machine.run(["rm", "-r", "/var/lib/prometheus"])


def test_it_loads_neither_pydantic_nor_yaml(machine: Machine) -> None:
    names = "sys.stderr.write(' '.join(sys.modules))"
    program = f"import atexit, sys; atexit.register(lambda: {names}); from runbook import cli; cli.main()"
    python = machine.run(["sh", "-c", "head -1 $(command -v runbook) | cut -c3-"]).stdout.strip()
    done = machine.run([python, "-c", program, "doctor"], check=False)
    assert "runbook.doctor.machine" in done.stderr
    assert not {"pydantic", "yaml", "jinja2"} & set(done.stderr.split())


CROWD = "/bin/sh -c 'for n in 1 2 3 4; do sleep infinity & done; wait'"
MEASURE = """
import resource, subprocess
subprocess.run(["runbook", "doctor"], check=True, stdout=subprocess.DEVNULL)
used = resource.getrusage(resource.RUSAGE_CHILDREN)
print(used.ru_utime + used.ru_stime)
"""


def test_sixty_services_and_three_hundred_processes_within_a_second(machine: Machine) -> None:
    """By the time of the processor, of which it takes 0.4 s: other tests run at the same time."""
    machine.write("/etc/systemd/system/crowd@.service", unit_file(CROWD))
    machine.run(["systemctl", "daemon-reload"])
    names = [f"crowd@{number}.service" for number in range(60)]
    machine.run(["systemctl", "start", *names])
    try:
        found = look(machine)
        assert (found["exit"], found["findings"]) == (0, [])
        assert found["services"] > 60
        assert least(lambda: float(machine.run(["python3", "-c", MEASURE]).stdout), within=1.0) < 1.0
    finally:
        machine.run(["systemctl", "stop", *names])
        machine.run(["rm", "/etc/systemd/system/crowd@.service"])
        machine.run(["systemctl", "daemon-reload"])


NEVER_READY = """#!/usr/bin/python3
import os, socket, time
notify = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
notify.sendto(b"EXTEND_TIMEOUT_USEC=3600000000", os.environ["NOTIFY_SOCKET"].replace("@", "\\0"))
time.sleep(1e6)
"""


def test_units_that_do_nothing(machine: Machine, service: StartService, unit: InstallUnit) -> None:
    for name in ("frozen.service", "stopped.service"):
        service(name, unit_file("/bin/sleep infinity"))
    machine.run(["systemctl", "freeze", "frozen.service"])
    machine.run(["systemctl", "kill", "--signal=STOP", "stopped.service"])
    machine.write("/opt/never", NEVER_READY, 0o755)
    unit("never.service", unit_file("/opt/never", Type="notify", TimeoutStartSec="4s"))
    unit(
        "pre.service",
        unit_file(
            "/bin/true", ExecStartPre="/bin/false", Restart="always", RestartSec="100ms", Unit_StartLimitIntervalSec="0"
        ),
    )
    # After all reloads: a reload of systemd forgets that the time of a start was extended.
    machine.run(["systemctl", "start", "--no-block", "pre.service", "never.service"])
    try:
        until(lambda: about(look(machine), "never.service"), "the start to be late", 60)
        until(lambda: about(look(machine), "pre.service"), "the restarts", 30)
        seen = look(machine)
        kinds = {one["subject"]: (one["kind"], one["severity"]) for one in seen["findings"]}
        assert kinds == {
            "frozen.service": ("unit-frozen", "problem"),
            "stopped.service": ("unit-frozen", "problem"),
            "never.service": ("unit-stuck", "problem"),
            "pre.service": ("crash-loop", "problem"),
        }, seen
        assert {one["next"] for one in seen["findings"]} == {f"runbook doctor {name}" for name in kinds}
        assert "systemctl thaw frozen.service" in about(seen, "frozen.service")[0]["reason"]
        assert "SIGSTOP; kill -CONT" in about(seen, "stopped.service")[0]["reason"]
    finally:
        machine.run(["systemctl", "thaw", "frozen.service"])
        machine.run(["systemctl", "kill", "--signal=CONT", "stopped.service"])
        machine.run(["rm", "-f", "/opt/never"])


def test_a_user_who_has_a_manager_and_no_account(machine: Machine, service: StartService) -> None:
    machine.run(["useradd", "--uid", "4711", "--create-home", "ghost"])
    machine.write("/etc/systemd/user/broken.service", unit_file("/bin/false"))
    machine.run(["systemctl", "start", "user@4711.service"])
    enter = "setpriv --reuid=4711 --regid=4711 --clear-groups env HOME=/run/user/4711 XDG_RUNTIME_DIR=/run/user/4711"
    try:
        machine.run(["sed", "-i", "/^ghost:/d", "/etc/passwd"])
        machine.run(["sh", "-c", f"{enter} systemctl --user start broken.service"], check=False)
        until(lambda: about(look(machine), "broken.service"), "the unit to fail")
        [broken] = about(look(machine), "broken.service")
        assert (broken["user"], broken["next"]) == ("UID 4711", f"{enter} runbook doctor --user broken.service")
        done = machine.run(["sh", "-c", broken["next"]], check=False)
        assert (done.returncode, done.stderr) == (1, "")
        assert "broken.service" in done.stdout
    finally:
        machine.run(["systemctl", "stop", "user@4711.service"])
        machine.run(["sh", "-c", "rm -rf /home/ghost /etc/systemd/user/broken.service; sed -i /^ghost:/d /etc/shadow"])
