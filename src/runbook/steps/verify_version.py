"""`verify-version`: proves that the new version is served, not only installed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Annotated, ClassVar

from pydantic import AfterValidator, Field, model_validator

from runbook.checks.health import HealthChecker
from runbook.checks.prober import ANSWER_POLL, describe_foreign_answer, judge_extra_port, port_covers
from runbook.checks.probes import HttpFields, ProbeRound
from runbook.checks.served_version import Evidence, await_answer, judge_answer, judge_code_age
from runbook.checks.versions import VERSION
from runbook.host.holders import PortOwnership
from runbook.host.interface import HostView
from runbook.host.queries import Query
from runbook.model import Finding, FindingState, Port, Verdict, Wake, fails, holds, not_yet
from runbook.spec.fields import (
    CommandField,
    Environment,
    FolderField,
    Pattern,
    PortList,
    PositiveSpan,
    TextList,
    UnitName,
    UserField,
    Version,
)
from runbook.spec.state import StepState
from runbook.spec.step import RollbackRole, Step
from runbook.template.text import OPEN, Template
from runbook.util.wording import brief_command

UNLIMITED_RESTARTS = 2**31  # this step does not judge restarts


def _absolute(paths: tuple[str, ...]) -> tuple[str, ...]:
    for path in paths:
        if not path.startswith(("/", OPEN)):
            raise ValueError(f"`{path}` in `newer-than` must be an absolute path; write /opt/app or /opt/app/*.js")
    return paths


Paths = Annotated[TextList, AfterValidator(_absolute)]


@dataclass
class VerifyVersionState(StepState):
    """The query that is under way."""

    query_id: int = 0
    round: ProbeRound = field(default_factory=ProbeRound)  # the invocation and the sockets that were asked
    reached_port: Port | None = None  # the port of this machine that was reached, if it is none of the step's

    def start_round(self, seen: ProbeRound) -> None:
        """Ask again if the invocation or the sockets have changed since the query was made."""
        if not self.query_id or seen != self.round:
            self.query_id, self.round = self.run.next_query_id(), seen


class VerifyVersion(Step[VerifyVersionState]):
    """Prove that the wanted version is being served.

    It asks the running service, or compares the start of its processes with the change times of the files they were
    started from. An answer counts only while the unit alone has its ports.
    """

    failure_verdict: ClassVar[Verdict] = Verdict.VERSION_MISMATCH
    rollback_role: ClassVar[RollbackRole] = RollbackRole.PROVE_VERSION

    unit: UnitName = Field(description="The unit that serves.")
    port: PortList = Field((), description="The port, or a list of ports, that it must own.")
    run: CommandField | None = Field(
        None,
        description="A command that prints the version of the running service.",
        examples=["curl -fs http://127.0.0.1:18789/version"],
    )
    user: UserField = Field("", description="The user that runs the command; by default the one that runs `runbook`.")
    cwd: FolderField = Field("", description="Where the command starts; by default the runbook's folder.")
    env: Environment = Field(default_factory=dict, description="Variables that are added to the command's environment.")
    http: HttpFields | None = Field(None, description="A page of the running service that contains its version.")
    pattern: Pattern = Field(
        VERSION, description="The part of the answer that is the version.", examples=["version ([0-9.]+)"]
    )
    expect: Version | None = Field(None, description="The version that is wanted.")
    newer_than: Paths = Field(
        (),
        description="Paths and patterns of the code; the processes must have started after their last change.",
        examples=[["/opt/gateway/dist/*.js"]],
    )
    timeout: PositiveSpan | None = Field(60.0, description="How long one try may take.")

    @model_validator(mode="after")
    def _asks_something(self) -> VerifyVersion:
        asks = self.run is not None or self.http is not None
        if not asks and not self.newer_than:
            raise ValueError("verify-version needs `run`, `http` or `newer-than`: something that shows what is served")
        if self.run is not None and self.http is not None:
            raise ValueError("verify-version takes `run` or `http`, not both; write a second step for the other")
        if asks and self.expect is None:
            raise ValueError(f"`expect` is missing: the version that `{'run' if self.run else 'http'}` must return")
        for key in ("expect", "pattern", "user", "cwd", "env"):
            of_both = key in ("expect", "pattern")
            if key in self.model_fields_set and not (asks if of_both else self.run is not None):
                raise ValueError(f"`{key}` has no meaning without {'`run` or `http`' if of_both else '`run`'}")
        return self

    def check(self, view: HostView, state: VerifyVersionState) -> Finding:
        if waits := [text for text in (self.expect, *self.newer_than) if isinstance(text, Template)]:
            missing = ", ".join(dict.fromkeys(str(name) for text in waits for name in text.references))
            return not_yet(Verdict.VERSION_MISMATCH, f"what is wanted is known once {missing} is", Wake())
        unit = view.unit(self.unit)
        report = HealthChecker(view, unit, self.port, None, UNLIMITED_RESTARTS, once=True).check()
        if report.verdict is Verdict.STILL_STARTING:
            return Finding(FindingState.STILL_STARTING, report.verdict, report.reason, report.evidence())
        if not report.healthy:
            return fails(report.verdict, report.reason, **report.evidence())
        local = self.http.local_port if self.http else None
        asked = judge_extra_port(view, report, state.reached_port or local)
        if asked is not None and (why := describe_foreign_answer(asked)):
            return fails(asked.verdict, why, **report.evidence())
        judged = [*report.ports, *([asked] if asked is not None else [])]
        networks = (view.find_network_process(report.unit, local),) if self.expect is not None else ()
        sockets = report.sockets.union(*(own.sockets for own in judged))
        state.start_round(ProbeRound(report.unit.name, report.unit.invocation_id, sockets, networks))
        facts: Evidence = report.evidence()
        reasons: list[str] = []
        if self.newer_than:
            finding = judge_code_age(view, report, self.newer_than, state.query_id, self.time_limit(view), facts)
            if finding.state is not FindingState.HOLDS:
                return finding
            reasons, facts = [finding.reason], finding.evidence
        if self.expect is not None:
            finding = self._check_answer(view, state, judged, facts)
            if finding.state is not FindingState.HOLDS:
                return finding
            reasons, facts = [finding.reason, *reasons], finding.evidence
        return holds(Verdict.VERSION_OK, "; ".join(reasons), **facts)

    def _check_answer(
        self, view: HostView, state: VerifyVersionState, judged: Sequence[PortOwnership], facts: Evidence
    ) -> Finding:
        """Return whether the running service reports the wanted version, from one of the ports that were judged."""
        label, query = self._make_query(view, state)
        holders = ", ".join(f"{h.process} of {h.unit}" for own in judged for h in own.foreign_holders)
        facts = {**facts, "asked": label, **({"answered-by": holders} if holders else {})}
        answer = view.query(query)
        if answer is None:
            return await_answer(f"asking {label}")
        if answer.reached_port is not None and not any(port_covers(own, answer.reached_port) for own in judged):
            # Only the connection shows which port of this machine answers: its owner is judged, then it is asked again.
            state.reached_port, state.query_id = answer.reached_port, 0
            return not_yet(Verdict.VERSION_MISMATCH, f"asking {label}", Wake(pending=True, within=ANSWER_POLL))
        return judge_answer(label, answer, self.pattern, self.expect, facts)

    def _make_query(self, view: HostView, state: VerifyVersionState) -> tuple[str, Query[str]]:
        """Return what is asked, in words, and the query."""
        (network,) = state.round.networks
        if self.http is not None:
            probe = self.http.make_query(state.run, state.round)
            return self.http.url, Query(probe, state.query_id, self.http.timeout, network)
        assert self.run is not None
        limit = self.time_limit(view)
        command = state.run.make_command(self.run, timeout=limit, user=self.user, cwd=self.cwd, env=self.env)
        return brief_command(self.run), Query(command, state.query_id, limit, network)
