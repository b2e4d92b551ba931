"""Other programs that find the holder of a port, or restart a service and wait until it answers."""

from __future__ import annotations

from tests.machine.tree import RIVALS_VENV, VENV

UNIT, PORT = "bench.service", 18789
URL = f"http://127.0.0.1:{PORT}/"

LOOP = f"until curl --silent --fail --output /dev/null {URL}; do sleep 1; done"
"""The loop of both bash and pyinfra."""

BASH = f"systemctl restart {UNIT}; {LOOP}"

PLAYBOOK = f"""\
- hosts: localhost
  connection: local
  gather_facts: false
  vars: {{ansible_python_interpreter: {RIVALS_VENV}/bin/python}}
  tasks:
    - ansible.builtin.systemd_service: {{name: {UNIT}, state: restarted}}
    - ansible.builtin.wait_for: {{port: {PORT}, timeout: 20}}
    - ansible.builtin.uri: {{url: "{URL}"}}
"""

DEPLOY = f"""\
from pyinfra.operations import server, systemd

systemd.service(service="{UNIT}", restarted=True)
server.shell(commands=["{LOOP}"])
"""

RESTART = f"""\
unit: {UNIT}
port: {PORT}
steps: [restart, wait-ready: {{healthy-for: 0, timeout: 20s}}]
"""

RESTART_AND_ASK = f"""\
unit: {UNIT}
port: {PORT}
steps: [restart, wait-ready: {{healthy-for: 0, timeout: 20s, probes: [http: {{url: "{URL}"}}]}}]
"""

VERIFY_FILE = "/root/verify.yaml"
VERIFY = f"unit: {UNIT}\nport: {PORT}\nsteps: [verify-port-owner]\n"

FILES = {
    VERIFY_FILE: VERIFY,
    "/root/restart.yaml": RESTART,
    "/root/restart-and-ask.yaml": RESTART_AND_ASK,
    "/root/playbook.yaml": PLAYBOOK,
    "/root/deploy.py": DEPLOY,
}

SS, LSOF, FUSER, PSUTIL = "ss -Htlnp", "lsof -iTCP", "fuser", "psutil, in process"
CHECK, APPLY = "runbook check", "runbook apply"

WHO_HAS_THE_PORT = {
    SS: ["ss", "-Htlnp", f"sport = :{PORT}"],
    LSOF: ["lsof", "-nP", f"-iTCP:{PORT}", "-sTCP:LISTEN"],
    FUSER: ["fuser", f"{PORT}/tcp"],
    CHECK: ["runbook", "check", VERIFY_FILE, "--output", "json"],
    APPLY: ["runbook", "apply", VERIFY_FILE, "--output", "json"],
}

DOCTOR, BY_HAND = "runbook doctor", "systemctl status; ss; journalctl"

DIAGNOSES = {
    DOCTOR: ["runbook", "doctor", UNIT],
    BY_HAND: ["sh", "-c", f"systemctl status {UNIT}; ss -ltnp; journalctl -u {UNIT} -n 20"],
}

WHOLE, BY_HAND_WHOLE = "runbook doctor, no UNIT", "systemctl; ss; lsof"

MACHINES = {
    WHOLE: ["runbook", "doctor"],
    BY_HAND_WHOLE: ["sh", "-c", "systemctl --failed; ss -ltnp; lsof -nP +L1"],
}

PYTHON, SHOW = "bare interpreter", "systemctl show"

STARTS = {
    PYTHON: [f"{VENV}/bin/python", "-c", "pass"],
    SHOW: ["systemctl", "show", UNIT],
    "runbook --help": ["runbook", "--help"],
    "runbook validate": ["runbook", "validate", VERIFY_FILE],
}

LOOP_OF_BASH, ANSIBLE, PYINFRA = "bash, curl in a loop", "ansible-core", "pyinfra"
ASKED, UNASKED = "runbook, an http probe", "runbook, no probe"

RESTARTS = {
    UNASKED: ["runbook", "apply", "/root/restart.yaml", "--output", "json"],
    ASKED: ["runbook", "apply", "/root/restart-and-ask.yaml", "--output", "json"],
    LOOP_OF_BASH: ["bash", "-c", BASH],
    PYINFRA: [f"{RIVALS_VENV}/bin/pyinfra", "@local", "/root/deploy.py", "-y"],
    ANSIBLE: [f"{RIVALS_VENV}/bin/ansible-playbook", "-i", "localhost,", "/root/playbook.yaml"],
}

VERSIONS = {
    "ss": ["ss", "-V"],
    "lsof": ["sh", "-c", "lsof -v 2>&1 | sed -n 's/.*revision: */lsof /p'"],
    "fuser": ["sh", "-c", "fuser --version 2>&1 | head -n 1"],
    "psutil": [f"{RIVALS_VENV}/bin/python", "-c", "import psutil; print('psutil', psutil.__version__)"],
    "ansible": ["sh", "-c", f"{RIVALS_VENV}/bin/ansible --version | head -n 1"],
    "pyinfra": [f"{RIVALS_VENV}/bin/pyinfra", "--version"],
}
