"""The rules of the house, as tests: layers, one room for each thing, and pages that agree with the code."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
SOURCE = ROOT / "src" / "runbook"
STEPS = sorted(p.stem for p in (SOURCE / "steps").glob("*.py") if p.stem != "__init__")

MOST_LINES = 400
"""A module of a size that one can hold in the head."""

ONLY_IMPORTERS = {
    "gi": {"host/systemd/bus.py", "host/loop.py"},
    "jinja2": {"template/"},
    "pydbus": {"host/systemd/bus.py"},
    "rich": {"report/layout.py"},
    "tenacity": {"engine/execution/retry.py"},
    "typer": {"cli/"},
    "websockets": {"host/runners/websocket.py"},
    "yaml": {"document/"},
}
"""Which rooms know which library; everybody else goes through them."""


BESIDE_THE_MIRROR = {Path("document/cases"), Path("document/hostile"), Path("document/robust"), Path("cli/robust")}
"""Tests of what several modules do together."""


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Give the top-level package of everything that a module imports, wherever in it."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def run(*argv: str, **options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def test_imports_go_downwards_only() -> None:
    result = run(tool("lint-imports"), "--no-cache")
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.mark.parametrize("library", ONLY_IMPORTERS)
def test_a_library_has_one_room(library: str) -> None:
    rooms = ONLY_IMPORTERS[library]
    users = {str(path.relative_to(SOURCE)) for path in modules() if library in imports(path)}
    assert {user for user in users if not any(user.startswith(room) for room in rooms)} == set()


def test_the_machine_does_not_know_the_document() -> None:
    """`doctor` must do without pydantic, so nothing under host/ may need it."""
    assert [str(path) for path in (SOURCE / "host").rglob("*.py") if "pydantic" in imports(path)] == []


@pytest.mark.parametrize("stem", STEPS)
def test_a_step_type_has_one_file_one_test_one_page(stem: str) -> None:
    kind = stem.replace("_", "-")
    assert (ROOT / "tests" / "unit" / "steps" / f"test_{stem}.py").is_file()
    assert (ROOT / "docs" / "reference" / "steps" / f"{kind}.md").is_file()
    tree = ast.parse((SOURCE / "steps" / f"{stem}.py").read_text())
    classes = [node.name for node in tree.body if isinstance(node, ast.ClassDef)]
    assert "".join(part.capitalize() for part in stem.split("_")) in classes


def test_the_engine_and_the_reports_name_no_step_type() -> None:
    """What they must know of a step type, its class says."""
    kinds = {stem.replace("_", "-") for stem in STEPS}
    found = []
    for path in (path for folder in ("engine", "report") for path in (SOURCE / folder).rglob("*.py")):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and node.value in kinds:
                found.append(f"{path.relative_to(SOURCE)}:{node.lineno}: {node.value}")
    assert found == []


def test_every_page_and_case_belongs_to_a_step_type() -> None:
    kinds = {stem.replace("_", "-") for stem in STEPS}
    assert {p.stem for p in (ROOT / "docs" / "reference" / "steps").glob("*.md")} == kinds
    assert {p.name for p in (ROOT / "tests" / "cases").iterdir()} - {"document"} <= kinds


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_can_be_held_in_the_head(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_has_a_test_of_its_name(path: Path) -> None:
    """An `__init__` without code of its own needs none."""
    body = ast.parse(path.read_text()).body
    if path.name == "__init__.py" and not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in body):
        return
    name = path.stem.strip("_")
    folder = ROOT / "tests" / "unit" / path.parent.relative_to(SOURCE)
    assert (folder / f"test_{name}.py").is_file()


def test_a_unit_test_belongs_to_a_module() -> None:
    tests = ROOT / "tests" / "unit"
    named = {path.relative_to(tests).parent / path.stem.removeprefix("test_") for path in tests.rglob("test_*.py")}
    made = {path.relative_to(SOURCE).parent / path.stem.strip("_") for path in modules()}
    assert named - made - BESIDE_THE_MIRROR == set()


WORDS = re.compile(
    r"\b(?:somebody|nobody|whoever|whosever|anybody|everybody|mend(?:s|ed|ing)?)\b|\"\"\"(?:Give|Say|Tell|Have) ",
    re.IGNORECASE,
)
"""What has a plainer word: "another process", "no process", "the caller", "fix", "Return"."""


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_prose_names_the_thing(path: Path) -> None:
    lines = enumerate(path.read_text().splitlines(), 1)
    assert [f"{number}: {line.strip()}" for number, line in lines if WORDS.search(line)] == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_cli_prints_and_exits(path: Path) -> None:
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    if path.parent.name != "cli":
        assert not {"sys.exit", "exit", "quit"} & set(calls)
        # A report prints to the stream that cli hands it.
        assert "print" not in calls or path.parent.name == "report"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_everything_public_says_what_it_does(path: Path) -> None:
    """Modules, classes and functions; a method that fulfils a contract of another class is told there."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module without a first sentence"
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


@pytest.mark.parametrize("runbook", sorted((ROOT / "runbooks").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_runbook_is_sound_and_has_a_page_and_a_test(runbook: Path) -> None:
    checked = run(tool("runbook"), "validate", str(runbook))
    assert checked.returncode == 0, checked.stderr
    pages = [page for page in (ROOT / "docs").rglob("*.md") if runbook.name in page.read_text()]
    tests = [test for test in (ROOT / "tests" / "machine").rglob("*.py") if runbook.stem in test.read_text()]
    assert pages
    assert tests
    assert f"runbooks/{runbook.name}" in (ROOT / "README.md").read_text()


LOADED = """
import sys
sys.argv = ["runbook", *sys.argv[1:]]
from runbook import cli
try:
    cli.main()
except SystemExit:
    pass
print(*sorted({name.split(".")[0] for name in sys.modules}), file=sys.stderr)
"""


def loaded(*argv: str) -> set[str]:
    return set(run(sys.executable, "-c", LOADED, *argv).stderr.splitlines()[-1].split())


def test_help_is_cheap() -> None:
    assert not loaded("--help") & {"gi", "pydbus", "pydantic", "yaml", "jinja2", "tenacity"}


def test_validate_needs_no_bus() -> None:
    names = loaded("validate", "runbooks/openclaw-gateway.yaml")
    assert "pydantic" in names
    assert not names & {"gi", "pydbus", "tenacity", "websockets"}


@pytest.mark.parametrize("argv", [("history",), ("show",), ("show", "--output", "json")])
def test_what_tells_of_past_runs_needs_neither_systemd_nor_the_runbook(argv: tuple[str, ...]) -> None:
    assert not loaded(*argv) & {"gi", "pydbus", "pydantic", "yaml", "jinja2", "tenacity", "websockets"}


def test_the_tree_speaks_of_itself_alone() -> None:
    """No path of a developer's machine, and no mark of unfinished work."""
    wrong = re.compile(r"/(?:work|farm)/|\b(?:TODO|FIXME|XXX)\b")
    tracked = run("git", "ls-files", "--cached", "--others", "--exclude-standard").stdout.split()
    assert tracked
    found = []
    for name in tracked:
        path = ROOT / name
        if path.is_file() and path != Path(__file__) and path.suffix in (".py", ".md", ".yaml", ".toml", ".sh", ""):
            text = path.read_text(errors="replace")
            found += [f"{name}: {match[0]}" for match in wrong.finditer(text)]
    assert found == []
