"""`verify-version`: what serves is the new version, not what lies on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, model_validator

from runbook.checks.health import HealthChecker, HealthReport
from runbook.checks.prober import ANSWER_POLL, describe_foreign_answer, does_answer_count, judge_extra_port, port_covers
from runbook.checks.probes import HttpFields, ProbeRound
from runbook.checks.versions import (
    VERSION,
    change_evidence,
    describe_new_code,
    describe_old_code,
    find_servers,
    find_version,
)
from runbook.host.holders import PortOwnership
from runbook.host.interface import HostView
from runbook.host.queries import LatestChangeQuery, Query
from runbook.model import Finding, FindingState, Port, Verdict, Wake, fails, holds, not_yet
from runbook.spec.fields import (
    CommandField,
    Environment,
    Pattern,
    PortList,
    PositiveSpan,
    TextField,
    TextList,
    UnitName,
    Version,
)
from runbook.spec.state import StepState
from runbook.spec.step import RollbackRole, Step
from runbook.template import OPEN, Template
from runbook.util.wording import brief_command

UNLIMITED_RESTARTS = 2**31
"""Restarts are not this step's question."""


def _absolute(paths: tuple[str, ...]) -> tuple[str, ...]:
    for path in paths:
        if not path.startswith(("/", OPEN)):
            raise ValueError(f"`{path}` in `newer-than` must be an absolute path; write /opt/app or /opt/app/*.js")
    return paths


Paths = Annotated[TextList, AfterValidator(_absolute)]
Evidence = Mapping[str, Any]


@dataclass
class VerifyVersionState(StepState):
    """The question that is out, and who was to answer it; `reached` is the port of this machine that did."""

    query_id: int = 0
    round: ProbeRound = field(default_factory=ProbeRound)
    reached_port: Port | None = None

    def start_round(self, seen: ProbeRound) -> None:
        """Ask anew where another invocation is there, or other sockets listen, than when it was asked."""
        if not self.query_id or seen != self.round:
            self.query_id, self.round = self.run.next_query_id(), seen


class VerifyVersion(Step[VerifyVersionState]):
    """See that what serves is the version that is wanted.

    It asks the running service, and holds the start of its processes against the change times of the files
    they were started from. An answer counts only while the unit, and nobody else, has its ports.
    """

    failure_verdict: ClassVar[Verdict] = Verdict.VERSION_MISMATCH
    rollback_role: ClassVar[RollbackRole] = RollbackRole.PROVE_VERSION

    unit: UnitName = Field(description="The unit that serves.")
    port: PortList = Field((), description="The port, or a list of ports, that it must own meanwhile.")
    run: CommandField | None = Field(
        None, description="A command that asks the running service and prints its version."
    )
    user: TextField = Field("", description="Who runs the command; by default who runs `runbook`.")
    cwd: TextField = Field("", description="Where the command starts; by default the runbook's folder.")
    env: Environment = Field(default_factory=dict, description="What is added to the command's environment.")
    http: HttpFields | None = Field(None, description="A page of the running service that holds its version.")
    pattern: Pattern = Field(VERSION, description="What of the answer is the version.")
    expect: Version | None = Field(None, description="The version that is wanted.")
    newer_than: Paths = Field(
        (), description="Files, folders and patterns of the code: what serves must have begun after their last change."
    )
    timeout: PositiveSpan | None = Field(60.0, description="How long one try may take.")

    @model_validator(mode="after")
    def _asks_something(self) -> VerifyVersion:
        asks = self.run is not None or self.http is not None
        if not asks and not self.newer_than:
            raise ValueError("verify-version needs `run`, `http` or `newer-than`: something that tells what serves")
        if self.run is not None and self.http is not None:
            raise ValueError("verify-version takes `run` or `http`, not both; write a second step for the other")
        if asks and self.expect is None:
            raise ValueError(f"`expect` is missing: the version that `{'run' if self.run else 'http'}` must tell")
        for key in ("expect", "pattern", "user", "cwd", "env"):
            of_both = key in ("expect", "pattern")
            if key in self.model_fields_set and not (asks if of_both else self.run is not None):
                raise ValueError(f"`{key}` says nothing without {'`run` or `http`' if of_both else '`run`'}")
        return self

    def check(self, view: HostView, state: VerifyVersionState) -> Finding:
        if waits := [text for text in (self.expect, *self.newer_than) if isinstance(text, Template)]:
            missing = ", ".join(dict.fromkeys(str(name) for text in waits for name in text.references))
            return not_yet(Verdict.VERSION_MISMATCH, f"what is wanted is known once {missing} is", Wake())
        look = HealthChecker(view, view.unit(self.unit), self.port, None, UNLIMITED_RESTARTS, None).check()
        if look.verdict is Verdict.STILL_STARTING:
            return Finding(FindingState.STILL_STARTING, look.verdict, look.reason, look.evidence())
        if not look.healthy:
            return fails(look.verdict, look.reason, **look.evidence())
        local = self.http.local_port if self.http else None
        asked = judge_extra_port(view, look, state.reached_port or local)
        if asked is not None and not does_answer_count(asked):
            return fails(asked.verdict, describe_foreign_answer(asked), **look.evidence())
        networks = (view.find_network_process(look.unit, local),) if self.expect is not None else ()
        others = asked.sockets if asked else frozenset()
        state.start_round(ProbeRound(look.unit.invocation_id, look.sockets | others, networks))
        facts = look.evidence()
        said: list[str] = []
        if self.newer_than:
            finding = self._check_files(view, state, look, facts)
            if finding.state is not FindingState.HOLDS:
                return finding
            said.append(finding.reason)
            facts.update(finding.evidence)
        if self.expect is not None:
            finding = self._check_answer(view, state, look, facts, asked)
            if finding.state is not FindingState.HOLDS:
                return finding
            said.insert(0, finding.reason)
            facts.update(finding.evidence)
        return holds(Verdict.VERSION_OK, "; ".join(said), **facts)

    def _check_files(self, view: HostView, state: VerifyVersionState, look: HealthReport, facts: Evidence) -> Finding:
        """Say whether the processes that serve are younger than the code."""
        found = find_servers(view, look.unit, look.ports)
        if not found and look.ports and look.unit.name.endswith(".socket"):
            who = f"nobody serves on the sockets of {look.unit.name} yet"
            return holds(Verdict.VERSION_OK, f"{who}: the next connection starts a new process", **facts)
        if not found:
            none = f"no process of {look.unit.name} is known to serve: it has no main process, and holds no port"
            return fails(Verdict.VERSION_MISMATCH, none, **facts)
        limit = self.time_limit(view)
        answer = view.query(Query(LatestChangeQuery(self.newer_than), state.query_id, limit))
        if answer is None:
            return _await_answer(f"looking at {', '.join(self.newer_than)}")
        if (change := answer.value) is None:
            return fails(Verdict.VERSION_MISMATCH, f"cannot tell how old the code is: {answer.detail}", **facts)
        facts = {**facts, **change_evidence(change), "servers": [server.evidence() for server in found]}
        if why := describe_old_code(found, change):
            return fails(Verdict.OLD_CODE_SERVING, f"{why}; a restart brings the new code up", **facts)
        return holds(Verdict.VERSION_OK, describe_new_code(found, change), **facts)

    def _check_answer(
        self,
        view: HostView,
        state: VerifyVersionState,
        look: HealthReport,
        facts: Evidence,
        asked: PortOwnership | None,
    ) -> Finding:
        """Say whether the running service tells the version that is wanted."""
        (network,) = state.round.networks
        if self.http is not None:
            who = self.http.url
            question = Query(self.http.make_query(state.run, state.round), state.query_id, self.http.timeout, network)
            here = ", ".join(f"{h.process} of {h.unit}" for h in asked.foreign_holders) if asked else ""
            facts = {**facts, "asked": who, **({"answered-by": here} if here else {})}
        else:
            assert self.run is not None
            who = brief_command(self.run)
            limit = self.time_limit(view)
            command = state.run.make_command(self.run, timeout=limit, user=self.user, cwd=self.cwd, env=self.env)
            question = Query(command, state.query_id, limit, network)
            facts = {**facts, "asked": who}
        answer = view.query(question)
        if answer is None:
            return _await_answer(f"asking {who}")
        known = [own.port for own in look.ports] + ([asked.port] if asked else [])
        if answer.reached_port is not None and not any(port_covers(port, answer.reached_port) for port in known):
            # Only the connection told which port of this machine that is: it is judged who has it, and asked again.
            state.reached_port, state.query_id = answer.reached_port, 0
            return not_yet(Verdict.VERSION_MISMATCH, f"asking {who}", Wake(pending=True, within=ANSWER_POLL))
        if not answer.ok:
            return fails(Verdict.PROBE_FAILED, f"{who} {answer.detail}", **facts)
        found = find_version(answer.value or "", self.pattern)
        facts = {**facts, "version": found, "expected": self.expect}
        if found is None:
            return fails(Verdict.VERSION_MISMATCH, f"{who} tells no version", **facts)
        if found != self.expect:
            return fails(Verdict.VERSION_MISMATCH, f"{found} serves, not {self.expect}", **facts)
        return holds(Verdict.VERSION_OK, f"{found} serves", **facts)


def _await_answer(what: str) -> Finding:
    return not_yet(Verdict.VERSION_MISMATCH, what, Wake(pending=True))
