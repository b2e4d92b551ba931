"""The whole command with mutated files: an exit status of the contract and a message, never a traceback."""

from __future__ import annotations

import io
import random
import sys
from pathlib import Path

import pytest

from runbook import cli
from tests.unit.document.test_robust import structure_changed, text_changed


@pytest.mark.parametrize("seed", range(8))
def test_a_mutated_file(seed: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", f"unix:path={tmp_path}/none")
    monkeypatch.setenv("XDG_RUNTIME_DIR", str(tmp_path))
    chance = random.Random(seed)
    path = tmp_path / "f.yaml"
    for number in range(12):
        text = structure_changed(chance) if number % 2 else text_changed(chance)
        path.write_text(text, encoding="utf-8", errors="surrogatepass")
        for words in (["validate"], ["apply", "--dry-run"], ["check", "--output", "json"], ["apply"]):
            out, err = io.StringIO(), io.StringIO()
            monkeypatch.setattr(sys, "argv", ["runbook", *words, str(path)])
            monkeypatch.setattr(sys, "stdout", out)
            monkeypatch.setattr(sys, "stderr", err)
            status = cli._run_app()
            output = out.getvalue() + err.getvalue()
            assert status in ((0, 2) if words == ["validate"] else (2, 5)), (text, output)
            assert "Traceback" not in output, text
            assert "internal error" not in output, text
            assert all(char.isprintable() or char in "\n\t" for char in output), repr(output)
            assert output
