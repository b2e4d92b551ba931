"""`verify-version`: what serves is the new version, not what lies on the disk."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, model_validator

from runbook.checks.health import Look, Looker
from runbook.checks.prober import SOON, asked_besides, covers, may_answer, not_counted
from runbook.checks.probes import HttpFields, Round
from runbook.checks.versions import VERSION, Change, new_code, old_code, servers, version_in
from runbook.host.holders import PortOwnership
from runbook.host.interface import HostView
from runbook.host.queries import LatestChange, Question
from runbook.model import Finding, Impact, Port, State, Verdict, Wake, fails, holds, not_yet
from runbook.spec.fields import Environment, Limit, Pattern, PortList, Shell, Text, UnitName, Version, Words
from runbook.spec.state import Memory
from runbook.spec.step import Step
from runbook.template import OPEN, Template
from runbook.util.wording import brief

ANY_NUMBER = 2**31
"""Restarts are not this step's question."""


def _absolute(paths: tuple[str, ...]) -> tuple[str, ...]:
    for path in paths:
        if not path.startswith(("/", OPEN)):
            raise ValueError(f"`{path}` in `newer-than` must be an absolute path; write /opt/app or /opt/app/*.js")
    return paths


Paths = Annotated[Words, AfterValidator(_absolute)]
Facts = Mapping[str, Any]


@dataclass
class VersionMemory(Memory):
    """The question that is out, and who was to answer it; `reached` is the port of this machine that did."""

    asked: int = 0
    round: Round = field(default_factory=Round)
    reached: Port | None = None

    def put_to(self, seen: Round) -> None:
        """Ask anew where another invocation is there, or other sockets listen, than when it was asked."""
        if not self.asked or seen != self.round:
            self.asked, self.round = self.run.new_question(), seen


class VerifyVersion(Step[VersionMemory]):
    """See that what serves is the version that is wanted.

    It asks the running service, and holds the start of its processes against the change times of the files
    they were started from. An answer counts only while the unit, and nobody else, has its ports.
    """

    kind: ClassVar[str] = "verify-version"
    impact: ClassVar[Impact] = Impact.READ_ONLY
    takes: ClassVar[tuple[str, ...]] = ("unit", "port")
    needs: ClassVar[tuple[str, ...]] = ("unit",)
    remembers: ClassVar[type[Memory]] = VersionMemory
    fails_as: ClassVar[Verdict] = Verdict.VERSION_MISMATCH

    unit: UnitName | None = Field(None, description="The unit that serves.")
    port: PortList = Field((), description="The port, or a list of ports, that it must own meanwhile.")
    run: Shell | None = Field(None, description="A command that asks the running service and prints its version.")
    user: Text = Field("", description="Who runs the command; by default who runs `runbook`.")
    cwd: Text = Field("", description="Where the command starts; by default the runbook's folder.")
    env: Environment = Field(default_factory=dict, description="What is added to the command's environment.")
    http: HttpFields | None = Field(None, description="A page of the running service that holds its version.")
    pattern: Pattern = Field(VERSION, description="What of the answer is the version.")
    expect: Version | None = Field(None, description="The version that is wanted.")
    newer_than: Paths = Field(
        (), description="Files, folders and patterns of the code: what serves must have begun after their last change."
    )
    timeout: Limit | None = Field(60.0, description="How long one try may take.")

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

    def check(self, view: HostView, memory: VersionMemory) -> Finding:
        assert self.unit is not None
        if waits := [text for text in (self.expect, *self.newer_than) if isinstance(text, Template)]:
            missing = ", ".join(dict.fromkeys(str(name) for text in waits for name in text.references))
            return not_yet(Verdict.VERSION_MISMATCH, f"what is wanted is known once {missing} is", Wake())
        look = Looker(view, view.unit(self.unit), self.port, None, ANY_NUMBER, None).look()
        if look.verdict is Verdict.STILL_STARTING:
            return Finding(State.LEFT_ALONE, look.verdict, look.reason, look.evidence())
        if not look.healthy:
            return fails(look.verdict, look.reason, **look.evidence())
        local = self.http.local_port if self.http else None
        asked = asked_besides(view, look, memory.reached or local)
        if asked is not None and not may_answer(asked):
            return fails(asked.verdict, not_counted(asked), **look.evidence())
        networks = (view.network_of(look.unit, local),) if self.expect is not None else ()
        others = asked.sockets if asked else frozenset()
        memory.put_to(Round(look.unit.invocation_id, look.sockets | others, networks))
        facts = look.evidence()
        said: list[str] = []
        if self.newer_than:
            finding = self._held_against_files(view, memory, look, facts)
            if finding.state is not State.HOLDS:
                return finding
            said.append(finding.reason)
            facts.update(finding.evidence)
        if self.expect is not None:
            finding = self._told(view, memory, look, facts, asked)
            if finding.state is not State.HOLDS:
                return finding
            said.insert(0, finding.reason)
            facts.update(finding.evidence)
        return holds(Verdict.VERSION_OK, "; ".join(said), **facts)

    def _held_against_files(self, view: HostView, memory: VersionMemory, look: Look, facts: Facts) -> Finding:
        """Say whether the processes that serve are younger than the code."""
        found = servers(view, look.unit, look.ports)
        if not found and look.ports and look.unit.name.endswith(".socket"):
            who = f"nobody serves on the sockets of {look.unit.name} yet"
            return holds(Verdict.VERSION_OK, f"{who}: the next connection starts a new process", **facts)
        if not found:
            none = f"no process of {look.unit.name} is known to serve: it has no main process, and holds no port"
            return fails(Verdict.VERSION_MISMATCH, none, **facts)
        limit = self.time_limit(view)
        answer = view.ask(Question(LatestChange(self.newer_than), memory.asked, limit))
        if answer is None:
            return _asking(f"looking at {', '.join(self.newer_than)}")
        if not answer.good:
            return fails(Verdict.VERSION_MISMATCH, f"cannot tell how old the code is: {answer.detail}", **facts)
        change = Change.read(answer.output)
        facts = {**facts, **change.evidence(), "servers": [server.evidence() for server in found]}
        if why := old_code(found, change):
            return fails(Verdict.OLD_CODE_SERVING, f"{why}; a restart brings the new code up", **facts)
        return holds(Verdict.VERSION_OK, new_code(found, change), **facts)

    def _told(
        self, view: HostView, memory: VersionMemory, look: Look, facts: Facts, asked: PortOwnership | None
    ) -> Finding:
        """Say whether the running service tells the version that is wanted."""
        (network,) = memory.round.networks
        if self.http is not None:
            who = self.http.url
            question = Question(self.http.question(memory.run, memory.round), memory.asked, self.http.timeout, network)
            here = ", ".join(f"{h.process} of {h.unit}" for h in asked.strangers) if asked else ""
            facts = {**facts, "asked": who, **({"answered-by": here} if here else {})}
        else:
            assert self.run is not None
            who = brief(self.run)
            limit = self.time_limit(view)
            command = memory.run.command(self.run, timeout=limit, user=self.user, cwd=self.cwd, env=self.env)
            question = Question(command, memory.asked, limit, network)
            facts = {**facts, "asked": who}
        answer = view.ask(question)
        if answer is None:
            return _asking(f"asking {who}")
        known = [own.port for own in look.ports] + ([asked.port] if asked else [])
        if answer.reached is not None and not any(covers(port, answer.reached) for port in known):
            # Only the connection told which port of this machine that is: it is judged who has it, and asked again.
            memory.reached, memory.asked = answer.reached, 0
            return not_yet(Verdict.VERSION_MISMATCH, f"asking {who}", Wake(pending=True, within=SOON))
        if not answer.good:
            return fails(Verdict.PROBE_FAILED, f"{who} {answer.detail}", **facts)
        found = version_in(answer.output, self.pattern)
        facts = {**facts, "version": found, "expected": self.expect}
        if found is None:
            return fails(Verdict.VERSION_MISMATCH, f"{who} tells no version", **facts)
        if found != self.expect:
            return fails(Verdict.VERSION_MISMATCH, f"{found} serves, not {self.expect}", **facts)
        return holds(Verdict.VERSION_OK, f"{found} serves", **facts)


def _asking(what: str) -> Finding:
    return not_yet(Verdict.VERSION_MISMATCH, what, Wake(pending=True))
