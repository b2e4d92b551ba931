"""Words of other tools, and what a runbook has in their place: Ansible, GitHub Actions, GitLab CI, Compose, systemd.

A word is looked up in lower case with dashes: `TimeoutStopSec` as `timeout-stop-sec`, `ansible.builtin.shell` as
`shell`.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterable

_HERE = "a runbook acts on the machine where it is started: start it on each one"
_TRIGGER = "a runbook does not start itself: a timer unit or a CI job starts `runbook apply`"
_RUN = "write `run: {run: COMMAND}`"
_UPDATE = "write `update`, with the command that installs in its `run`"
_JOB = "write `restart`, `start`, `stop` or `reload`"
_READY = "write `wait-ready`"
_ONE_FILE = "a runbook is one file: write all steps in it"
_SYSTEMD = "leave it out: a runbook acts on a systemd unit, which `unit` names"


def _table(*rows: tuple[str, str]) -> dict[str, str]:
    return {word: meaning for words, meaning in rows for word in words.split()}


_TOP = _table(
    ("hosts host targets inventory runs-on serial strategy matrix", _HERE),
    ("tasks jobs plays sequence commands script pre-tasks stages workflow procedure", "it is called `steps` here"),
    ("service unit-name service-name systemd-unit", "it is called `unit` here"),
    ("services", "write one runbook for each service, with its `unit`"),
    ("ports listen expose", "it is called `port` here"),
    ("variables params parameters inputs args defaults", "it is called `vars` here"),
    ("vars-files vars-prompt extra-vars", "write `vars`; `--set NAME=VALUE` overrides them"),
    ("environment env-file environment-file", "it is called `env` here"),
    ("handlers rescue on-error on-fail", "write a `remediate` step, or `rollback`"),
    ("finally ensure cleanup post-tasks after-script", "it is called `always` here"),
    ("on trigger triggers schedule cron workflow-dispatch", _TRIGGER),
    ("become become-user remote-user run-as", "`user` of a step runs its command as another user"),
    ("title", "it is called `name` here"),
    ("version api-version", "write `format: 1`, or a variable in `vars`"),
    ("timeout-minutes timeout-seconds time-limit deadline", "it is called `timeout` here"),
    ("roles include import-playbook import-tasks include-tasks extends needs depends-on", _ONE_FILE),
    ("gather-facts collections connection permissions concurrency image volumes networks container build", _SYSTEMD),
    ("unit-file install kind metadata spec", _SYSTEMD),
)

_STEPS = _table(
    ("shell command cmd script exec raw bash sh local-action commands execute expect", _RUN),
    ("copy template file lineinfile blockinfile replace synchronize unarchive get-url mount user cron reboot", _RUN),
    ("enable disable mask unmask daemon-reexec systemctl sysctl debug echo fail", _RUN),
    ("uses", f"there are no actions: {_RUN}"),
    ("install upgrade deploy package apt apt-get aptitude yum dnf zypper pacman apk snap flatpak", _UPDATE),
    ("pip pip3 pipx npm yarn pnpm gem cargo git docker-image pull build", _UPDATE),
    ("systemd systemd-service service services sysvinit unit", _JOB),
    ("reload-or-restart try-restart condrestart restarted respawn", "write `restart`"),
    ("started stopped reloaded", _JOB),
    ("wait wait-for wait-for-connection wait-until uri healthcheck health-check health probe ready", _READY),
    ("check test smoke-test readiness-probe liveness-probe curl http tcp websocket is-active status", _READY),
    ("sleep pause delay", "`wait-ready` waits until the unit is healthy"),
    ("assert verify validate expect-version", "write `verify-version` or `verify-port-owner`"),
    ("check-port port port-owner", "write `verify-port-owner`"),
    ("kill pkill killall fuser kill-port free-port", "write `kill-orphan`"),
    ("clear-failed reset", "write `reset-failed`"),
    ("block rescue fix repair handlers recover", "write `remediate`, with `check` and `fix`"),
    ("set-fact set vars variables", "write `vars` at the top of the file"),
    ("include-tasks import-tasks include-role import-role roles include import-playbook", _ONE_FILE),
    ("always finally rollback notify", "it belongs at the top of the file, not among the steps"),
)

_FIELDS = _table(
    ("run cmd command commands script shell exec execute argv install upgrade exec-start", "run"),
    ("chdir working-directory working-dir workdir dir directory folder", "cwd"),
    ("become-user remote-user run-as runas username sudo-user as", "user"),
    ("environment env-vars variables vars", "env"),
    ("if only-if condition conditions unless only rules exec-condition", "when"),
    ("attempts max-attempts tries max-retries until failure-threshold", "retries rounds"),
    ("interval retry-delay retry-interval sleep pause period-seconds restart-sec", "delay"),
    ("max-interval max-backoff", "max-delay"),
    ("timeout-minutes timeout-seconds timeout-sec timeout-start-sec time-limit deadline async wait-timeout", "timeout"),
    ("timeout-stop-sec stop-grace-period grace-period termination-grace-period-seconds wait", "grace timeout"),
    ("no-log sensitive hidden masked", "secret"),
    ("service unit-name service-name systemd-unit", "unit"),
    ("ports listen expose", "port"),
    ("probe healthcheck health-check health-checks health liveness-probe readiness-probe test tests", "probes"),
    ("stable-for start-period initial-delay-seconds min-ready-seconds duration stable healthy", "healthy-for"),
    ("stop-signal kill-signal", "signal"),
    ("target to-version wanted desired state-version new-version", "to"),
    ("http-get https", "http"),
    ("tcp-socket socket", "tcp"),
    ("ws wss web-socket", "websocket"),
    ("status-code status-codes expected-status code", "status"),
    ("content contains response match text", "body pattern"),
    ("header", "headers"),
    ("uri address endpoint link", "url"),
    ("regex regexp grep search version-pattern", "pattern"),
    ("expected expect-version equals", "expect expect-output"),
    ("checks verify validate", "check"),
    ("fixes repair remedy rescue handlers then", "fix"),
    ("on-error on-fail", "on-failure"),
    ("label title", "name"),
    ("stop-before stop", "stop-first"),
)
"""The keys that a word may stand for; the first that the mapping has."""

_PHRASES = _table(
    ("ignore-errors continue-on-error allow-failure failed-when", "write `on-failure: continue`"),
    ("register outputs", "a later step reads the output as `steps.ID.output`"),
    ("changed-when check-mode", "`read-only: true` marks a command that changes nothing"),
    ("become sudo privileged", "`user` names the user that runs the command"),
    ("state enabled", "the step type decides: `restart`, `start`, `stop` or `reload`"),
    ("loop with-items with-list for-each matrix delegate-to run-once", "write a step for each"),
    ("uses with", "there are no actions: write a command in `run`"),
    ("notify", "it belongs at the top of the file"),
)


def explain_top_level(key: str) -> str:
    """Return what a runbook has in the place of a key at the top of a file, as the end of a sentence; or nothing."""
    return _hint(_TOP.get(normalize(key), ""))


def explain_step_type(kind: str) -> str:
    """Return what a runbook has in the place of a step type."""
    return _hint(_STEPS.get(normalize(kind), ""))


_JOBS = {
    **{verb: verb for verb in ("start", "stop", "restart", "reload", "reset-failed", "daemon-reload")},
    **dict.fromkeys(("try-restart", "condrestart", "reload-or-restart", "force-reload"), "restart"),
    **dict.fromkeys(("is-active", "is-failed", "status"), "wait-ready"),
}
"""The step types for the verbs of systemctl, service and init scripts."""


def explain_command(line: str) -> str:
    """Return the step for a command line that stands where a step belongs; empty if it is no command line.

    What the step contains must be valid YAML, so words that would need quotes are left out.
    """
    words = line.removesuffix(":").split()
    while words[:1] and words[0] in ("sudo", "doas"):
        del words[0]
    if len(words) < 2 and "/" not in line:  # noqa: PLR2004 - a single word is a step type of another tool.
        return ""
    program = words[0].rpartition("/")[2] if words else ""
    plain = [word for word in words[1:] if not word.startswith("-")]
    if words[0].startswith("/etc/init.d/"):
        plain = [*plain, program]
    elif program in ("service", "invoke-rc.d", "rc-service"):
        plain.reverse()
    elif program != "systemctl":
        plain = []
    if re.search(r"[&;|<>$(]", line):
        plain = []  # more than one command
    if plain and (kind := _JOBS.get(plain[0])):
        each = ", and one step for each unit" if plain[2:] else ""
        return _hint(f"write `- {kind}{f': {{unit: {_plain(plain[1:2])}}}' if plain[1:] else ''}`{each}")
    hint = explain_step_type(program)
    return hint if hint and _RUN not in hint else _hint(f"write `- run: {{run: {_plain(words)}}}`")


def _plain(words: Iterable[str]) -> str:
    text = " ".join(words)
    return text if re.fullmatch(r"[\w ./=@+-]{1,60}", text) else "..."


def explain_field(key: str, known: Collection[str]) -> str:
    """Return what a mapping with the keys `known` has in the place of a key."""
    word = normalize(key)
    called = next((name for name in _FIELDS.get(word, "").split() if name in known), "")
    return _hint(f"it is called `{called}` here" if called else _PHRASES.get(word, ""))


def normalize(word: str) -> str:
    """Return a word as the tables have it."""
    last = word.strip().rpartition(".")[2] if " " not in word.strip() else word.strip()
    return re.sub(r"(?<=[a-z])(?=[A-Z])", "-", last).replace("_", "-").lower()


def _hint(text: str) -> str:
    return f"; {text}" if text else ""
