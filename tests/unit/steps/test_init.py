"""The registry of step types: one a module, imported when it is looked up."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from runbook import steps
from runbook.steps import StepTypes, registry


def test_the_types_are_the_files_of_the_folder() -> None:
    files = {path.stem.replace("_", "-") for path in Path(steps.__file__).parent.glob("*.py")} - {"--init--"}
    assert set(registry()) == files
    assert len(registry()) == len(files)
    assert "nope" not in registry()


@pytest.mark.parametrize(("name", "text"), [("empty_one", ""), ("other_name", "class Other: pass"), ("a", "A = 3")])
def test_a_file_that_does_not_define_its_type_is_an_error(
    name: str, text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / f"{name}.py").write_text(text)
    monkeypatch.setattr(steps, "__path__", [str(tmp_path)])
    monkeypatch.delitem(sys.modules, f"runbook.steps.{name}", raising=False)
    kind = name.replace("_", "-")
    with pytest.raises(ImportError, match=f"must define the step type {kind} as the class "):
        StepTypes()[kind]


def test_a_module_is_imported_when_its_type_is_looked_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "broken.py").write_text("raise ZeroDivisionError")
    monkeypatch.setattr(steps, "__path__", [str(tmp_path)])
    types = StepTypes()
    assert list(types) == ["broken"]
    with pytest.raises(ZeroDivisionError):
        types["broken"]
