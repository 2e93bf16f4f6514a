"""The page of what an author may state: its examples run, and it names what the laws read, all of it and nothing else."""

from __future__ import annotations

import ast
import re
import warnings
from collections.abc import Iterator
from dataclasses import fields
from pathlib import Path

import pytest

from mapsto.core.laws import Example, laws_for
from mapsto.core.registry import registry

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "examples.md").read_text(encoding="utf-8")
FOUND = {"settled", "guessed", "unfound", "found", "known_weight", "arguments", "from_optimizer", "builders", "in_recipe"}
"""What laws write into an example for themselves."""
SECTIONS: dict[str, str] = dict(re.findall(r"^## (.+)\n((?:(?!^## ).*\n)*)", TEXT, re.M))
LAYERS = "layer, model"


def test_the_examples_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_decorated", dict(registry._decorated))
    blocks = re.findall(r"^```python\n(.*?)^```", TEXT, re.M | re.S)
    assert len(blocks) == len(SECTIONS)  # one a kind, and what they share
    names: dict[str, object] = {"__name__": "page_examples"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a law provokes what the framework warns of, as `mapsto check` does
        for block in blocks:
            exec(compile(block, "examples.md", "exec"), names)


def _tags(tree: ast.AST) -> Iterator[str]:
    """`has("tag")`, `"tag" in ....tags` and `....tags & {"tag", ...}`."""
    for node in ast.walk(tree):
        match node:
            case ast.Call(func=ast.Attribute(attr="has"), args=[ast.Constant(value=str(tag))]):
                yield tag
            case ast.Compare(left=ast.Constant(value=str(tag)), comparators=[ast.Attribute(attr="tags")]):
                yield tag
            case ast.BinOp(left=ast.Attribute(attr="tags"), op=ast.BitAnd(), right=ast.Set(elts=items)):
                yield from (item.value for item in items if isinstance(item, ast.Constant))


def _keywords(tree: ast.AST) -> Iterator[str]:
    """`more["name"]`, `more.get("name")` and `"name" in more`, of an example or of a variable."""
    for node in ast.walk(tree):
        match node:
            case ast.Subscript(value=of, slice=ast.Constant(value=str(name))) if _more(of):
                yield name
            case ast.Call(func=ast.Attribute(value=of, attr="get"), args=[ast.Constant(value=str(name)), *_]) if _more(of):
                yield name
            case ast.Compare(left=ast.Constant(value=str(name)), comparators=[of]) if _more(of):
                yield name


def _more(node: ast.expr) -> bool:
    return ast.unparse(node).rpartition(".")[2] == "more"


def _read() -> Iterator[tuple[str, ast.AST]]:
    for path in sorted((ROOT / "src" / "mapsto").rglob("*.py")):
        yield path.stem.partition("_")[0] if path.parent.name == "laws" else "", ast.parse(path.read_text(encoding="utf-8"))


def _where(kind: str) -> str:
    """What of the page may say it: the kind's section where the file's name tells one, else all."""
    if kind == "export":  # a layer is exported too
        return SECTIONS["export"] + SECTIONS[LAYERS]
    return SECTIONS.get(LAYERS if kind == "layer" else kind, TEXT)


def test_every_tag_and_keyword_that_a_law_reads_stands_in_its_section() -> None:
    tags = [(kind, tag) for kind, tree in _read() for tag in _tags(tree)]
    keywords = [(kind, name) for kind, tree in _read() for name in _keywords(tree) if name not in FOUND]
    assert ("layer", "row_independent") in tags
    assert ("", "sequential") not in tags
    assert ("middleware", "neutral") in keywords
    assert [one for one in tags + keywords if f"`{one[1]}`" not in _where(one[0])] == []


def _rows(section: str) -> list[list[str]]:
    lines = [line.strip("| ").split(" | ") for line in section.splitlines() if line.startswith("| `")]
    assert all(len(line) in (3, 4) for line in lines), lines
    return lines


def test_nothing_of_the_page_is_invented() -> None:
    read = {name for _, tree in _read() for name in (*_tags(tree), *_keywords(tree))} | {f.name for f in fields(Example)}
    assert "row_independent" in read
    assert [row[0] for section in SECTIONS.values() for row in _rows(section) if row[0].strip("`") not in read] == []


def test_every_law_that_is_named_is_one_of_the_kind() -> None:
    for title in set(SECTIONS) - {"Every kind"}:
        laws = {law.name for kind in title.split(", ") for law in laws_for(kind, priority=2)}
        assert laws, title
        ends = {name.partition(".")[2] for name in laws if not (title == LAYERS and name.startswith("export."))} | laws
        for row in _rows(SECTIONS[title]):
            named = re.findall(r"`([\w.]+)`", row[2])
            assert row[2].startswith("all") or named, row
            assert set(named) <= ends, row
