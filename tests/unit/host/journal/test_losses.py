"""What keeps entries out of the journal. A script stands in for journalctl, and a folder has a journald.conf."""

from __future__ import annotations

import json
import os
import time
from pathlib import Path
from typing import Any

import pytest

from runbook.host.journal import losses
from runbook.host.journal.losses import (
    LoggedRate,
    RateLimit,
    Window,
    describe_losses,
    find_rate_limit,
    read_earlier_rate,
)
from runbook.host.journal.reader import INVOCATION, Journalctl
from runbook.host.queries import JournalProbe, LogSettings
from tests.unit.host.conftest import PATIENCE

LIMIT = RateLimit(5.0, 10, "LogRateLimitBurst=")
INFO, NOTICE, WARNING = 6, 5, 4
STARTED = LoggedRate(first_at=100.0)


@pytest.fixture(autouse=True)
def _partly_readable(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of such a journal, the first entry shows nothing."""
    monkeypatch.setattr(losses, "describe_unreadable", lambda *, own: "this user may not read all of it")


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder for `usr` and `etc`, each with journald.conf and journald.conf.d."""
    for name in ("usr", "etc"):
        (tmp_path / name / "journald.conf.d").mkdir(parents=True)
    monkeypatch.setattr(losses, "CONFIG_FOLDERS", (tmp_path / "usr", tmp_path / "etc"))
    return tmp_path


def describe(rate: LoggedRate = STARTED, *, own: bool = False, **settings: Any) -> str:
    reader = Journalctl(time.monotonic() + PATIENCE, own=own)
    return describe_losses(reader, "gw.service", LogSettings(**settings), rate, LIMIT, own=own)


def dropped(unit: str, count: int, at: float = 101.0) -> str:
    entry = {"MESSAGE": f"Suppressed {count} messages from {unit}", "N_DROPPED": str(count)}
    return json.dumps({**entry, "__REALTIME_TIMESTAMP": str(int(at * 1e6))}) + "\n"


def test_what_journald_reports_as_dropped(played: Path) -> None:
    others = dropped("other-gw.service", 7) + dropped("other.service", 9)
    (played / "entries").write_text(dropped("gw.service", 80) + others + dropped("gw.service", 8))
    assert describe(since=12.5) == (
        "; journald reports 88 messages of gw.service that it dropped because of its rate limit (LogRateLimitBurst=), "
        "and this may be one of them"
    )
    matches = "--since=@12.500000 MESSAGE_ID=a596d6fe7bfa4994828e72309e95d61e _TRANSPORT=driver"
    assert (played / "call").read_text().endswith(f" {matches}")


def test_a_report_of_what_earlier_invocations_lost(played: Path) -> None:
    """journald writes it before the first message that it stores again."""
    (played / "entries").write_text(dropped("gw.service", 80, at=99.9))
    assert not describe(STARTED)
    assert not describe(LoggedRate()), "no entry of this invocation is there yet"
    assert "80 messages of gw.service" in describe(LoggedRate(first_at=100.0, began_full=True))


def test_a_limit_that_earlier_invocations_used_up(played: Path) -> None:
    entry = {"PRIORITY": "6", "__REALTIME_TIMESTAMP": "99000000", INVOCATION: "a" * 32}
    own = entry | {INVOCATION: "b" * 32}  # may be older than the begin of its invocation, as systemd notes it
    (played / "entries").write_text(f"{json.dumps(entry)}\n" * 10 + f"{json.dumps(own)}\n" * 3)
    reader = Journalctl(time.monotonic() + PATIENCE)
    rate = read_earlier_rate(reader, JournalProbe("x", "gw.service", "b" * 32), LogSettings(since=100.0), LIMIT)
    assert (rate.began_full, rate.first_at, rate.most) == (True, 0.0, 10)
    assert (played / "call").read_text().endswith("--since=@95.000000 --until=@100.000000 _SYSTEMD_UNIT=gw.service")
    # The window goes on in the new invocation.
    assert rate.add([(99.5, INFO), (100.5, INFO)], LIMIT).most == 12


def test_a_user_s_units_are_limited_together(played: Path) -> None:
    (played / "entries").write_text(dropped("gw.service", 80) + dropped(f"user@{os.getuid()}.service", 1))
    assert f"journald reports 1 message of user@{os.getuid()}.service that it dropped" in describe(own=True)


@pytest.mark.parametrize(
    ("entries", "counts"),
    [
        ([(100.0, INFO)] * 9, [9]),
        # A window begins with the first message after the end of the previous one.
        ([*[(100.0, INFO)] * 9, (105.0, INFO), (105.1, INFO)], [1]),
        # Notice and info share a group; warnings have one of their own.
        ([(100.0, INFO), (101.0, NOTICE), (102.0, WARNING)], [1, 2]),
        ([(100.0, -1), (100.0, 99)], [1, 1]),
    ],
)
def test_messages_are_counted_as_journald_does(entries: list[tuple[float, int]], counts: list[int]) -> None:
    rate = LoggedRate().add(entries, LIMIT)
    assert sorted(window.count for window in rate.windows if window.count) == counts
    assert (rate.first_at, rate.most) == (100.0, max(counts))


@pytest.mark.usefixtures("played")
def test_a_full_window(config: Path) -> None:
    assert describe(LoggedRate((Window(100.0, 9), Window(100.0, 32)))) == (
        "; 32 entries of gw.service came within 5s, so journald may have dropped more because of its rate limit "
        "(LogRateLimitBurst=, 10 in 5s)"
    )
    assert not describe(LoggedRate((Window(100.0, 9),)))


@pytest.mark.usefixtures("played")
@pytest.mark.parametrize(
    ("settings", "text"),
    [
        ({"max_level": -1}, ""),
        ({"max_level": 7}, ""),
        ({"max_level": 6}, "; LogLevelMax=info of gw.service keeps out less important ones"),
        (
            {"max_level": 5},
            "; LogLevelMax=notice of gw.service keeps out less important ones, and a line of stdout counts as info",
        ),
        ({"has_patterns": True}, "; LogFilterPatterns= of gw.service keeps some out"),
    ],
)
def test_settings_of_the_unit(settings: dict[str, Any], text: str) -> None:
    assert describe(**settings) == text


@pytest.mark.parametrize(("began", "text"), [(99.0, ""), (40.0, "; the journal begins 1min after the start of this")])
def test_a_journal_that_begins_later(played: Path, monkeypatch: pytest.MonkeyPatch, began: float, text: str) -> None:
    monkeypatch.setattr(losses, "describe_unreadable", lambda *, own: "")
    (played / "entries").write_text('{"MESSAGE": "first", "__MONOTONIC_TIMESTAMP": "100000000"}\n')
    assert describe(since_monotonic=began).startswith(text)
    assert describe(since_monotonic=0.0) == ""


def test_the_limit_of_the_unit_or_of_journald(config: Path) -> None:
    own = LogSettings(rate_seconds=5.0, rate_burst=10)
    assert str(find_rate_limit(own, of_user=False)) == "LogRateLimitBurst=, 10 in 5s"
    assert str(find_rate_limit(own, of_user=True)) == "RateLimitBurst= in journald.conf, 10000 in 30s"
    (config / "usr" / "journald.conf").write_text("[Journal]\nRateLimitBurst=1\n")
    (config / "etc" / "journald.conf").write_text("[Journal]\n#RateLimitBurst=3\nRateLimitIntervalSec=1min\n")
    assert find_rate_limit(LogSettings(), of_user=False) == RateLimit(60.0, 10_000)
    (config / "usr" / "journald.conf.d" / "50-a.conf").write_text("[Journal]\n RateLimitBurst = 7\n")
    (config / "etc" / "journald.conf.d" / "10-b.conf").write_text("[Journal]\nRateLimitBurst=6\nRateLimitBurst=many\n")
    assert find_rate_limit(LogSettings(), of_user=False) == RateLimit(60.0, 7)
    (config / "usr" / "journald.conf.d" / "50-a.conf").unlink()
    assert find_rate_limit(LogSettings(), of_user=False) == RateLimit(60.0, 6)
    (config / "etc" / "journald.conf.d" / "50-a.conf").write_text("[Journal]\nRateLimitIntervalSec=0\n")
    assert find_rate_limit(LogSettings(), of_user=False) is None
