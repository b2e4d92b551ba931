"""The pages agree with the code in their tables, links, examples, commands, verdicts and events."""

from __future__ import annotations

import ast
import itertools
import re
import shlex
import subprocess
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

from runbook import document, errors
from runbook.errors import DocumentError
from runbook.events import EventName
from runbook.model import Verdict
from runbook.report import journal
from runbook.steps import registry
from tests import docs
from tests.docs import DOCS, REFERENCE, ROOT, SOURCE

PAGES = docs.pages()
STEP_PAGES = sorted((REFERENCE / "steps").glob("*.md"))
BESIDES = {"wait-ready": "runbook.checks.health", "remediate": "runbook.engine.remediation"}
"""Modules that decide verdicts for a step type."""


@dataclass(frozen=True)
class Block:
    """A fenced block of a page.

    `kind` is the word after its language, as in `yaml wrong`. `source` are the comments above it.
    """

    page: Path
    line: int
    language: str
    kind: str
    text: str
    source: str

    @property
    def name(self) -> str:
        """Return the page and the line, as an id for pytest."""
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks(*languages: str) -> list[Block]:
    return [block for page in PAGES for block in _blocks(page, page.read_text()) if block.language in languages]


def _blocks(page: Path, text: str) -> Iterator[Block]:
    for match in docs.BLOCK.finditer(text):
        line = text.count("\n", 0, match.start("language")) + 1
        yield Block(page, line, match["language"], match["kind"] or "", match["text"], match["source"])


def prose(text: str) -> str:
    """Return a page without its fenced blocks."""
    return docs.BLOCK.sub("", text)


def name_of(value: object) -> str:
    return value.name if isinstance(value, Block) else str(Path(str(value)).relative_to(ROOT))


# -- generated parts


@pytest.mark.parametrize("page", docs.parts(), ids=name_of)
def test_the_generated_parts_are_up_to_date(page: Path) -> None:
    text = page.read_text()
    assert text == docs.written(text, docs.parts()[page]), "run make docs"


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_every_block_is_closed(page: Path) -> None:
    """An open block would hide the rest of the page from these tests."""
    assert "```" not in prose(page.read_text()).replace("${{`", "")


# -- links


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_each_link_leads_to_a_page_and_a_heading(page: Path) -> None:
    links = re.findall(r"\]\(([^)\s]+)\)", prose(page.read_text()))
    assert [link for link in links if not re.match(r"https?://", link) and not leads_somewhere(page, link)] == []


def leads_somewhere(page: Path, link: str) -> bool:
    name, _, anchor = link.partition("#")
    target = (page.parent / name).resolve() if name else page
    return target.is_file() and (not anchor or anchor in anchors(target))


def anchors(page: Path) -> set[str]:
    """Return the anchors that GitHub makes from the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text()), re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_every_page_is_in_the_index() -> None:
    index = (DOCS / "README.md").read_text()
    pages = [page for page in DOCS.rglob("*.md") if page.name != "README.md"]
    assert [page.name for page in pages if f"({page.relative_to(DOCS)})" not in index] == []


# -- examples


@pytest.mark.parametrize("block", [b for b in blocks("yaml") if not b.kind], ids=name_of)
def test_an_example_is_valid(block: Block) -> None:
    document.parse(whole(block.text), environ={})


@pytest.mark.parametrize("block", [b for b in blocks("yaml") if b.kind == "wrong"], ids=name_of)
def test_a_wrong_example_is_refused_with_the_errors_on_the_page(block: Block) -> None:
    with pytest.raises(DocumentError) as refused:
        document.parse(block.text, "upgrade.yaml", environ={})
    shown = block.page.read_text()
    assert [str(problem) for problem in refused.value.problems if f"{problem}\n" not in shown] == []


@pytest.mark.parametrize(
    ("test", "schema"),
    [("test_the_workflow_of_github", "github-workflows"), ("test_the_pipeline_of_gitlab", "gitlab-ci")],
)
def test_a_workflow_fits_the_published_schema(tmp_path: Path, test: str, schema: str) -> None:
    [text] = docs.blocks_of_test(test)
    file = tmp_path / "workflow.yaml"
    file.write_text(text)
    argv = [sys.executable, "-m", "check_jsonschema", "--builtin-schema", f"vendor.{schema}", str(file)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


def test_a_yaml_block_is_complete_or_marked_as_a_part() -> None:
    assert {block.kind for block in blocks("yaml")} <= {"", "part", "wrong", "workflow"}
    assert [b.name for b in blocks("yaml") if b.kind == "part" and re.search(r"^steps:", b.text, re.MULTILINE)] == []


def whole(text: str) -> str:
    """Return a complete runbook, made from a list of steps or from a file without `unit` and `port`."""
    if text.startswith("- "):
        text = f"vars: {{version: '2.0', old: '1.0'}}\nsteps:\n{textwrap.indent(text, '  ')}"
    for line in ("unit: gateway", "port: 18789"):
        text = text if re.search(rf"^{line.partition(' ')[0]}", text, re.MULTILINE) else f"{line}\n{text}"
    return text


# -- commands


@dataclass(frozen=True)
class Typed:
    """A command as a page shows it, after the word `runbook`."""

    where: str
    words: tuple[str, ...]


def commands_shown() -> list[Typed]:
    found: list[Typed] = []
    for block in blocks("console", "sh", "text"):
        # In a transcript a command follows a prompt; in a script it is a line of its own.
        start = r"^ *\$ " if block.language != "sh" else r"^"
        for line in re.findall(rf"{start}(.*\brunbook .*)$", block.text.replace("\\\n", " "), re.MULTILINE):
            found += _typed(block.name, line)
    for page in PAGES:
        for code in re.findall(r"`((?:sudo )?runbook [a-z-][^`]*)`", prose(page.read_text())):
            found += _typed(name_of(page), code)
    return found


def _typed(where: str, line: str) -> Iterator[Typed]:
    words = shlex.split(line, comments=True)
    for at, word in enumerate(words):
        # This finds `ssh gw1 sudo runbook …` as well, but not /opt/runbook or a sentence in quotes.
        if word == "runbook" and at + 1 < len(words):
            # The words behind a pipe are another command.
            yield Typed(where, tuple(itertools.takewhile(lambda word: word != "|", words[at + 1 :])))


def test_every_command_that_is_shown_exists() -> None:
    wrong = []
    shown = commands_shown()
    assert len(shown) > 20
    for typed in shown:
        command, *rest = typed.words
        options = {"--help", "-h", "--version"} if command.startswith("-") else docs.options_of(command)
        given = {word.partition("=")[0] for word in typed.words if re.match(r"-{1,2}[a-z]", word)}
        if options is None or not given <= options:
            wrong.append(f"{typed.where}: runbook {shlex.join((command, *rest))}")
    assert wrong == []


TESTED = re.compile(r"<!-- tested: (.+) -->")
RECORDED = re.compile(r"<!-- (?:shown|run|demo)\b")


@pytest.mark.parametrize("block", blocks("console", "sh"), ids=name_of)
def test_every_command_is_run(block: Block) -> None:
    """Each block is recorded from a real run, or run by a named test or by .ci/run."""
    if RECORDED.search(block.source):
        return
    named = TESTED.search(block.source)
    assert named, f"no <!-- shown -->, <!-- run --> or <!-- tested: NAME --> above {block.name}"
    if all(command.startswith("make ") for command in docs.commands_in(block.text)):
        assert (ROOT / named[1]).is_file() or sources_of_tests()[named[1]]
    else:
        assert f'blocks_of_test("{named[1]}")' in sources_of_tests()[named[1]]


@cache
def sources_of_tests() -> dict[str, str]:
    """Return the source of the test functions, by name."""
    trees = [(path.read_text(), path) for path in (ROOT / "tests").rglob("test_*.py")]
    found = {}
    for text, path in trees:
        for node in ast.parse(text, str(path)).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[node.name] = ast.get_source_segment(text, node) or ""
    return found


def test_every_make_target_exists() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    shown = [
        word for block in blocks("console") for word in re.findall(r"^\$ make ([a-z-]+)", block.text, re.MULTILINE)
    ]
    shown += [word for page in PAGES for word in re.findall(r"`make ([a-z-]+)", prose(page.read_text()))]
    assert len(shown) > 5
    assert set(shown) <= targets


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_a_page_names_the_files_that_it_shows(page: Path) -> None:
    text = page.read_text()
    files = re.findall(r"^<!-- file: (\S+) -->$", text, re.MULTILINE)
    assert [file for file in files if f"`{file}`" not in prose(text)] == []


@pytest.mark.parametrize(
    ("applied", "resumed", "status", "printed"),
    [
        (0, 0, 0, "deployed"),
        (3, 0, 0, "deployed"),
        (3, 3, 3, "not ready yet"),
        (3, 4, 4, "rolled back"),
        (4, 0, 4, "rolled back"),
        (6, 0, 6, "a fix was needed"),
        (75, 0, 75, "has the lock"),
        (1, 0, 1, '"event": "run-finished"'),
    ],
)
def test_the_ci_script_maps_each_status(tmp_path: Path, applied: int, resumed: int, status: int, printed: str) -> None:
    [script] = docs.blocks_of_test("test_the_ci_script_maps_each_status")
    line = '{"time": "2026-11-29T18:23:51Z", "run": "20261129-1823-cvu", "event": "run-finished"}'
    ssh = tmp_path / "ssh"
    ssh.write_text(
        f"#!/bin/sh\necho \"$*\" >>calls\necho '{line}'\n"
        f"case $* in *resume*20261129-1823-cvu*) exit {resumed} ;; *apply*) exit {applied} ;; esac\nexit 99\n"
    )
    ssh.chmod(0o755)
    environment = {"PATH": f"{tmp_path}:/usr/bin:/bin", "VERSION": "2026.5.5"}
    done = subprocess.run(
        ["sh", "-e", "-c", script], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
    )
    assert done.returncode == status, done
    assert printed in done.stdout
    assert "--set version=2026.5.5 /etc/runbook/gateway.yaml" in (tmp_path / "calls").read_text()


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_no_recorded_output_has_a_traceback(page: Path) -> None:
    assert "Traceback" not in page.read_text()


# -- tables


def test_every_verdict_has_a_line() -> None:
    text = (REFERENCE / "verdicts.md").read_text()
    assert [verdict for verdict in Verdict if f"| `{verdict}` | {verdict.meaning}" not in text] == []


def test_every_verdict_of_a_failure_has_a_section() -> None:
    text = (REFERENCE / "verdicts.md").read_text()
    done = "already-so command-done fixed holds job-done killed nothing-to-kill owned ready reloaded reset"
    passed = {*done.split(), "up-to-date", "updated", "version-ok"}
    assert re.findall(r"^### (.+)$", text, re.MULTILINE) == [verdict for verdict in Verdict if verdict not in passed]


@pytest.mark.parametrize("block", blocks("json"), ids=name_of)
def test_a_verdict_in_an_example_is_one(block: Block) -> None:
    """A recorded example may be older than the word. A skipped step, and a run that did not fail, have none."""
    assert set(re.findall(r'"(?:verdict|found|because)": "([^"]*)"', block.text)) - {""} <= set(Verdict)


@pytest.mark.parametrize("page", STEP_PAGES, ids=name_of)
def test_the_page_of_a_step_type_lists_its_verdicts(page: Path) -> None:
    """The list has all verdicts that the module and its base classes return, and no other word."""
    section = page.read_text().partition("\n## Verdicts\n")[2].partition("\n## ")[0]
    listed = {
        word for row in re.findall(r"^\| (`.*?) \|", section, re.MULTILINE) for word in re.findall(r"`([^`]+)`", row)
    }
    assert listed <= set(Verdict)
    assert docs.given_verdicts(*judges(page.stem)) | {registry()[page.stem].failure_verdict} <= listed


def judges(kind: str) -> list[Path]:
    """Return the modules that decide the verdicts of a step type: those of its class and its base classes."""
    # pydantic puts a class such as `Step[Memory]` into the module that first used it, which may be any.
    written = [cls for cls in registry()[kind].__mro__ if "[" not in cls.__name__]
    names = {cls.__module__ for cls in written} - {"runbook.spec.step"}
    names |= {BESIDES[kind]} if kind in BESIDES else set()
    return [SOURCE.joinpath(*name.split(".")[1:]).with_suffix(".py") for name in names if name.startswith("runbook.")]


@pytest.mark.parametrize("page", STEP_PAGES, ids=name_of)
def test_the_page_of_a_step_type_has_its_sections(page: Path) -> None:
    headings = re.findall(r"^#+ (.+)$", prose(page.read_text()), re.MULTILINE)
    assert headings[0] == page.stem
    assert {"Fields", "Verdicts", "Guarantees", "Background"} <= set(headings)


def test_every_event_has_an_example() -> None:
    shown = set(re.findall(r'"event": "([a-z-]+)"', (REFERENCE / "event-examples.md").read_text()))
    assert {str(name) for name in EventName} == shown


def test_every_exit_status_has_a_line() -> None:
    codes = {value for name, value in vars(errors).items() if name.startswith("EXIT_")} | {130, 143}
    rows = re.findall(r"^\| (\d+) \|", (REFERENCE / "exit-status.md").read_text(), re.MULTILINE)
    assert {int(row) for row in rows} == codes


def test_every_kind_of_journal_message_has_its_id_on_the_page() -> None:
    page = (REFERENCE / "journal.md").read_text()
    assert sorted(re.findall(r"^\| `([0-9a-f]{32})` \|", page, re.MULTILINE)) == sorted(
        [*journal.MESSAGE_IDS.values(), journal.KILL_MESSAGE_ID]
    )


def test_the_page_on_architecture_names_every_folder() -> None:
    text = (DOCS / "explanation" / "architecture.md").read_text()
    entries = {f"{path.name}/" if path.is_dir() else path.name for path in SOURCE.iterdir()}
    entries -= {"__init__.py", "py.typed", "__pycache__/"}
    assert {entry for entry in entries if f"\n  {entry} " not in text} == set()
