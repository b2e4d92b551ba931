"""What a step type is, what a runbook is, and how a step type is found.

A step type is a model whose fields are its YAML keys. It holds no state: whatever it must remember between two
looks lives in its `Memory`. The engine asks `check` again and again, calls `apply` when there is something to
do, and waits in between:

    check ──HOLDS────────► done (`changed` if apply ran, else `ok`)
      ▲  ├──TO_DO──► apply ──┐
      │  ├──NOT_YET─► wait ──┤   until the step's time-out
      │  ├──FAILS────► failed │
      └──┼────────────────────┘
         └──LEFT_ALONE─► the run ends `still-starting`

`apply` makes one move and never waits. It may be cut short and may run twice: `check` sees what is there.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    InstanceOf,
    SkipValidation,
    ValidationInfo,
    WithJsonSchema,
    field_validator,
)

from runbook.host.facts import Unit
from runbook.host.interface import Host, HostView
from runbook.model import Finding, Impact, Verdict, fails
from runbook.spec.fields import (
    Boolean,
    Environment,
    ExpressionField,
    FieldError,
    FormatNumber,
    Integer,
    Number,
    PortList,
    PositiveSpan,
    StepId,
    TextField,
    TextList,
    TimeSpan,
    UnitName,
)
from runbook.spec.state import RunState, StateT, StepState
from runbook.template import TemplateScope


def yaml_key(name: str) -> str:
    """Turn a field's name into its YAML key: `on_failure` into `on-failure`."""
    return name.replace("_", "-")


@dataclass(frozen=True)
class Remedy:
    """Steps that a step holds as data, for the engine to carry out: check, fix, check again."""

    checks: tuple[Step[Any], ...]
    fixes: tuple[Step[Any], ...]
    rounds: int


class FileModel(BaseModel):
    """A part of a runbook file: kebab-case keys, nothing unknown, nothing changed after it was read."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=yaml_key,
        populate_by_name=True,
        arbitrary_types_allowed=True,
        # Most runbooks use a few of the types: the others are not made ready, which saves a quarter of a `validate`.
        defer_build=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _not_empty(cls, value: object, info: ValidationInfo) -> object:
        # A key without a value is a line that somebody did not finish. In Python, None may stand for itself.
        if info.context is not None and (value is None or value == []):
            required = info.field_name is not None and cls.model_fields[info.field_name].is_required()
            remedy = "give it a value" if required else "give it a value or leave it out"
            raise FieldError(f"is empty; {remedy}" if value is None else f"is an empty list; {remedy}")
        return value


class Step(FileModel, Generic[StateT]):
    """The contract of a step type, and the fields that every step has."""

    if not TYPE_CHECKING:

        def __class_getitem__(cls, state_type: object) -> type:
            """Return the class itself: the state type is for the type checker; pydantic would make another model."""
            return cls

    kind: ClassVar[str] = ""
    """Its name in YAML; the file's name with dashes."""
    impact: ClassVar[Impact] = Impact.MUTATING
    """What it does to the machine at most."""
    required: ClassVar[tuple[str, ...]] = ()
    """Fields (`unit`, `port`) that must stand here or at the top of the file."""
    inherited: ClassVar[tuple[str, ...]] = ()
    """Fields (`unit`, `port`) that are filled from the top of the file where the step is silent."""
    state_type: ClassVar[type[StepState]] = StepState
    """The class of its memory."""
    failure_verdict: ClassVar[Verdict] = Verdict.TIMED_OUT
    """The verdict where the machine refuses in a way that says no more."""
    may_create_units: ClassVar[bool] = False
    """Whether it may bring a unit into being, as a command may."""
    template_vars: ClassVar[tuple[str, ...]] = ()
    """Names beyond those of the runbook that its own templates may use: `to` and `from` of an update."""
    always_acts: ClassVar[bool] = False
    """Whether it will act whatever the steps before it do: a plan can then promise it."""

    id: StepId | None = Field(None, description="What templates and messages call it; by default its type.")
    name: TextField | None = Field(None, description="What people read instead of the type.")
    when: ExpressionField | None = Field(None, description="An expression; the step is skipped where it is false.")
    retries: Integer = Field(0, description="Extra tries after a failed one.")
    delay: TimeSpan = Field(1.0, description="The pause before the first extra try.")
    backoff: Number = Field(1.0, ge=1, description="What the pause is multiplied by from try to try.")
    max_delay: TimeSpan = Field(60.0, description="What the pause never exceeds.")
    timeout: PositiveSpan | None = Field(None, description="How long one try may take.")
    on_failure: Literal["abort", "continue"] = Field("abort", description="Whether the run ends when it fails.")
    secret: Boolean = Field(False, description="Keep its output out of every report and file.")

    def new_state(self, run: RunState) -> StateT:
        """Make the memory of a new try."""
        return self.state_type(run, self.id or self.kind)  # type: ignore[return-value]

    def check(self, view: HostView, state: StateT) -> Finding:
        """Say where this step stands, by looking only."""
        raise NotImplementedError

    def check_once(self, view: HostView, state: StateT) -> Finding:
        """Say how it looks at this moment, for a dry run and `runbook check`: no window, no patience."""
        return self.check(view, state)

    def apply(self, host: Host, state: StateT) -> None:
        """Make the move that `check` called TO_DO. Raises HostError when the machine refuses."""
        raise NotImplementedError

    def time_limit(self, view: HostView) -> float:
        """Give how long one try may take, in seconds."""
        assert self.timeout is not None, f"{self.kind} has no default time-out"
        return self.timeout

    def judge_timeout(self, view: HostView, state: StateT, last: Finding) -> Finding:
        """Say what it means that the time is over, given what was last seen."""
        return fails(Verdict.TIMED_OUT, f"not finished in time: {last.reason}", **last.evidence)

    def resume(self, view: HostView, state: StateT, *, stopped: bool) -> str:
        """Go on with a try that was cut short after it had begun to act, of which `memory` is what is left.

        `stopped`: not by a sudden death; what it had started was stopped, as far as it had not ended. Say what cannot
        be known, so that the operator must decide; mostly nothing: `check` sees what is there.
        """
        return ""

    def undo(self, evidence: Mapping[str, Any]) -> Step[Any] | None:
        """Give the step that undoes this one, which ended with this evidence; None where there is nothing to undo."""
        return None

    def cancel(self, host: Host, state: StateT) -> None:
        """Stop what a try had started, after a time-out or an interruption. May be called at any moment."""

    def predict(self, unit: Unit) -> Unit:
        """Say what its unit will be once it is done, as far as that is sure: for the plan of the steps after it."""
        return unit

    def known_facts(self) -> Mapping[str, str]:
        """Give what templates may ask of it and is sure before it has run: for a plan."""
        return {}

    def remedy(self) -> Remedy | None:
        """Give the steps it holds, if it is one that holds steps."""
        return None

    def effective_impact(self) -> Impact:
        """What this very step does to the machine, its fields considered."""
        return self.impact

    def validate_in(self, runbook: Runbook) -> Iterable[tuple[str, str]]:
        """Say why it does not fit into this runbook, if it does not: pairs of a key of its own and a sentence."""
        return ()

    def units(self) -> tuple[str, ...]:
        """The units it acts on or judges."""
        unit = getattr(self, "unit", None)
        return (unit,) if isinstance(unit, str) else ()

    @property
    def title(self) -> str:
        """What a person calls it."""
        return self.name or self.kind

    def walk(self) -> Iterator[Step[Any]]:
        """Give it and every step that it holds."""
        yield self
        if remedy := self.remedy():
            for nested in (*remedy.checks, *remedy.fixes):
                yield from nested.walk()


@dataclass(frozen=True)
class Nested:
    """Marks a field that holds steps. `reading`: only such as change nothing."""

    read_only: bool = False


STEPS_TITLE = "list of steps"
_STEPS = WithJsonSchema({"title": STEPS_TITLE, "type": "array", "minItems": 1})
StepList = Annotated[tuple[InstanceOf[Step[Any]], ...], Nested(), _STEPS]
"""Steps, in order. The document makes each of them by itself and hands them over."""
ReadOnlyStepList = Annotated[tuple[InstanceOf[Step[Any]], ...], Nested(read_only=True), _STEPS]
"""Steps that merely read."""


class Runbook(FileModel):
    """A whole file, checked. Its steps have their ids, units and ports filled in."""

    format: FormatNumber = Field(1, description="The format of the file: 1.")
    name: TextField = Field("", description="What people read as the title; the file's name by default.")
    description: TextField = Field("", description="What it is for, in as many words as it takes.")
    unit: UnitName | None = Field(
        None, description="What the steps act on, unless a step names another; `gw` is `gw.service`."
    )
    scope: Literal["system", "user"] = Field("system", description="Whose manager: the system's, or the user's own.")
    port: PortList = Field((), description="The port, or a list of ports, that the unit must own.")
    vars: Mapping[str, Any] = Field(default_factory=dict, description="Values for templates; `--set` overrides them.")
    env: Environment = Field(default_factory=dict, description="What is added to the environment of every command.")
    secrets: TextList = Field((), description="Names of environment variables whose values are masked everywhere.")
    timeout: PositiveSpan | None = Field(None, description="How long all of `steps` may take.")
    steps: StepList = Field(..., description="What is done, in order.")
    rollback: Literal["off", "auto"] | StepList = Field(
        "off",
        description="After a failure: nothing, every update back to its earlier version, or these steps.",
    )
    always: StepList = Field((), description="Steps that run last, whether the run failed or not.")

    path: str = Field("", exclude=True)
    """The file as it was named, for messages; `-` for standard input."""
    folder: Path = Field(Path(), exclude=True)
    """Where commands start."""
    text: str = Field("", exclude=True)
    """The file as it was read."""
    types: SkipValidation[Mapping[str, type[Step[Any]]]] = Field(default_factory=dict, exclude=True)
    """The step types, for the engine: it makes steps of its own for a roll back."""
    namespace: TemplateScope = Field(default_factory=TemplateScope, exclude=True)
    """What the names in its templates stand for, as far as the file itself tells."""

    @property
    def title(self) -> str:
        """What a person calls it."""
        return self.name or Path(self.path).name

    def walk(self) -> Iterator[Step[Any]]:
        """Give every step of the file, nested ones too, in order."""
        listed = self.rollback if isinstance(self.rollback, tuple) else ()
        for step in (*self.steps, *listed, *self.always):
            yield from step.walk()

    def unit_names(self) -> tuple[str, ...]:
        """Name the units that it acts on or judges, as they are spelled, each once."""
        own = () if self.unit is None else (self.unit,)
        return tuple(dict.fromkeys((*own, *(name for step in self.walk() for name in step.units()))))
