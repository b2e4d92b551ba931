"""Names of log files, and of files that only look so."""

from __future__ import annotations

import pytest

from runbook.util.log_names import is_log_file_name, is_log_name, may_be_log


@pytest.mark.parametrize(
    ("path", "is_log", "is_file"),
    [
        ("/var/log/nginx/error.log", True, True),
        ("/var/log/postgresql/postgresql-15-main.json", True, False),
        ("/opt/app/logs/app", True, False),
        ("/srv/app/app.err", True, True),
        ("/srv/app/access_log", True, False),
        ("/var/lib/redis/appendonly.aof", False, False),
        ("/var/lib/kafka/topic-0/00000000000000000042.log", False, False),
        ("/var/lib/leveldb/000003.log", False, False),
        ("/var/log/app/app.log (deleted)", False, False),
        ("/run/app/log.pid", False, False),
        ("/dev/log/x.log", False, False),
        ("/srv/a\nb.log", False, False),
        ("/tmp/a or touch /tmp/x or b.log", False, False),
        ("socket:[4711].log", False, False),
    ],
)
def test_names(path: str, is_log: bool, is_file: bool) -> None:
    assert is_log_name(path) is is_log
    assert is_log_file_name(path) is is_file


@pytest.mark.parametrize(("path", "may"), [("/srv/out.txt", True), ("/dev/null", False), ("pipe:[7]", False)])
def test_what_stdout_may_be(path: str, may: bool) -> None:
    assert may_be_log(path) is may
