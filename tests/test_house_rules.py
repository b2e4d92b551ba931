"""The rules of the source tree, as tests: layers, one place for each thing, plain words, pages that agree."""

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
"""The largest number of lines of a module."""

ONLY_IMPORTERS = {
    "gi": {"host/systemd/bus.py", "host/loop.py"},
    "jinja2": {"report/html.py", "template/"},
    "pydbus": {"host/systemd/bus.py"},
    "rich": {"report/terminal.py"},
    "tenacity": {"engine/execution/retry.py"},
    "typer": {"cli/"},
    "websockets": {"host/runners/websocket.py"},
    "yaml": {"document/"},
}
"""The only modules and folders that may import a library."""


BESIDE_THE_MIRROR = {Path("document/cases"), Path("document/hostile"), Path("document/robust"), Path("cli/robust")}
"""Test files that cover several modules together."""


def modules() -> list[Path]:
    return sorted(SOURCE.rglob("*.py"))


def imports(path: Path) -> Iterator[str]:
    """Yield the top-level package of each import of a module, at any depth."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name.split(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module:
            yield node.module.split(".")[0]


def run(*argv: str, **options: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, timeout=100, check=False)


def tool(name: str) -> str:
    return str(Path(sys.executable).parent / name)


def test_imports_lead_to_lower_layers_only() -> None:
    result = run(tool("lint-imports"), "--no-cache")
    assert result.returncode == 0, result.stdout[-3000:]


@pytest.mark.parametrize("library", ONLY_IMPORTERS)
def test_a_library_is_imported_in_one_place_only(library: str) -> None:
    places = ONLY_IMPORTERS[library]
    users = {str(path.relative_to(SOURCE)) for path in modules() if library in imports(path)}
    assert {user for user in users if not any(user.startswith(place) for place in places)} == set()


def test_host_modules_do_not_import_pydantic() -> None:
    """`doctor` must work without pydantic, so no module under host/ may import it."""
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
    """The facts of a step type that they need are attributes of its class."""
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
def test_a_module_is_not_too_long(path: Path) -> None:
    assert len(path.read_text().splitlines()) <= MOST_LINES


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_a_module_has_a_test_file_of_its_name(path: Path) -> None:
    """An `__init__` without functions and classes needs no test file."""
    body = ast.parse(path.read_text()).body
    if path.name == "__init__.py" and not any(isinstance(node, ast.FunctionDef | ast.ClassDef) for node in body):
        return
    name = path.stem.strip("_")
    folder = ROOT / "tests" / "unit" / path.parent.relative_to(SOURCE)
    assert (folder / f"test_{name}.py").is_file()


def test_a_unit_test_file_has_the_name_of_a_module() -> None:
    tests = ROOT / "tests" / "unit"
    named = {path.relative_to(tests).parent / path.stem.removeprefix("test_") for path in tests.rglob("test_*.py")}
    made = {path.relative_to(SOURCE).parent / path.stem.strip("_") for path in modules()}
    assert named - made - BESIDE_THE_MIRROR == set()


def test_a_public_name_has_one_meaning() -> None:
    """This covers classes, functions and constants of modules. A method may share its name with other classes."""
    where: dict[str, list[str]] = {}
    for path in modules():
        for node in ast.parse(path.read_text()).body:
            targets = node.targets if isinstance(node, ast.Assign) else []
            named = [target.id for target in targets if isinstance(target, ast.Name)]
            named += [node.name] if isinstance(node, ast.ClassDef | ast.FunctionDef) else []
            for name in named:
                where.setdefault(name, []).append(str(path.relative_to(SOURCE)))
    public = {name: found for name, found in where.items() if len(name) > 1 and not name.startswith("_")}
    assert {name: found for name, found in public.items() if len(found) > 1} == {}


WORDS = re.compile(
    r"\b(?:somebody|nobody|whoever|whosever|anybody|everybody|mend(?:s|ed|ing)?)\b|\"\"\"(?:Give|Say|Tell|Have) ",
    re.IGNORECASE,
)
"""Words that have a plainer one, such as "another process", "no process", "the caller", "fix", "Return"."""


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_the_prose_uses_plain_words(path: Path) -> None:
    lines = enumerate(path.read_text().splitlines(), 1)
    assert [f"{number}: {line.strip()}" for number, line in lines if WORDS.search(line)] == []


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_only_cli_prints_and_exits(path: Path) -> None:
    calls = [ast.unparse(node.func) for node in ast.walk(ast.parse(path.read_text())) if isinstance(node, ast.Call)]
    if path.parent.name != "cli":
        assert not {"sys.exit", "exit", "quit"} & set(calls)
        # A report prints to the stream that cli passes to it.
        assert "print" not in calls or path.parent.name == "report"


@pytest.mark.parametrize("path", modules(), ids=lambda path: str(path.relative_to(SOURCE)))
def test_everything_public_has_a_docstring(path: Path) -> None:
    """This covers modules, classes and functions. A method of an interface is documented at the interface."""
    tree = ast.parse(path.read_text())
    assert ast.get_docstring(tree), "a module without a docstring"
    for node in tree.body:
        if isinstance(node, ast.ClassDef | ast.FunctionDef) and not node.name.startswith("_"):
            assert ast.get_docstring(node), node.name


@pytest.mark.parametrize("runbook", sorted((ROOT / "runbooks").glob("*.yaml")), ids=lambda path: path.stem)
def test_a_shipped_runbook_is_valid_and_has_a_page_and_a_test(runbook: Path) -> None:
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


def test_help_loads_few_libraries() -> None:
    assert not loaded("--help") & {"gi", "pydbus", "pydantic", "yaml", "jinja2", "tenacity"}


def test_validate_does_not_load_the_bus() -> None:
    names = loaded("validate", "runbooks/openclaw-gateway.yaml")
    assert "pydantic" in names
    assert not names & {"gi", "pydbus", "tenacity", "websockets"}


@pytest.mark.parametrize("argv", [("history",), ("show",), ("show", "--output", "json")])
def test_commands_on_past_runs_load_neither_the_bus_nor_the_document(argv: tuple[str, ...]) -> None:
    assert not loaded(*argv) & {"gi", "pydbus", "pydantic", "yaml", "jinja2", "tenacity", "websockets"}


def test_no_file_names_a_developers_path_or_unfinished_work() -> None:
    """No file contains a path of a developer's computer, or a mark of unfinished work."""
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
