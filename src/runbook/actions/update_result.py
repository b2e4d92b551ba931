"""Judge an update by the version that is installed before and after its command."""

from __future__ import annotations

from dataclasses import replace

from runbook.actions.command_step import make_failure
from runbook.checks.version_order import is_lower
from runbook.checks.versions import describe_missing_version, find_version
from runbook.host.queries import Answer, CommandResult
from runbook.model import Finding, Verdict, fails, frozen, holds, to_do
from runbook.spec.step import DOWNGRADE


@frozen
class InstalledVersion:
    """The answer of an update's `version` command, against the version that is wanted."""

    answer: Answer[str]
    command: str  # the `version` command, as messages call it
    pattern: str
    wanted: str
    previous: str | None  # the version that was installed before the update, if known
    secret: bool  # True if messages must not contain what the command printed

    @property
    def version(self) -> str | None:
        """The version that is installed; None if the command returned none."""
        return find_version(self.answer.value or "", self.pattern) if self.answer.ok else None

    def describe_missing(self) -> str:
        """Return why no version was found."""
        return describe_missing_version(self.command, self.answer, secret=self.secret)

    def judge_before(self, run: str, *, downgrade: bool = False) -> Finding:
        """Return what is to be done before the update's command, which messages call `run`, was started.

        A lower version is refused unless `downgrade`.
        """
        version, facts = self.version, {"from": self.version, "to": self.wanted}
        if version == self.wanted and self.previous not in (None, version):
            # A part of this try that was cut short has installed it.
            return holds(Verdict.UPDATED, f"{self.previous} -> {version}", to=self.wanted, **{"from": self.previous})
        if version == self.wanted:
            return holds(Verdict.UP_TO_DATE, f"{version} is installed already", **facts)
        if version and is_lower(self.wanted, version):
            if not downgrade:
                why = f"{version} -> {self.wanted} is a downgrade, and a downgrade is refused unless it is asked for"
                return fails(Verdict.VERSION_MISMATCH, why, **facts, **{DOWNGRADE: True})
            why = f"run {run}: {version} -> {self.wanted}, a downgrade"
            return to_do(Verdict.VERSION_MISMATCH, why, **facts, **{DOWNGRADE: True})
        missing = "" if version else f" (no version is installed: {self.describe_missing()})"
        why = f"run {run}: {version or 'nothing'} -> {self.wanted}{missing}"
        return to_do(Verdict.VERSION_MISMATCH, why, **facts)

    def judge_failure(self, run: str, result: CommandResult) -> Finding:
        """Return that the command failed, and what it left: nothing done, all done, or something in between."""
        version = self.version
        if version:
            state = f"{version} is installed{' still' if version == self.previous else ''}"
        else:
            state = f"which version is installed cannot be determined: {self.describe_missing()}"
        facts = {"from": self.previous, "to": self.wanted, "version": version}
        finding = make_failure(Verdict.UPDATE_FAILED, run, result, **facts)
        return replace(finding, reason=f"{finding.reason}; {state}")

    def judge_after(self) -> Finding:
        """Return whether the command, which succeeded, installed the wanted version."""
        version, facts = self.version, {"from": self.previous, "to": self.wanted, "version": self.version}
        if version == self.wanted:
            return holds(Verdict.UPDATED, f"{self.previous or 'nothing'} -> {version}", **facts)
        what = f"{version} is installed, not {self.wanted}" if version else self.describe_missing()
        return fails(Verdict.VERSION_MISMATCH, f"the update succeeded, but {what}", **facts)
