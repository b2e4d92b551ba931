"""The state of a run and of its steps between two checks, and the part of it that is recorded for `resume`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Self, TypeVar

from runbook.model import Port, ProcessId

if TYPE_CHECKING:
    from runbook.host.queries import Command

# What `resume` restores, besides the ancestors of killed processes.
PERSISTED_FIELDS = ("baseline_restarts", "invocations", "first_starts", "cleared")


@dataclass
class RunState:
    """The state that all steps of a run share. The dictionaries have the names of units as keys, unless stated."""

    id: str  # the id of the run
    folder: Path  # the folder in which commands start
    env: Mapping[str, str] = field(default_factory=dict)  # the runbook's `env`, which every command gets
    outputs: Path | None = None  # where the output of commands goes; None in a dry run, which starts none in a unit
    ports: Mapping[str, tuple[Port, ...]] = field(default_factory=dict)
    """The ports that a unit must own alone once it runs, by the unit's name in the runbook."""
    baseline_restarts: dict[str, int] = field(default_factory=dict)
    """NRestarts of each unit that the run started, right after the start: automatic restarts count from it."""
    invocations: dict[str, str] = field(default_factory=dict)  # the InvocationID since the run's last start of it
    first_starts: dict[str, float] = field(default_factory=dict)  # epoch seconds of the first request to start it
    cleared: dict[str, float] = field(default_factory=dict)  # epoch seconds at which its start limit was last cleared
    ancestors_of_killed: dict[ProcessId, tuple[str, float]] = field(default_factory=dict)
    """Maps each ancestor of a killed process to that process's name and kill time, in seconds of CLOCK_BOOTTIME."""
    boot: str = ""  # the ID of the boot: processes of another boot do not count
    query_count: int = 0  # the number of queries so far

    def dump(self) -> dict[str, dict[str, Any]]:
        """Return the part that is recorded, for `resume`."""
        data = {name: dict(getattr(self, name)) for name in PERSISTED_FIELDS if getattr(self, name)}
        ancestors = {
            f"{self.boot} {id_.pid} {id_.start}": [*killed] for id_, killed in self.ancestors_of_killed.items()
        }
        return {**data, "ancestors_of_killed": ancestors} if ancestors else data

    def load(self, recorded: Mapping[str, Mapping[str, Any]]) -> None:
        """Add what an earlier part of the run recorded."""
        for name in PERSISTED_FIELDS:
            getattr(self, name).update(recorded.get(name, {}))
        for key, (killed, when) in recorded.get("ancestors_of_killed", {}).items():
            boot, pid, start = key.rsplit(" ", 2)
            if boot == self.boot:
                self.ancestors_of_killed[ProcessId(int(pid), int(start))] = (killed, when)

    def ports_of(self, *names: str) -> tuple[Port, ...]:
        """Return the ports that a unit must own, by any of its names."""
        return tuple(dict.fromkeys(port for name in names for port in self.ports.get(name, ())))

    def next_query_id(self) -> int:
        """Return a new number: a query with the same content and another number is sent again."""
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
        """Make a command from a step's field: a string is a script for `/bin/sh -e`, a tuple is argv.

        A relative `cwd` is relative to the runbook's folder, which is also the default. `output` is a file name. If not
        `kept`, the output is discarded and only the exit status is recorded.
        """
        from runbook.host.queries import Command  # noqa: PLC0415 - `runbook validate` runs no command.

        argv = ("/bin/sh", "-e", "-c", run) if isinstance(run, str) else run
        merged = {**self.env, **(env or {})}
        return Command(argv, user, str(self.folder / cwd), merged, timeout, self.output_path(output), kept, token)

    def output_path(self, name: str) -> str:
        """Return the path of the file for a command's output; empty in a dry run."""
        return str(self.outputs / name) if self.outputs and name else ""


@dataclass
class StepState:
    """The state of one attempt of a step, kept from one check to the next. A step type derives a class with its fields.

    If it is not persistent, a resumed attempt begins with a new state, and `check` finds out what is there.
    """

    persistent: ClassVar[bool] = False  # True if it is recorded, for `resume`; JSON must be able to hold its fields

    run: RunState  # the state that all steps share
    id: str = ""  # the id of the step

    def dump(self) -> dict[str, Any]:
        """Return it as the record holds it."""
        from pydantic import TypeAdapter  # noqa: PLC0415 - `runbook doctor` needs the state of a run, and no pydantic.

        data: dict[str, Any] = TypeAdapter(type(self)).dump_python(self, mode="json", exclude={"run", "id"})
        return data

    @classmethod
    def load(cls, run: RunState, id_: str, recorded: Mapping[str, Any]) -> Self:
        """Make it from the record. Raises ValueError if another version of this program wrote that differently."""
        from pydantic import TypeAdapter  # noqa: PLC0415

        return TypeAdapter(cls).validate_python({**recorded, "run": run, "id": id_})


StateT = TypeVar("StateT", bound=StepState)
