"""Queries of the machine, answered one after the other: commands that only read, small files, probes."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import count
from typing import TypeVar

from runbook.document.source import read_source
from runbook.document.trust import find_distrust
from runbook.errors import UsageError
from runbook.host.interface import HostView, Waiter
from runbook.host.kernel.accounts import find_user_name
from runbook.host.queries import Answer, Command, Query, QueryKind
from runbook.model import Deadline, ProcessId, Wake

T = TypeVar("T")

COMMAND_TIMEOUT = 15.0  # seconds; apt-cache without its own cache takes some on a small machine
ANSWER_SLACK = 2.0  # seconds by which the wait is longer than the query's own time-out
IN_ENGLISH = {"LC_ALL": "C.UTF-8"}


@dataclass
class Lookup:
    """A machine that is read, and what waits for its answers."""

    view: HostView
    waiter: Waiter
    _ids: Iterator[int] = field(default_factory=lambda: count(1))

    def query(self, kind: QueryKind[T], timeout: float, netns: ProcessId | None = None) -> Answer[T]:
        """Return the answer to a query. Raises Interrupted."""
        query = Query(kind, next(self._ids), timeout, netns)
        deadline = Deadline.after(self.view.clock, timeout + ANSWER_SLACK)
        while (answer := self.view.query(query)) is None:
            if deadline.expired:
                return Answer(False, "no answer in time")
            self.waiter.wait(Wake(), deadline)
        return answer

    def run(self, *argv: str, timeout: float = COMMAND_TIMEOUT) -> str:
        """Return what a command that only reads prints; empty if it fails. No shell reads the arguments."""
        answer = self.query(Command(argv, env=IN_ENGLISH, timeout=timeout), timeout)
        return answer.value or "" if answer.ok else ""

    def read(self, path: str) -> str:
        """Return the text of a small file; empty if it is not there or cannot be read."""
        return next((file.text for file in self.view.read_files(path)), "")

    def find_other_owner(self, path: str) -> str:
        """Return the user that a file belongs to; empty if that is the caller, or there is no such file."""
        uid = next((file.uid for file in self.view.read_files(path)), os.geteuid())
        return "" if uid == os.geteuid() else find_user_name(uid)


def find_danger(path: str) -> str:
    """Return why root should not run a file: another user can write it, or a folder on the way to it. Empty if not."""
    try:
        return find_distrust(read_source(path), euid=0, sudo_uid=None)
    except UsageError as error:
        return error.message
