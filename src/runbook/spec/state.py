"""What a run and its steps remember, from one look to the next; and what of that lasts beyond the program's end."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar, Self, TypeVar

from pydantic import TypeAdapter

from runbook.host.queries import Command
from runbook.model import ProcessId

PERSISTED_FIELDS = ("baseline_restarts", "invocations", "first_starts", "cleared")
"""What of a run's state lasts beyond the program's end."""


@dataclass
class RunState:
    """What all steps of a run share.

    `outputs` is the folder that takes what commands print; None in a dry run, where no command is started.
    `starts` remembers each unit that the run started: what NRestarts counts from; and `invocations` the invocation
    that began then. `first_starts` is when the run first asked for a start of a unit, `cleared` when it last cleared
    its start limit, in seconds since the epoch. `ended_below` remembers from whom the processes descended that the run
    ended: the name of one, and when (in seconds of CLOCK_BOOTTIME).
    """

    id: str
    folder: Path
    env: Mapping[str, str] = field(default_factory=dict)
    outputs: Path | None = None
    baseline_restarts: dict[str, int] = field(default_factory=dict)
    invocations: dict[str, str] = field(default_factory=dict)
    first_starts: dict[str, float] = field(default_factory=dict)
    cleared: dict[str, float] = field(default_factory=dict)
    ancestors_of_killed: dict[ProcessId, tuple[str, float]] = field(default_factory=dict)
    query_count: int = 0

    def dump(self) -> dict[str, dict[str, Any]]:
        """Give what of it goes into the record, for whoever goes on with the run."""
        return {name: dict(getattr(self, name)) for name in PERSISTED_FIELDS if getattr(self, name)}

    def load(self, kept: Mapping[str, Mapping[str, Any]]) -> None:
        """Know what an earlier part of the run knew."""
        for name in PERSISTED_FIELDS:
            getattr(self, name).update(kept.get(name, {}))

    def next_query_id(self) -> int:
        """Give a number that makes a question another one than all those before it."""
        self.query_count += 1
        return self.query_count

    def make_command(
        self,
        run: str | tuple[str, ...],
        *,
        timeout: float,
        user: str = "",
        cwd: str = "",
        env: Mapping[str, str] | None = None,
        output: str = "",
        kept: bool = True,
        token: str = "",
    ) -> Command:
        """Make a command of a step's field: a string is a script for `/bin/sh -e`, a tuple is argv.

        A relative `cwd` counts from the runbook's folder, which is also the default. `output` is a file name; of a
        command that is not `kept`, only how it ended is.
        """
        argv = ("/bin/sh", "-e", "-c", run) if isinstance(run, str) else run
        merged = {**self.env, **(env or {})}
        return Command(argv, user, str(self.folder / cwd), merged, timeout, self.output_path(output), kept, token)

    def output_path(self, name: str) -> str:
        """Give the file that takes what a command prints; none in a dry run."""
        return str(self.outputs / name) if self.outputs and name else ""


@dataclass
class StepState:
    """What a step remembers from one look to the next. A step type adds fields.

    A memory that is `lasting` goes into the record, so that a step which was cut short can be gone on with: its fields
    are then of what JSON can hold. One that is not is made anew, and the step looks again at what is there.
    """

    persistent: ClassVar[bool] = False

    run: RunState
    id: str = ""

    def dump(self) -> dict[str, Any]:
        """Give it as the record keeps it."""
        kept: dict[str, Any] = TypeAdapter(type(self)).dump_python(self, mode="json", exclude={"run", "id"})
        return kept

    @classmethod
    def load(cls, run: RunState, id_: str, kept: Mapping[str, Any]) -> Self:
        """Make it of what the record kept. Raises ValueError where that is of another version of this program."""
        return TypeAdapter(cls).validate_python({**kept, "run": run, "id": id_})


StateT = TypeVar("StateT", bound=StepState)
