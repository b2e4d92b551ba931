"""What a runbook is: the top of a file, and its steps."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, SkipValidation

from runbook.spec.fields import Environment, FormatNumber, PortList, PositiveSpan, TextField, TextList, UnitName
from runbook.spec.notification import Notification
from runbook.spec.step import FileModel, ReplacesVersion, RollbackRole, Step, StepList
from runbook.template.namespace import TemplateNamespace
from runbook.template.text import parse_expression


class Runbook(FileModel):
    """A whole runbook, checked. Its steps have their ids, units and ports filled in."""

    format: FormatNumber = Field(1, description="The format of the file: 1.")
    name: TextField = Field(
        "", description="Its title in reports; by default the file's name.", examples=["Upgrade the gateway"]
    )
    description: TextField = Field(
        "",
        description="What it is for. It may be long.",
        examples=["Replaces the package, and proves that the new version answers."],
    )
    unit: UnitName | None = Field(None, description="The unit of every step that names no other; `gw` is `gw.service`.")
    scope: Literal["system", "user"] = Field(
        "system", description="The systemd that runs the units: of the system, or of the user."
    )
    port: PortList = Field((), description="The port, or a list of ports, that the unit must own.")
    vars: Mapping[str, Any] = Field(
        default_factory=dict,
        description="Values for templates; `--set` overrides them.",
        examples=[{"version": "2026.5.12"}],
    )
    env: Environment = Field(default_factory=dict, description="Variables for the environment of every command.")
    secrets: TextList = Field(
        (),
        description="Names of environment variables whose values are masked everywhere.",
        examples=[["GATEWAY_TOKEN"]],
    )
    timeout: PositiveSpan | None = Field(None, description="How long all of `steps` may take.", examples=["30min"])
    steps: StepList = Field(
        ..., description="The steps, in order.", examples=[["restart", {"wait-ready": {"healthy-for": "30s"}}]]
    )
    rollback: Literal["off", "auto"] | StepList = Field(
        "off",
        description="After a failure: nothing, every update back to its earlier version, or these steps.",
        examples=["auto"],
    )
    always: StepList = Field(
        (),
        description="Steps that run last, whether the run failed or not.",
        examples=[[{"run": {"run": "rm -f /run/upgrade-in-progress"}}]],
    )
    notify: tuple[Notification, ...] = Field((), description="Who is notified of the end of the run, and how.")

    machine_notify: tuple[Notification, ...] = Field((), exclude=True)
    """Those of the machine, which apply to every run."""
    path: str = Field("", exclude=True)
    """The path of the file as the user wrote it; `-` for standard input."""
    folder: Path = Field(Path(), exclude=True)
    """The folder in which commands start."""
    text: str = Field("", exclude=True)
    """The text of the file."""
    lines: SkipValidation[Mapping[str, int]] = Field(default_factory=dict, exclude=True)
    """The line of each step in the file, by the id of the step; empty if it was not read from a file."""
    types: SkipValidation[Mapping[str, type[Step[Any]]]] = Field(default_factory=dict, exclude=True)
    """The step types, from which a rollback makes steps of its own."""
    namespace: TemplateNamespace = Field(default_factory=TemplateNamespace, exclude=True)
    """The values of the names in its templates, as far as they are known before the run."""

    @property
    def title(self) -> str:
        """The runbook's name for people."""
        return self.name or Path(self.path).name

    def walk(self) -> Iterator[Step[Any]]:
        """Yield every step of the file in order, each followed by the steps that it holds."""
        listed = self.rollback if isinstance(self.rollback, tuple) else ()
        for step in (*self.steps, *listed, *self.always):
            yield from step.walk()

    def keep_remediations(self) -> Runbook:
        """Return this runbook with its remediations alone; without any steps if there is none.

        A remediation that depends on a step which is not carried out does not wait for it.
        """
        kept = tuple(step for step in (*self.steps, *self.always) if step.remedy() is not None)
        inside = {one.step_id for step in kept for one in step.walk()}
        facts = {"status": "skipped", "changed": "false", "verdict": ""}
        left_out = {
            step.step_id: {**facts, **_known_version(step)} for step in self.walk() if step.step_id not in inside
        }
        steps = tuple(step.model_copy(update={"when": None}) if _depends_on(step, left_out) else step for step in kept)
        namespace = replace(self.namespace, left_out=left_out)
        return self.model_copy(update={"steps": steps, "always": (), "rollback": "off", "namespace": namespace})

    def type_for(self, role: RollbackRole) -> type[Step[Any]]:
        """Return the step type that a rollback uses for this."""
        return next(cls for cls in self.types.values() if cls.rollback_role is role)

    def unit_names(self) -> tuple[str, ...]:
        """Return the names of the units that it acts on or judges, as the file spells them, each once."""
        own = () if self.unit is None else (self.unit,)
        return tuple(dict.fromkeys((*own, *(name for step in self.walk() for name in step.units()))))


def _known_version(step: Step[Any]) -> dict[str, str]:
    return {"to": step.known_to} if isinstance(step, ReplacesVersion) and step.known_to else {}


def _depends_on(step: Step[Any], others: Iterable[str]) -> bool:
    """True if the `when` of a step uses a result of one of the other steps."""
    names = parse_expression(step.when).references if step.when is not None else ()
    return any(name.root == "steps" and ".".join(name.path[:-1]) in others for name in names)
