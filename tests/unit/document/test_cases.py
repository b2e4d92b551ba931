"""The wrong files of tests/cases/document. Their first lines are the errors that each must be reported with."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from runbook.document import parse
from runbook.errors import DocumentError

CASES = sorted((Path(__file__).parents[2] / "cases" / "document").glob("*.yaml"))


@pytest.mark.parametrize("path", CASES, ids=lambda path: path.stem)
def test_every_error_of_a_wrong_file_is_reported(path: Path) -> None:
    text = path.read_text()
    expected = re.findall(r"^# (\d+:\d+: .*)$", text, re.MULTILINE)
    assert expected, "a case that expects nothing"
    with pytest.raises(DocumentError) as caught:
        parse(text, "bad.yaml", environ={})
    assert str(caught.value).splitlines() == [f"bad.yaml:{line}" for line in expected]
    assert caught.value.exit_status == 2


def test_there_are_cases() -> None:
    assert len(CASES) > 40
