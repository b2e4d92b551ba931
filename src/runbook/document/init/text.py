"""Writes the first runbook of a unit from what was found."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Iterator, Sequence
from pathlib import PurePosixPath

from runbook.checks.exit_reason import USEC_INFINITY
from runbook.document.draft import FILL_IN
from runbook.document.init.packages import Package
from runbook.document.init.probe import FoundProbe
from runbook.document.init.survey import Survey
from runbook.document.quoting import clean, is_writable, quote, quote_in_list, quote_port
from runbook.document.restart import PROOF_TIMEOUT
from runbook.host.facts import UP
from runbook.util.timespan import format_span

COMMENT_WIDTH = 100  # characters of a line of a comment
BRIEF, QUICK, SLOW = 3.0, 5.0, 10.0
"""Seconds: sshd blocks clients that often connect; an interpreter may need long until it finds its port in use."""

_READY = {
    "simple": "systemd calls it started as soon as its process is forked: only these checks show that it is ready",
    "exec": "systemd calls it started as soon as its program is executed: only these checks show that it is ready",
    "notify": "systemd calls it started when it reports that it is ready (READY=1)",
    "notify-reload": "systemd calls it started when it reports that it is ready (READY=1)",
    "forking": "systemd calls it started when its first process exits, and has left the server behind",
    "dbus": "systemd calls it started when it has its name on the bus",
    "oneshot": "systemd calls it started when its commands have exited",
    "idle": "systemd calls it started as soon as its process is forked: only these checks show that it is ready",
}


def write_first_runbook(survey: Survey, file: str, host: str, now: float) -> str:
    """Return the text of the runbook, which will be in `file`."""
    lines = [*_write_header(survey, file, host, now), *_write_top(survey), "", "steps:"]
    lines += [*_write_update(survey), "  - restart"]
    # A oneshot is down once its work is done: only the result of its job can be proved.
    if survey.unit.type != "oneshot" or survey.unit.remain_after_exit:
        lines += _write_remediate(survey)
    return "\n".join([*lines, *_write_rollback(survey), ""])


def _comment(text: str, indent: int = 0) -> Iterator[str]:
    """Yield the lines of a comment."""
    margin = f"{' ' * indent}# "
    printable = "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in text)
    yield from textwrap.wrap(
        printable,
        COMMENT_WIDTH,
        initial_indent=margin,
        subsequent_indent=margin,
        break_long_words=False,
        break_on_hyphens=False,
    )


def _write_header(survey: Survey, file: str, host: str, now: float) -> Iterator[str]:
    unit, runbook = survey.unit, "runbook" if survey.unit.of_user else "sudo runbook"
    at = time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(now))
    yield from _comment(f"A first runbook for {unit.name} on {clean(host)}, made by `runbook init` on {at}.")
    yield "#"
    word = quote(file)
    yield from (f"#   {runbook} apply {option}{word}" for option in ("--dry-run ", ""))
    if survey.package:
        yield f"#   {runbook} apply --set version=VERSION {word}"
    yield "#"
    yield from _comment(f"Read for it: {', '.join(map(clean, survey.sources))}. The unit was {unit.describe()}.")
    if unit.description:
        yield from _comment(f"The unit describes itself as: {clean(unit.description)}")
    for notice in survey.notices:
        yield from _comment(f"Note: {notice}")


def _write_top(survey: Survey) -> Iterator[str]:
    unit = survey.unit
    stem = unit.name.rpartition(".")[0]
    yield f"name: {quote(('upgrade ' if survey.package else 'restart ') + stem)}"
    yield f"unit: {quote(unit.name)}"
    if unit.of_user:
        yield "scope: user"
    if len(survey.ports) == 1:
        yield f"port: {quote_port(survey.ports[0])}"
    elif survey.ports:
        yield from ("port:", *(f"  - {quote_port(port)}" for port in survey.ports))
    elif unit.is_service and not unit.is_umbrella:
        is_up = unit.active_state in UP
        found = "it listens on none now" if is_up else "it does not run now"
        then = "with one, add `verify-port-owner` to `check`, and `kill-orphan` to `fix`, after `stop`"
        mark = "" if is_up else f"{FILL_IN}: "
        yield from _comment(f"{mark}`port: NUMBER`, if clients use one; {found}; {then}.")
    if (package := survey.package) is not None:
        yield from ("vars:", f'  version: "{package.to}"{_describe_version(package)}')


def _describe_version(package: Package) -> str:
    if package.candidate:
        return f"  # the newest that apt knows; {package.version} is installed"
    newest = "; apt knows none that is newer" if "apt-cache policy" in package.sources else ""
    return f"  # is installed{newest}"


def _write_update(survey: Survey) -> Iterator[str]:
    package = survey.package
    if package is None:
        if survey.unit.is_service:
            yield from _write_missing_update(survey)
        return
    yield from _comment(f"Installs {package.what}. Does nothing if this version is installed already.", 2)
    yield "  - update:"
    yield from _write_script("run", package.run)
    yield from _write_script("version", package.version_command)
    if package.pattern:
        yield f"      pattern: {quote(package.pattern)}"
    yield "      to: ${{ vars.version }}"
    if "apt-cache policy" not in package.sources:
        yield "      # stop-first: true    # if the running service may load files while they are replaced"
    if package.user:
        yield f"      user: {quote(package.user)}"
    if package.env:
        pairs = (f"{name}: {quote(value)}" for name, value in package.env)
        yield f"      env: {{{', '.join(pairs)}}}"


def _write_script(key: str, lines: Sequence[str]) -> Iterator[str]:
    if len(lines) == 1:
        yield f"      {key}: {quote(lines[0])}"
        return
    # One command in several lines is folded into one; several commands are a script.
    yield f"      {key}: {'>-' if key == 'run' and lines[1].startswith('-') else '|'}"
    yield from (f"        {line}" for line in lines)


def _write_missing_update(survey: Survey) -> Iterator[str]:
    yield from _comment(f"{FILL_IN}: how a new version is installed; {clean(survey.no_package)}. For example:", 2)
    version = clean(survey.own_version)
    command = f"{survey.program.named} --version" if version else "COMMAND"
    found = f"printed {version} just now" if version else "prints the installed version"
    yield "  # - update:"
    yield "  #     run: COMMAND ${{ to }}    # installs that version"
    yield f"  #     version: {command}    # {found}"
    yield f'  #     to: ${{{{ vars.version }}}}    # and below `unit`: vars: {{version: "{version or "1.2.3"}"}}'


def _write_remediate(survey: Survey) -> Iterator[str]:
    unit = survey.unit
    yield from _comment("If the restart fails, this step finds the cause and fixes it.", 2)
    yield from ("  - remediate:", "      check:")
    if (ready := _READY.get(unit.type)) and unit.is_service:
        yield from _comment(f"Type={unit.type}: {ready}.", 8)
    yield from _write_wait(survey)
    if survey.ports:
        yield "        - verify-port-owner"
    yield from _write_version_check(survey)
    yield from _write_fix(survey)


def _write_wait(survey: Survey) -> Iterator[str]:
    unit, probes = survey.unit, [one for one in survey.probes if one.kind]
    interpreted = bool(survey.program.interpreter)
    watchdog = 0.0 if unit.watchdog_usec >= USEC_INFINITY else unit.watchdog_usec / 1e6
    usual = BRIEF if survey.program.name == "sshd" else SLOW if interpreted else QUICK
    healthy = max(usual, watchdog + 1 if watchdog else 0.0)
    start = 0.0 if unit.timeout_start_usec >= USEC_INFINITY else unit.timeout_start_usec / 1e6
    limit = max(PROOF_TIMEOUT, healthy + (start if unit.type not in ("simple", "exec", "idle") else 0), 2 * healthy)
    why = "  # longer than WatchdogSec=" if watchdog and healthy > SLOW else ""
    yield "        - wait-ready:"
    yield f"            healthy-for: {format_span(healthy)}{why}"
    yield f"            timeout: {format_span(limit)}"
    for one in (one for one in survey.probes if one.to_fill_in):
        yield from _comment(f"{FILL_IN}: {clean(one.to_fill_in)}.", 12)
    if probes:
        yield "            probes:"
    for one in probes:
        yield from _comment(f"{clean(one.note)}.", 14)
        yield f"              - {_write_probe(one)}"


def _write_probe(probe: FoundProbe) -> str:
    field = {"http": "url", "run": "run", "tcp": "port"}[probe.kind]
    value = probe.value if probe.value.isdecimal() else quote_in_list(probe.value)
    return f"{probe.kind}: {{{field}: {value}}}"


def _write_version_check(survey: Survey) -> Iterator[str]:
    paths = survey.package.newer_than if survey.package else (survey.program.named,)
    named = [path for path in paths if path.startswith("/") and is_writable(path)]
    unit = survey.unit
    if named and unit.is_service and not unit.is_umbrella and not survey.program.serves_an_app:
        yield from _comment("Its processes must have started after these files last changed: the new code serves.", 8)
        yield f"        - verify-version: {{newer-than: [{', '.join(map(quote_in_list, named))}]}}"


def _write_fix(survey: Survey) -> Iterator[str]:
    program = survey.program
    # Where a link such as /opt/gw/current leads to, the next upgrade changes. A package keeps its path.
    exe = program.exe if survey.package or program.named == program.real else ""
    if survey.unit.type == "oneshot" or not survey.unit.is_service:
        yield "      fix: [reset-failed, start]"  # A stop may stop other units that no start brings back.
    elif not survey.ports:
        yield "      fix: [stop, reset-failed, start]"
    elif exe and is_writable(exe) and not program.interpreter and PurePosixPath(exe).is_absolute():
        yield from ("      fix:", "        - stop")
        yield from _comment("Kills only this program, and never a process of another service.", 8)
        yield f"        - kill-orphan: {{expect: {{exe: {quote_in_list(exe)}}}}}"
        yield from ("        - reset-failed", "        - start")
    else:
        yield "      fix: [stop, kill-orphan, reset-failed, start]"


def _write_rollback(survey: Survey) -> Iterator[str]:
    package = survey.package
    if package is None:
        return
    yield ""
    why = package.no_rollback or _describe_data(survey)
    if why:
        yield from _comment(f"No `rollback: auto`: {clean(why)}.")
    else:
        yield from _comment(
            "If the checks fail, the previous version is installed again. Data and settings are kept as they are."
        )
        yield "rollback: auto"


_STORES = ("redis", "valkey", "postgres", "mariadbd", "mysqld", "mongod", "slapd", "prometheus", "influxd", "master")


def _describe_data(survey: Survey) -> str:
    """Return why an older program may be unable to read what the newer one has written; empty if nothing is known."""
    name = survey.program.name
    return f"{name} keeps data, which an older version may be unable to read" if name.startswith(_STORES) else ""
