"""Files that are too large, too deep, not text or not YAML. Each is refused at once, with a position."""

from __future__ import annotations

import pytest
import yaml

from runbook.document import nodes, parse
from runbook.document.syntax import Position
from runbook.errors import DocumentError


def refusal(data: bytes | str) -> str:
    with pytest.raises(DocumentError) as caught:
        parse(data, "f")
    return str(caught.value)


@pytest.fixture(params=["CSafeLoader", "SafeLoader"])
def _loader(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(nodes, "_LOADER", getattr(yaml, request.param))


@pytest.mark.parametrize(
    ("data", "message"),
    [
        ("[" * 3_000_000, "f:1:1: the file is larger than 1 MiB"),
        (b"[" * 3_000_000, "f:1:1: the file is larger than 1 MiB"),
        ("[" * 1_000_000, "f:1:34: lists and mappings are nested more than 32 levels deep here"),
        ("{" * 1_000_000, "f:1:34: lists and mappings are nested more than 32 levels deep here"),
        ("[\n" * 500_000, "f:34:1: lists and mappings are nested"),
        ("- " * 500_000, "f:1:67: lists and mappings are nested"),
        ("? " * 500_000, "f:1:67: lists and mappings are nested"),
        ('{"a":[' * 100_000, "lists and mappings are nested"),
        ("\n".join("  " * i + "a:" for i in range(900)), "f:33:65: lists and mappings are nested"),
        (
            "a: &a " + "[" * 20 + "]" * 20 + "\nb: " + "[" * 20 + "*a" + "]" * 20,
            "f:2:24: lists and mappings are nested",
        ),
        ("- x\n" * 50_100, "f:50001:3: the file has more than 50000 values"),
        ("a: &a [*a]", "f:1:8: `*a` is inside its own definition `&a`"),
        ("a: &a {*a : 1}", "f:1:8: `*a` is inside its own definition `&a`"),
        ("", "f:1:1: the file is empty; a runbook needs `steps`"),
        ("# a comment\n", "f:1:1: the file is empty"),
        ("---\n...\n", "f:1:1: the file is empty"),
        ("steps", "f:1:1: a runbook must be a mapping"),
        (b"unit: gw\nname: caf\xe9\n", "f:2:10: the file is not UTF-8 from here on; save it as UTF-8"),
        ("steps: [restart]".encode("utf-16"), "f:1:1: the file is not UTF-8"),
        (bytes(range(256)) * 20, "f:2:118: the file is not UTF-8"),
        ("unit: gw\nname: a\0b\n", "f:2:8: the character U+0000 is not allowed in a text file"),
        ("unit: gw\nname: \x1b[31m\n", "f:2:7: the character U+001B is not allowed in a text file"),
        ("name: \ud800", "f:1:7: the character U+D800 is not allowed in a text file"),
    ],
    ids=lambda value: repr(value[:24]),
)
@pytest.mark.usefixtures("_loader")
def test_it_is_refused_with_a_position(data: bytes | str, message: str) -> None:
    assert refusal(data).startswith(message) or message in refusal(data)


@pytest.mark.parametrize(
    "text",
    [
        "%FOO bar\n---\na: b",
        "%YAML 9.9\n---\na: b",
        "a: |3\n  x",
        "a: >++\n x",
        "a: [b, c: d: e]",
        "a: 'x' y",
        'a: "\\xZZ"',
        "a: &\n",
        "a: *\n",
        "a: !<\n",
        "a: b\n c: d\n",
        "- a\nb: c",
        "a: `x`",
        "a: %x",
        "? a\n? b\n: : c",
        "a: [}",
        "{a: b]",
    ],
)
@pytest.mark.usefixtures("_loader")
def test_yaml_errors_are_reported_without_yaml_jargon(text: str) -> None:
    message = refusal("unit: gw\n" + text if text[0] not in "%-" else text)
    for foreign in ("token", "expected", "while", "block mapping", "flow", "node", "directive", "document start"):
        assert foreign not in message.partition("`")[0]


def test_an_empty_text_in_quotes_is_a_text() -> None:
    problems: nodes.Problems = []
    node = nodes.compose("a: ''\nb:\nc: ~\nd: 'null'\ne: null\nf: no\ng: 1.10\nh: 010\n", problems)
    assert not problems
    assert node is not None
    assert node.to_plain() == {
        "a": "",
        "b": None,
        "c": None,
        "d": "null",
        "e": None,
        "f": "no",
        "g": "1.10",
        "h": "010",
    }


def test_positions_count_characters_from_one() -> None:
    node = nodes.compose("# ü\nnäme: [x, {y: ü, z: w}]\n", [])
    assert node is not None
    entry = node.get("näme")
    assert entry is not None
    inner = entry.get(1)
    assert inner is not None
    assert (node.keys["näme"], entry.position) == (Position(2, 1), Position(2, 7))
    assert inner.keys["z"] == Position(2, 18)
    assert (inner.get("nope"), inner.get(0), entry.get(7), entry.get("x")) == (None, None, None, None)


@pytest.mark.parametrize("ends", ["\n", "\r\n"])
def test_a_file_from_windows_is_read(ends: str) -> None:
    data = b"\xef\xbb\xbf" + ends.join(["unit: gw", "steps:", "  - restart", ""]).encode()
    assert [step.id for step in parse(data).steps] == ["restart"]
