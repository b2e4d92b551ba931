"""Debian's package of a program, and the versions that apt could install."""

from __future__ import annotations

from runbook.document.init.apt import Versions, find_apt_package, parse_policy
from tests.unit.document.init.fakes import FakeLookup, lookup
from tests.unit.fake_machine import unit

POLICY = """\
redis-tools:
  Installed: 5:7.0.15-1~deb12u1
  Candidate: 5:7.0.15-1~deb12u6
  Version table:
     5:7.0.15-1~deb12u6 500
        500 http://deb.example bookworm-security/main amd64 Packages
 *** 5:7.0.15-1~deb12u1 500
        500 http://deb.example bookworm/main amd64 Packages
        100 /var/lib/dpkg/status
redis-server:
  Installed: 5:7.0.15-1~deb12u1
  Candidate: 5:7.0.15-1~deb12u6
  Version table:
     5:7.0.15-1~deb12u6 500
        500 http://deb.example bookworm-security/main amd64 Packages
 *** 5:7.0.15-1~deb12u1 100
        100 /var/lib/dpkg/status
redis-sentinel:
  Installed: 5:7.0.15-1~deb12u1
  Candidate: 5:7.0.15-1~deb12u1
  Version table:
 *** 5:7.0.15-1~deb12u1 100
        100 /var/lib/dpkg/status
"""
SIBLINGS = "redis-sentinel 5:7.0.15-1~deb12u1\nredis-server 5:7.0.15-1~deb12u1\nredis-tools 5:7.0.15-1~deb12u1\n"
OLD = unit("redis-server.service", fragment_path="/usr/lib/systemd/system/redis-server.service")


def debian() -> FakeLookup:
    return lookup(
        outputs={
            "-S -- /usr/bin/redis-check-rdb": "redis-tools: /usr/bin/redis-check-rdb\n",
            "-W -f ${source:Package} ${Essential} --": "redis no",
            "awk": SIBLINGS,
            "policy": POLICY,
            "compare-versions": "newer",
        }
    )


def test_packages_of_one_source_and_version_are_updated_together() -> None:
    package = find_apt_package(debian(), ["/usr/bin/redis-check-rdb"], OLD)
    assert package is not None
    # Named after the unit; another candidate is left out.
    assert package.what == "Debian's package redis-server"
    assert package.run[-1] == "redis-server=${{ to }} redis-tools=${{ to }}"
    assert (package.version, package.candidate) == ("5:7.0.15-1~deb12u1", "5:7.0.15-1~deb12u6")
    assert package.newer_than == ("/usr/bin/redis-check-rdb",)
    assert package.version_command == ("dpkg-query -W -f '${db:Status-Status} ${Version}' redis-server",)
    # An archive has the installed version of redis-tools, the package of the program.
    assert package.no_rollback == ""
    assert "--allow-downgrades" in package.run[0]


def test_the_installed_version_is_in_no_archive() -> None:
    found = debian()
    found.outputs["policy"] = POLICY.replace("        500 http://deb.example bookworm/main amd64 Packages\n", "")
    package = find_apt_package(found, ["/usr/bin/redis-check-rdb"], OLD)
    assert package is not None
    assert "no archive has 5:7.0.15-1~deb12u1" in package.no_rollback
    assert "--allow-downgrades" not in package.run[0]


def test_an_older_candidate_is_not_newer() -> None:
    found = debian()
    found.outputs["compare-versions"] = ""
    package = find_apt_package(found, ["/usr/bin/redis-check-rdb"], OLD)
    assert package is not None
    assert (package.candidate, package.to) == ("", "5:7.0.15-1~deb12u1")


def test_an_essential_package_is_not_the_services() -> None:
    found = debian()
    found.outputs["-W -f ${source:Package} ${Essential} --"] = "redis yes"
    assert find_apt_package(found, ["/usr/bin/redis-check-rdb"], OLD) is None


def test_dpkg_may_have_a_file_by_its_name_without_usr() -> None:
    found = lookup(outputs={"-S -- /sbin/gw": "diversion by x from: /sbin/gw\ngw:amd64, other: /sbin/gw\n"})
    assert find_apt_package(found, ["/usr/sbin/gw"], OLD) is None
    assert found.ran[:2] == ["dpkg-query -S -- /usr/sbin/gw", "dpkg-query -S -- /sbin/gw"]
    assert found.ran[2] == "dpkg-query -W -f ${source:Package} ${Essential} -- gw"


def test_a_path_is_no_pattern_for_dpkg() -> None:
    found = lookup()
    assert find_apt_package(found, ["/opt/a*[b]"], OLD) is None
    assert found.ran[0] == r"dpkg-query -S -- /opt/a\*\[b\]"


def test_the_output_of_policy() -> None:
    found = parse_policy(POLICY)
    assert found["redis-tools"] == Versions(
        "5:7.0.15-1~deb12u1", "5:7.0.15-1~deb12u6", ("5:7.0.15-1~deb12u6", "5:7.0.15-1~deb12u1")
    )
    assert found["redis-sentinel"].available == ()
    assert parse_policy("gw:\n  Installed: 1\n  Candidate: (none)\n")["gw"] == Versions("1")
    assert parse_policy("N: Unable to locate package gw\n") == {}
