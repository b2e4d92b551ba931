"""Writes the runbook that `runbook restart` is: the restart, the proof after it, and with `--fix` what fixes it."""

from __future__ import annotations

import shlex
from collections.abc import Callable, Collection, Sequence
from pathlib import Path

from runbook.document import parse
from runbook.document.quoting import quote, quote_port
from runbook.document.restart_ports import DemandedPorts, find_demanded_ports
from runbook.host.facts import Unit
from runbook.host.interface import HostView
from runbook.model import Port, frozen
from runbook.spec.runbook import Runbook
from runbook.util.timespan import parse_span

HEALTHY_FOR = "5s"  # for how long the unit must be healthy, if the command line does not name a span
PROOF_TIMEOUT = 120.0  # seconds for the unit to become healthy; to these `healthy-for` is added if it is long


@frozen
class RestartOptions:
    """What the command line asks for."""

    unit: str  # by its full name
    ports: tuple[Port, ...] = ()  # that must be owned afterwards; without any, they are found
    healthy_for: str = HEALTHY_FOR  # the span for which it must be healthy without interruption, as it was typed
    fix: bool = False  # True if a failed proof is to be fixed
    reload: bool = False  # True for a reload instead of a restart
    user: bool = False  # True for a unit of the user's manager

    def write_command(self) -> str:
        """Return this command, without the word `runbook`. It stands for the file's name in reports and the record."""
        return shlex.join(self.write_words())

    def write_words(self) -> list[str]:
        """Return the words of the command. The first is the name of the command, the last one the unit."""
        flags = {"--user": self.user, "--fix": self.fix, "--reload": self.reload}
        named = [word for port in self.ports for word in ("--port", str(port))]
        span = ["--healthy-for", self.healthy_for] if self.healthy_for != HEALTHY_FOR else []
        return ["restart", *(flag for flag in flags if flags[flag]), *named, *span, self.unit]


@frozen
class RestartRunbook:
    """A runbook that was written, and what to report about it."""

    book: Runbook
    notices: tuple[str, ...]


def write_restart(
    view: HostView, options: RestartOptions, recorded: Callable[[str], Collection[Port]]
) -> RestartRunbook:
    """Return the runbook of a restart, from what is found of the unit now.

    `recorded` returns the ports on which earlier runs found a unit listening. Raises HostError.
    """
    unit = view.unit(options.unit)
    demanded = find_demanded_ports(view, unit, options.ports, lambda: recorded(unit.name))
    text = write_text(options, unit, demanded)
    book = parse(text, options.write_command(), folder=Path("/"))
    # There is no file in which its steps have lines.
    return RestartRunbook(book.model_copy(update={"lines": {}}), tuple(demanded.notices))


def write_text(options: RestartOptions, unit: Unit, demanded: DemandedPorts) -> str:
    """Return the text of the runbook, as `runbook apply` reads it."""
    job = "reload" if options.reload else "restart"
    lines = [f"name: {quote(f'{job} {options.unit}')}", f"unit: {quote(options.unit)}"]
    lines += ["scope: user"] if options.user else []
    if demanded.ports:
        lines += ["port:", *(f"  - {quote_port(port)}" for port in demanded.ports)]
    lines += ["", "steps:", f"  - {job}"]
    # A oneshot is down once its work is done: only the result of its job can be proved.
    if unit.type == "oneshot" and not unit.remain_after_exit:
        return "\n".join([*lines, ""])
    proof = _write_proof(options, demanded)
    if not options.fix:
        return "\n".join([*lines, *(f"  - {step}" for step in proof), ""])
    fixes = ["stop", *(["kill-orphan"] if demanded.ports else []), "reset-failed", "start"]
    lines += ["  - remediate:", "      check:", *(f"        - {step}" for step in proof)]
    return "\n".join([*lines, f"      fix: [{', '.join(fixes)}]", ""])


def _write_proof(options: RestartOptions, demanded: DemandedPorts) -> Sequence[str]:
    seconds = parse_span(options.healthy_for)
    timeout = f", timeout: {seconds + PROOF_TIMEOUT:.0f}s" if seconds > PROOF_TIMEOUT / 2 else ""
    ready = f"wait-ready: {{healthy-for: {options.healthy_for}{timeout}}}"
    return [ready, *(["verify-port-owner"] if demanded.ports else [])]
