"""What a step type is.

A step type is a model whose fields are its YAML keys. It has no state of its own: what an attempt must remember
from one check to the next is in its `StepState`. The engine calls `check` again and again, calls `apply` when there
is something to do, and waits in between:

    check ──HOLDS──────────► done (`changed` if apply ran, else `ok`)
      ▲  ├──TO_DO──► apply ──┐
      │  ├──NOT_YET─► wait ──┤   until the step's time-out
      └──┼───────────────────┘
         ├──FAILS───► failed
         └──STILL_STARTING─► the run ends `still-starting`

`apply` makes one change and never waits. It may be interrupted and may run twice: `check` finds out what is there.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from enum import Enum, auto
from types import GenericAlias
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, NamedTuple, TypeGuard, get_args

from pydantic import BaseModel, ConfigDict, Field, InstanceOf, ValidationInfo, field_validator

from runbook.host.facts import JobVerb, Unit
from runbook.host.interface import Host, HostView
from runbook.model import Finding, Verdict, fails
from runbook.spec.fields import (
    Boolean,
    ExpressionField,
    Integer,
    Number,
    PositiveSpan,
    StepId,
    TextField,
    TimeSpan,
    Version,
    shown_as,
)
from runbook.spec.readers import FieldError
from runbook.spec.state import RunState, StateT, StepState
from runbook.template.namespace import VERSIONS
from runbook.template.text import Template

if TYPE_CHECKING:
    from runbook.spec.runbook import Runbook

INHERITED_FIELDS = ("unit", "port")  # taken from the top of the file if a step leaves them out


class Remedy(NamedTuple):
    """The steps that a step holds, for the engine to carry out: check, fix, check again, at most `rounds` times."""

    checks: tuple[Step[Any], ...]
    fixes: tuple[Step[Any], ...]
    rounds: int


class FileModel(BaseModel):
    """A mapping of a runbook file: its keys are kebab-case, unknown keys are errors, and it is immutable."""

    model_config = ConfigDict(
        extra="forbid",
        frozen=True,
        alias_generator=lambda name: name.replace("_", "-"),
        populate_by_name=True,
        arbitrary_types_allowed=True,
        # Most runbooks use a few step types. The others are not built, which saves a quarter of a `validate`.
        defer_build=True,
    )

    @field_validator("*", mode="before")
    @classmethod
    def _not_empty(cls, value: object, info: ValidationInfo) -> object:
        # A key without a value is an unfinished line. Code that builds a step may pass None.
        if info.context is not None and (value is None or value == []):
            advice = "give it a value" if must_be_written(cls, info.field_name) else "give it a value or leave it out"
            raise FieldError(f"is empty; {advice}" if value is None else f"is an empty list; {advice}")
        return value


def must_be_written(model: type[BaseModel], name: str | None) -> bool:
    """True if a mapping of the file must have this field: it has no default, and the top of the file cannot fill it."""
    inherited = issubclass(model, Step) and name in INHERITED_FIELDS
    return name is not None and not inherited and model.model_fields[name].is_required()


class RollbackRole(Enum):
    """What `rollback: auto` uses a step type for."""

    CLEAR_LIMIT = auto()  # clears the start limit of `unit`
    STOP = auto()  # stops `unit`
    START = auto()  # starts `unit`. A unit that the runbook starts is restarted by a rollback
    RESTART = auto()  # restarts `unit`, which counts as a start too
    RELOAD = auto()  # reloads `unit`. A unit that the run reloaded is restarted by a rollback
    PROVE_HEALTH = auto()  # proves that `unit` is healthy and owns `port`; a rollback adds one if there is no proof
    PROVE_OWNER = auto()  # proves that `unit` owns `port`
    PROVE_VERSION = auto()  # proves that the version in `expect` serves


def _is_state_type(value: object) -> TypeGuard[type[StepState]]:
    return isinstance(value, type) and issubclass(value, StepState)


class Step(FileModel, Generic[StateT]):
    """The base class of every step type, and the fields that every step has.

    A step type `Freeze` is the class of that name in `steps/freeze.py`; in YAML it is `freeze`.

    | every step type defines | |
    |---|---|
    | its fields | A field `unit` or `port` is filled from the top of the file; without a default it is required. |
    | `check` | Where the step stands. |

    | it may define | when |
    |---|---|
    | `apply` | It changes something. A type without `apply` only reads, and may stand in a `remediate`'s `check`. |
    | a class derived from `StepState`, in `Step[…]` | It must remember something from one check to the next. |
    | `failure_verdict` | A refusal needs another verdict than `job-failed`. |
    | `time_limit`, `judge_timeout` | The limit depends on the machine; the end of it means more than `timed-out`. |
    | `resume`, `cancel` | What `apply` starts outlives the call, such as a job or a command. |
    | `validate_in` | It does not fit into every runbook. |
    | `only_reads`, `units` | What it changes, or which units it concerns, depends on its fields. |
    | `check_once` | Its `check` waits for something: a plan and `runbook check` look only once. |
    | `predict` | Its `apply` changes facts of the unit on which the plan of a later step depends. |
    | `always_acts` | It acts whatever it finds, so that a plan can promise that. |
    | `may_create_units` | Units may exist after it that did not exist before, so no plan can judge the later steps. |
    | `remedy` | It holds other steps. |
    | `rollback_role`; `ReplacesVersion` as a base | A rollback uses it; a rollback undoes it. |
    """

    if not TYPE_CHECKING:

        def __class_getitem__(cls, state_type: object) -> object:
            """Return the class, or an alias that names its class of states: pydantic would make another model."""
            return GenericAlias(cls, (state_type,)) if _is_state_type(state_type) else cls

    type_name: ClassVar[str] = ""  # the type's name in YAML, derived from the name of the class
    state_type: ClassVar[type[StepState]] = StepState  # the class of its state, derived from `Step[…]`
    failure_verdict: ClassVar[Verdict] = Verdict.JOB_FAILED  # if the machine refuses, and no other verdict is right
    always_acts: ClassVar[bool] = False  # True if it acts whatever earlier steps did, so that a plan can promise it
    remediable: ClassVar[bool] = False  # a `remediate` right after it finds the cause of its failure
    may_create_units: ClassVar[bool] = False  # True if units may exist afterwards that did not exist before
    rollback_role: ClassVar[RollbackRole | None] = None  # what `rollback: auto` uses it for

    id: StepId | None = Field(None, description="Its name in templates and messages; by default its type.")
    name: TextField | None = Field(
        None, description="Its title in reports; by default its type.", examples=["Wait until the gateway answers"]
    )
    when: ExpressionField | None = Field(None, description="An expression; the step is skipped where it is false.")
    retries: Integer = Field(0, description="Extra tries after a failed one.")
    delay: TimeSpan = Field(1.0, description="The pause before the first extra try.")
    backoff: Number = Field(1.0, ge=1, description="The factor by which the pause grows after each try.")
    max_delay: TimeSpan = Field(60.0, description="The longest pause.")
    timeout: PositiveSpan | None = Field(30.0, description="How long one try may take.")
    on_failure: Literal["abort", "continue"] = Field(
        "abort", description="If it fails: `abort` ends the run, `continue` does not."
    )
    secret: Boolean = Field(False, description="Keep its output out of every report and file.")

    @classmethod
    def __pydantic_init_subclass__(cls, **options: Any) -> None:
        """Derive `type_name` and `state_type` from `class WaitReady(Step[WaitReadyState])`."""
        super().__pydantic_init_subclass__(**options)
        cls.type_name = re.sub(r"(?<=[a-z])(?=[A-Z])", "-", cls.__name__).lower()
        for base in cls.__dict__.get("__orig_bases__", ()):
            cls.state_type = next(filter(_is_state_type, get_args(base)), cls.state_type)

    # What a step type defines

    def check(self, view: HostView, state: StateT) -> Finding:
        """Return where this step stands. It only reads."""
        raise NotImplementedError

    def apply(self, host: Host, state: StateT) -> None:
        """Make the change that `check` called TO_DO. Raises HostError if the machine refuses."""
        raise NotImplementedError

    def time_limit(self, view: HostView) -> float:
        """Return how long one attempt may take, in seconds."""
        assert self.timeout is not None, f"{self.type_name} has no default time-out"
        return self.timeout

    def judge_timeout(self, view: HostView, state: StateT, last: Finding) -> Finding:
        """Return the finding for the end of the time limit; `last` is the last one of `check`."""
        return fails(Verdict.TIMED_OUT, f"not finished in time: {last.reason}", **last.evidence)

    def resume(self, view: HostView, state: StateT, *, stopped: bool) -> str:
        """Prepare `state` for an attempt that continues one which was interrupted after `apply`.

        If `stopped`, the interruption was orderly, and `cancel` was called. Returns what the operator must decide
        because it cannot be found out; mostly nothing, because `check` finds out what is there.
        """
        return ""

    def cancel(self, host: Host, state: StateT) -> None:
        """Stop what this attempt started, after a time-out or an interruption. May be called at any moment."""

    def validate_in(self, runbook: Runbook) -> Iterable[tuple[str, str]]:
        """Return what is wrong with it in this runbook: pairs of one of its keys and a sentence."""
        return ()

    def only_reads(self) -> bool:
        """True if this step changes nothing. By default the type decides: it has no `apply`."""
        return not self.can_change()

    def units(self) -> tuple[str, ...]:
        """Return the units it acts on or judges."""
        unit = getattr(self, "unit", None)
        return (unit,) if isinstance(unit, str) else ()

    def command_text(self) -> str:
        """Return its command as the file has it; empty if it has none."""
        return ""

    def job_verb(self) -> JobVerb | None:
        """Return what it requests systemd to do with its unit; None if it requests nothing."""
        return None

    def check_once(self, view: HostView, state: StateT) -> Finding:
        """Return where it stands at this moment, for a plan and for `runbook check`, which do not wait."""
        return self.check(view, state)

    def predict(self, unit: Unit) -> Unit:
        """Return its unit as it will be afterwards, as far as that is certain, for the plan of later steps."""
        return unit

    def remedy(self) -> Remedy | None:
        """Return the steps it holds, or None if it holds none."""
        return None

    # What the engine uses

    def new_state(self, run: RunState, saved: Mapping[str, Any] | None = None) -> StateT:
        """Return the state of a new attempt, or that of an interrupted one, which the record has `saved`."""
        name = self.step_id
        state_type: type[StateT] = self.state_type  # type: ignore[assignment]  # A class variable cannot have StateT.
        return state_type(run, name) if saved is None else state_type.load(run, name, saved)

    @classmethod
    def can_change(cls) -> bool:
        """True if a step of this type can change something: the type has `apply`, or holds steps."""
        return cls.apply is not Step.apply or cls.remedy is not Step.remedy

    @property
    def step_id(self) -> str:
        """Its id. The document gives each step one; a step that code builds without one has that of its type."""
        return self.id or self.type_name

    @property
    def title(self) -> str:
        """The step's name for people."""
        return self.name or self.type_name

    def walk(self) -> Iterator[Step[Any]]:
        """Yield the step and every step that it holds."""
        yield self
        if remedy := self.remedy():
            for nested in (*remedy.checks, *remedy.fixes):
                yield from nested.walk()


DOWNGRADE = "downgrade"  # the key in the evidence of an update to a lower version


class ReplacesVersion(Step[StateT]):
    """A base of a step type that replaces an installed version by `to`, and can be undone.

    Its templates may use `to` and `from`, and those of later steps `steps.ID.to` and `steps.ID.from`. The evidence of
    its TO_DO and of its end contains both; if `to` is lower and that is refused, its FAILS contains DOWNGRADE.
    """

    template_vars: ClassVar[tuple[str, ...]] = VERSIONS  # names that only its own templates may use

    to: Version = Field(description="The version that is wanted: a version, not a tag.")
    downgrade: Boolean = Field(
        False, description="Permit a lower version than the installed one. A version that `--set` gives is permitted."
    )

    @property
    def known_to(self) -> str:
        """The version `to`, or an empty text if a template in it is not filled in yet."""
        return "" if isinstance(self.to, Template) else self.to

    def describe_query(self) -> str:
        """Return the command that prints the installed version, as messages call it."""
        raise NotImplementedError

    def undo(self, evidence: Mapping[str, Any]) -> Step[Any] | None:
        """Return the step that undoes this one, which ended with this evidence; None if there is nothing to undo."""
        raise NotImplementedError


class Nested(NamedTuple):
    """Marks a field that holds steps; if `read_only`, only steps that change nothing."""

    read_only: bool = False


STEPS_TITLE = "list of steps"
_STEPS = shown_as(STEPS_TITLE, type="array", minItems=1)
StepList = Annotated[tuple[InstanceOf[Step[Any]], ...], Nested(), _STEPS]
"""Steps, in order. The document reads each of them separately and passes the finished steps."""
ReadOnlyStepList = Annotated[tuple[InstanceOf[Step[Any]], ...], Nested(read_only=True), _STEPS]
