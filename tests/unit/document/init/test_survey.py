"""All that is found of a unit, and which units have no runbook."""

from __future__ import annotations

import os
from collections.abc import Collection
from typing import Any

import pytest

from runbook.document.init import survey as module
from runbook.document.init.survey import Named, Survey, find_main_process, make_survey
from runbook.errors import NotBegun
from runbook.host.facts import ActiveState, LoadState
from runbook.model import Port
from tests.unit.document.init.fakes import FakeLookup, gateway, lookup
from tests.unit.fake_machine import FakeMachine, listen, process, unit

DEBIAN = {
    "-S -- /usr/bin/gateway": "gateway: /usr/bin/gateway\n",
    "${source:Package} ${Essential} --": "gateway no",
    "awk": "gateway 1.0\n",
}


@pytest.fixture(autouse=True)
def _root(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    monkeypatch.setattr(module, "find_danger", lambda path: "")


def none(name: str) -> Collection[Port]:
    return ()


def survey(machine: FakeMachine, name: str = "gw.service", **facts: Any) -> Survey:
    return make_survey(look(machine, **facts), Named(name), none)


def look(machine: FakeMachine, **facts: Any) -> FakeLookup:
    found = lookup(machine, **{"outputs": DEBIAN, **facts})
    for number in (22, 25, 53):
        machine.answers[f"tcp 127.0.0.1:{number}"] = []
    return found


def test_a_service_of_a_package() -> None:
    machine = gateway(start_arguments=("/usr/bin/gateway",))
    listen(machine, 100, "0.0.0.0:25", "[::]:25", "127.0.0.1:53", "[::1]:53")
    found = survey(machine)
    assert list(map(str, found.ports)) == ["25", "127.0.0.1:53", "[::1]:53"]
    assert [(str(one.port), one.kind) for one in found.probes] == [("25", "tcp"), ("127.0.0.1:53", "tcp")]
    assert found.package is not None
    assert (found.package.what, found.notices) == ("Debian's package gateway", ())
    assert found.sources == ("systemd", "the kernel's sockets", "dpkg", "apt-cache policy")


def test_the_service_of_a_socket_unit() -> None:
    machine = gateway(triggered_by=("gw.socket",), active_state=ActiveState.INACTIVE, main_pid=0)
    machine.units["gw.socket"] = unit("gw.socket", listen=(("Stream", "[::]:22"),), triggers=("gw.service",))
    found = survey(machine, "gw.socket")
    assert (found.unit.name, list(map(str, found.ports))) == ("gw.service", ["22"])
    assert found.notices[0] == "gw.socket starts gw.service, which is what an upgrade restarts"
    assert "is inactive" in found.notices[-1]


def test_a_socket_unit_that_starts_one_service_for_each_connection() -> None:
    machine = gateway()
    machine.units["gw.socket"] = unit("gw.socket", type="", triggers=("gw@.service",), main_pid=0)
    assert survey(machine, "gw.socket").unit.name == "gw.socket"


@pytest.mark.parametrize(
    ("changes", "message", "hint"),
    [
        ({"load_state": LoadState.MASKED}, "gw.service is masked", "systemctl unmask gw.service"),
        ({"load_state": LoadState.BAD_SETTING}, "systemd cannot load gw.service", "systemctl status gw.service"),
    ],
)
def test_units_without_a_runbook(changes: dict[str, Any], message: str, hint: str) -> None:
    with pytest.raises(NotBegun) as caught:
        survey(gateway(**changes))
    assert (message in caught.value.message, hint in caught.value.hint) == (True, True)


def test_a_misspelled_unit() -> None:
    with pytest.raises(NotBegun) as caught:
        survey(gateway(), "gx.service")
    assert (caught.value.message, caught.value.hint) == (
        "cannot begin: systemd has no unit gx.service",
        "did you mean gw.service?",
    )
    with pytest.raises(NotBegun, match="no unit postgres"):
        survey(gateway(), "postgres.service")


def test_a_unit_that_failed_has_the_ports_of_its_log_and_of_earlier_runs() -> None:
    machine = gateway(active_state=ActiveState.FAILED, sub_state="failed", main_pid=0, control_group="")
    found = make_survey(look(machine), Named("gw.service"), lambda name: (Port(53),))
    assert (list(map(str, found.ports)), found.probes[0].kind) == (["53"], "")
    assert any("gw.service is failed" in one for one in found.notices)


def test_a_unit_that_groups_others() -> None:
    found = survey(gateway(type="oneshot", consists_of=("gw@a.service",), fragment_path="/usr/bin/gateway"))
    assert any("runbook init gw@a.service" in one for one in found.notices)
    assert found.package is not None


def test_a_unit_of_a_users_manager_has_no_package_of_debian() -> None:
    found = make_survey(look(gateway(of_user=True)), Named("gw.service", user=True), none)
    assert (found.package, found.no_package) == (None, "Debian's package gateway is installed by root, with apt")


def test_without_rights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    machine = gateway()
    listen(machine, 100, "0.0.0.0:25")
    machine.hidden = 1
    found = survey(machine)
    assert (list(map(str, found.ports)), found.package) == (["25"], None)
    assert "you are not root" in found.notices[-1]


def test_an_application_is_not_its_server() -> None:
    machine = gateway(start_arguments=("/usr/bin/gunicorn", "app:app"))
    machine.processes[100] = process(100, exe="/usr/bin/python3.11")
    found = survey(machine)
    assert (found.package, "only serves an application" in found.no_package) == (None, True)


def test_a_path_that_would_be_a_template_is_written_nowhere() -> None:
    machine = gateway()
    machine.processes[100] = process(100, exe="/opt/${{ vars.x }}/gw")
    found = survey(machine)
    assert (found.package, "cannot be written" in found.no_package) == (None, True)


def test_an_npm_package_below_a_folder_of_others(monkeypatch: pytest.MonkeyPatch) -> None:
    path = "/srv/lib/node_modules/gw"
    machine = gateway(start_arguments=("/usr/bin/node", f"{path}/gw.js"))
    machine.processes[100] = process(100, exe="/usr/bin/node")
    files = {f"{path}/package.json": '{\n  "name": "gw",\n  "version": "1.0"\n}'}
    assert survey(machine, files=files).package is not None
    monkeypatch.setattr(module, "find_danger", lambda path: "/srv is writable by every user")
    found = survey(machine, files=files)
    assert (found.package, "must not be run as root: /srv is writable" in found.no_package) == (None, True)
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    found = survey(machine, files=files, owners={f"{path}/package.json": "app"})
    assert found.no_package == "the npm package gw belongs to app"


def test_the_program_of_a_unit_without_a_main_process() -> None:
    machine = gateway(main_pid=0)
    machine.processes[101] = process(101, ppid=100, exe="/usr/bin/worker")
    listen(machine, 100, "0.0.0.0:25")
    listen(machine, 101, "0.0.0.0:25")
    one = machine.units["gw.service"]
    main = find_main_process(machine, one, (Port(25),))
    assert main is None or main.pid in (100, 101)
    assert find_main_process(machine, one, ()) is None


def test_the_file_of_a_package_is_named_as_in_the_unit(monkeypatch: pytest.MonkeyPatch) -> None:
    """/usr/bin/redis-server is a link, and the process executes /usr/bin/redis-check-rdb."""
    monkeypatch.setattr(os.path, "realpath", lambda path: str(path).replace("/sbin/", "/usr/bin/"))
    machine = gateway(start_arguments=("/sbin/gateway",))
    machine.processes[100] = process(100, exe="/usr/bin/gateway")
    found = survey(machine)
    assert found.package is not None
    assert found.package.newer_than == ("/sbin/gateway",)


def test_a_module_of_an_interpreter_has_no_version_of_its_own() -> None:
    machine = gateway(start_arguments=("/usr/bin/python3", "-m", "http.server", "8080"))
    machine.processes[100] = process(100, exe="/usr/bin/python3.13")
    assert survey(machine, outputs={}).no_package == "ExecStart= runs python3, which has no version of this service"
    machine.units["gw.service"] = unit()
    del machine.processes[100]
    assert survey(machine, outputs={}).no_package == "ExecStart= names no program"
