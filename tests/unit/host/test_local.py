"""This machine's two classes: which of them can write, and where this program finds itself."""

from __future__ import annotations

import pytest

from runbook.host.interface import Host, HostView, Waiter
from runbook.host.kernel import processes
from runbook.host.local import LocalHost, LocalView


def names(kind: type) -> set[str]:
    return {name for name in dir(kind) if not name.startswith("_")}


WRITING = sorted(names(Host) - names(HostView))


def test_a_host_has_methods_that_write() -> None:
    assert len(WRITING) == 9
    assert set(WRITING) <= names(LocalHost)


@pytest.mark.parametrize("name", WRITING)
def test_a_view_has_none_of_them(name: str) -> None:
    assert not hasattr(LocalView, name)


def test_a_view_reads_everything_and_waits() -> None:
    assert names(HostView) | names(Waiter) <= names(LocalView) | {"clock"}  # Set by the constructor.


def test_a_view_is_no_host_for_the_type_checker() -> None:
    """mypy reports the comment as unused if the call is no error."""

    def read(view: HostView) -> None: ...

    def write(host: Host) -> None: ...

    local: LocalView = object.__new__(LocalView)
    read(local)
    write(local)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("cgroup", "scope", "login"),
    [
        ("/user.slice/user-1000.slice/session-9.scope", "system", "session-9.scope"),
        ("/user.slice/user-1000.slice/session-9.scope", "user", "session-9.scope"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/gw.service", "system", "user@1000.service"),
        ("/user.slice/user-1000.slice/user@1000.service/app.slice/gw.service", "user", ""),
        ("/system.slice/cron.service", "system", ""),
    ],
)
def test_the_login_that_this_program_would_end_with(
    monkeypatch: pytest.MonkeyPatch, cgroup: str, scope: str, login: str
) -> None:
    local: LocalView = object.__new__(LocalView)
    local.scope = scope  # type: ignore[assignment]
    monkeypatch.setattr(processes, "read_cgroup", lambda pid: cgroup)
    assert local.find_login() == login


@pytest.mark.parametrize(
    ("name", "near"),
    [
        ("bind9.service", ""),  # `.service` alone makes rpcbind.service similar.
        ("ngnix.service", "nginx.service"),
        ("nginx.socket", ""),
        ("postgres.service", "postgresql.service"),
        ("rpcbind.service", ""),  # Its file is listed, and systemd cannot read it.
    ],
)
def test_a_similar_unit_is_similar_without_its_suffix(name: str, near: str) -> None:
    class Manager:
        def list_unit_files(self) -> list[str]:
            return ["nginx.service", "postgresql.service", "rpcbind.service", "rpcbind.socket"]

    local: LocalView = object.__new__(LocalView)
    local._systemd = Manager()  # type: ignore[assignment]
    assert local.find_similar_unit(name) == near
