"""The pages on checking: their examples run, and the page of laws is the one that the registry gives."""

from __future__ import annotations

import re
from pathlib import Path

import mapsto
from mapsto.check import catalogue
from mapsto.core.laws import all_laws, example_of
from mapsto.testing import judge_law

DOCS = Path(__file__).parents[2] / "docs"


def test_the_examples_of_the_page_run():
    blocks = re.findall(r"^```python\n(.*?)^```", (DOCS / "check.md").read_text(), re.M | re.S)
    assert len(blocks) == 3
    names: dict[str, object] = {"__name__": "page_check"}
    for block in blocks:
        exec(compile(block, "check.md", "exec"), names)
    made = judge_law(names["Mix"], "layer.gradients", kind="layer")
    assert made.status == "pass"
    assert example_of(names["Mix"]).args["width"] == 4
    items = names["test_laws"].pytestmark[0].args[1]
    assert "Linear-layer.layout" in [item.id for item in items]
    assert [law.name for law in names["laws"]()] == ["layer.keeps_shape"]


def test_the_page_of_laws_is_current():
    said = "write it anew: mapsto check --list --markdown > docs/laws.md"
    assert (DOCS / "laws.md").read_text() == catalogue.page(list(all_laws().values())), said


def test_every_law_says_what_it_must():
    for law in all_laws().values():
        assert law.why.strip(), law.name
        assert law.satisfy.strip(), law.name
        assert law.seconds > 0, law.name
        assert set(law.kinds) <= set(mapsto.registry.kinds()), law.name


def test_ids_are_unique_within_a_kind():
    seen: dict[tuple[str, str], str] = {}
    for law in all_laws().values():
        for kind in law.kinds:
            assert seen.setdefault((kind, law.id), law.name) == law.name
