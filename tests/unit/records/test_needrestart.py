"""needrestart's configuration, as perl evaluates it."""

from __future__ import annotations

from pathlib import Path

import pytest

from runbook.errors import NotBegun
from runbook.records import needrestart
from runbook.records.needrestart import NeedrestartSettings, read_settings


@pytest.fixture
def configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A configuration file; needrestart is installed."""
    path = tmp_path / "needrestart.conf"
    path.write_text("")
    monkeypatch.setattr(needrestart, "CONFIGURATION", path)
    monkeypatch.setattr(needrestart, "PROGRAM", path)
    return path


def test_its_defaults(configuration: Path) -> None:
    assert read_settings(["a.service"]) == NeedrestartSettings("i", Path("/etc/needrestart/restart.d"), {})


def test_what_it_sets(configuration: Path) -> None:
    configuration.write_text(
        "$nrconf{restart} = q(a);  # 'l'\n"
        "$nrconf{restart_d} = '/opt/hooks';\n"
        "$nrconf{blacklist_rc} = [qr(^b@1)];\n"
        "$nrconf{override_rc} = {qr(^c) => 0, qr(^cd) => 1, qr(^d) => 1};\n"
    )
    found = read_settings(["a.service", "b@1.service", "cd.service", "d.service"])
    assert (found.mode, found.hooks) == ("a", Path("/opt/hooks"))
    assert found.refused == {"b@1.service": "blacklist_rc", "cd.service": "override_rc"}


def test_a_unit_is_refused_unless_it_is_named(configuration: Path) -> None:
    configuration.write_text("$nrconf{defno} = 1;\n$nrconf{override_rc} = {qr(^a) => 1};\n")
    assert read_settings(["a.service", "b.service"]).refused == {"b.service": "override_rc"}


def test_its_mode_in_words(configuration: Path) -> None:
    found = read_settings([])
    assert found.describe_mode().startswith(
        "needrestart asks on a terminal, and without one, as in unattended upgrades"
    )
    assert found._replace(mode="l").describe_mode().startswith("needrestart only lists services: `$nrconf{restart} =")
    assert found._replace(mode="a").describe_mode() == ""


def test_a_configuration_with_an_error(configuration: Path) -> None:
    configuration.write_text("$nrconf{restart} = ;\n")
    with pytest.raises(NotBegun, match="cannot read needrestart's configuration: syntax error"):
        read_settings([])


def test_it_is_not_installed(configuration: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(needrestart, "PROGRAM", configuration.with_name("none"))
    with pytest.raises(NotBegun, match="needrestart is not installed"):
        read_settings([])
