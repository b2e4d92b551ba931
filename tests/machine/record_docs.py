"""Records the output in the pages, from real runs in throwaway machines.

`python -m tests.machine.record_docs [PAGE...]` records the given pages, or all of them.

Comments in a page, which readers do not see, name the source of its blocks. Each applies to the block below it.

    <!-- machine -->            from here on the page uses a new machine; `machine: incident` for one with the incident
                                staged, `machine: software` for one with the software of tests/machine/software,
                                `machine: needrestart` for one with needrestart
    <!-- staged: nginx.orphan --> call a function of a module in tests/machine/software with the machine
    <!-- file: /root/x.yaml --> write the block to this file
    <!-- run -->                run the block in a shell; it must succeed
    <!-- shown -->              run the commands of the block (`$ ...`), and write their output below them
    <!-- event: RUN EVENT ID -->  one event of a run with `--output json`; RUN is one of RUNS, each run once a machine,
                                or `record`: then it is one of those that are recorded at this moment
    <!-- demo: 3 -->            a part of the output of `make demo`: 1 to 4, or `end`
    <!-- tested: NAME -->       not for the recorder: the test with this name runs the commands (tests/test_docs.py)

`sudo` is removed, because commands run as root. `shown: USER` runs them as another user.

The machines run this checkout as it is at that moment, so do not edit src/ meanwhile.
"""

from __future__ import annotations

import contextlib
import importlib
import json
import re
import shlex
import subprocess
import sys
from functools import cached_property
from pathlib import Path
from typing import Any

from tests.docs import ROOT, pages
from tests.machine.demo import RUNBOOK, WIDTH
from tests.machine.incident import loop, stage
from tests.machine.machine import Machine

DIRECTIVE = re.compile(
    r"^<!-- (?P<word>machine|staged|file|run|shown|event|demo)(?:: (?P<argument>.*?))? -->\n"
    r"(?:(?P<open>```[^\n]+\n)(?P<body>.*?)(?P<close>^```$))?",
    re.MULTILINE | re.DOTALL,
)

RUNS = {
    "plan": ["runbook", "apply", "--dry-run", RUNBOOK],
    "apply": ["runbook", "apply", RUNBOOK],
    "locked": ["flock", "/run/runbook/system/gateway.service", "runbook", "apply", "--lock-wait", "1s", RUNBOOK],
    "check": ["runbook", "check", RUNBOOK],
    "resume": ["runbook", "resume", "--rerun", "update"],
    "history": ["runbook", "history"],
    "notified": ["runbook", "apply", "/root/notify.yaml"],
}

RECORDED = "cat /var/lib/runbook/runs/*/events.jsonl"


class Recorder:
    """Records pages, one after the other. The caller must close it."""

    def __init__(self) -> None:
        self._machines = contextlib.ExitStack()
        self._machine: Machine | None = None
        self._status = 0
        self._runs: dict[str, list[dict[str, Any]]] = {}

    def close(self) -> None:
        """Delete the machine."""
        self._machines.close()
        self._machine = None
        self._runs = {}

    def page(self, text: str) -> str:
        """Return the text of a page with its output recorded again."""
        self.close()
        return DIRECTIVE.sub(self._block, text)

    def _block(self, match: re.Match[str]) -> str:
        word, argument, body = match["word"], match["argument"] or "", match["body"]
        if word == "machine":
            self._boot(argument)
            return match[0]
        if word == "staged":
            module, _, function = argument.partition(".")
            getattr(importlib.import_module(f"tests.machine.software.{module}"), function)(self._at_hand)
            return match[0]
        assert body is not None, f"no block below {match[0].strip()}"
        if word == "file":
            self._at_hand.write(argument, body)
        elif word == "run":
            self._at_hand.run(["bash", "-ec", f"cd\n{body}"], timeout=120)
        else:
            new = {"shown": self._shown, "event": self._event, "demo": self._demo}[word](argument, body)
            head = match[0][: match.start("body") - match.start()]
            return f"{head}{new.rstrip()}\n{match['close']}"
        return match[0]

    @property
    def _at_hand(self) -> Machine:
        assert self._machine is not None, "the page has no <!-- machine --> above"
        return self._machine

    def _boot(self, state: str) -> None:
        self.close()
        chosen = Machine("bookworm", software=state == "software", needrestart=state == "needrestart")
        self._machine = self._machines.enter_context(chosen)
        if state == "incident":
            stage(self._machine)
            loop(self._machine)
            self._machine.write(RUNBOOK, Path(__file__).with_name("demo.yaml").read_text())

    def _shown(self, user: str, body: str) -> str:
        lines: list[str] = []
        for command in re.findall(r"^\$ (?:.*\\\n)*.*$", body, re.MULTILINE):
            typed = command.removeprefix("$ ").removeprefix("sudo ")
            # `echo $?` asks for the status of the command before it.
            script = f"cd; exec 2>&1; (exit {self._status}); {typed}"
            environment = {"COLUMNS": str(WIDTH)}
            done = self._at_hand.run(
                ["bash", "-c", script], check=False, timeout=150, env=environment, user=user or None
            )
            if "Traceback" in done.stdout:
                raise RuntimeError(f"{typed} went wrong:\n{done.stdout}")
            self._status = done.returncode
            lines += [command, *(line.rstrip() for line in done.stdout.rstrip().splitlines())]
        return "\n".join(lines)

    def _event(self, argument: str, _: str) -> str:
        run, event, *name = argument.split()
        for line in self._events(run):
            if line["event"] == event and (not name or line.get("id") == name[0]):
                return _pretty(line)
        printed = "\n".join(json.dumps(line) for line in self._events(run))
        raise LookupError(f"no {argument} among the events:\n{printed}")

    def _events(self, run: str) -> list[dict[str, Any]]:
        if run == "record":
            return [json.loads(line) for line in self._at_hand.run(["sh", "-c", RECORDED]).stdout.splitlines()]
        if run not in self._runs:
            argv = [*RUNS[run], "--output", "json"]
            printed = self._at_hand.run(argv, check=False, timeout=150).stdout
            self._runs[run] = [json.loads(line) for line in printed.splitlines()]
        return self._runs[run]

    def _demo(self, part: str, _: str) -> str:
        return self._demos[part]

    @cached_property
    def _demos(self) -> dict[str, str]:
        printed = subprocess.run(
            [sys.executable, "-m", "tests.machine.demo"], cwd=ROOT, capture_output=True, text=True, check=True
        ).stdout
        start, *sections = re.split(r"^\d\. .*\n", printed, flags=re.MULTILINE)
        *_, end = sections[-1].rpartition("\nProved:")
        sections[-1] = sections[-1].removesuffix(end).removesuffix("\nProved:")
        parts = {str(number): section.strip("\n") for number, section in enumerate(sections, 1)}
        return {"start": start.strip(), **parts, "end": f"Proved:{end}".strip()}


def _pretty(value: Any, indent: int = 0, before: int = 0) -> str:
    """Format JSON for readers: only a value that is too long for a line has line breaks."""
    flat = json.dumps(value)
    if not isinstance(value, (dict, list)) or len(flat) + indent + before <= WIDTH:
        return flat
    pad = " " * (indent + 2)
    if isinstance(value, list):
        inner = [pad + _pretty(item, indent + 2) for item in value]
    else:
        inner = [
            f"{pad}{json.dumps(key)}: {_pretty(item, indent + 2, len(json.dumps(key)) + 2)}"
            for key, item in value.items()
        ]
    ends = "[]" if isinstance(value, list) else "{}"
    return "\n".join([ends[0], ",\n".join(inner), " " * indent + ends[1]])


def main() -> int:
    """Record the given pages, or all of them."""
    chosen = [Path(name).resolve() for name in sys.argv[1:]] or pages()
    recorder = Recorder()
    with contextlib.closing(recorder):
        for path in chosen:
            text = path.read_text()
            if DIRECTIVE.search(text):
                print(shlex.quote(str(path.relative_to(ROOT))), flush=True)
                path.write_text(recorder.page(text))
    return 0


if __name__ == "__main__":
    sys.exit(main())
