"""The examples of the pages about kinds of the framework run as they stand, and each page names the laws of its kind."""

from __future__ import annotations

import re
import warnings
from pathlib import Path

import pytest

from mapsto.core.laws import laws_for
from mapsto.core.registry import registry

PAGES = Path(__file__).parents[2] / "docs" / "kinds"
KINDS = ["layer", "loss", "optimizer", "schedule", "task", "metric", "surgery", "export", "op"]


@pytest.mark.parametrize("page", KINDS)
def test_the_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_decorated", dict(registry._decorated))
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) >= 2
    names = {"__name__": f"page_{page}"}
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # a law provokes what the framework warns of, as `mapsto check` does
        for block in blocks:
            exec(compile(block, f"{page}.md", "exec"), names)


@pytest.mark.parametrize("page", KINDS)
def test_every_law_of_the_kind_stands_in_its_page(page: str) -> None:
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    assert [law.name for law in laws_for(page, priority=2) if f"`{law.name.partition('.')[2]}`" not in text] == []


@pytest.mark.parametrize("page", KINDS)
def test_every_registered_name_stands_in_its_page(page: str) -> None:
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    own = [e for e in registry.entries(page) if e.origin.startswith("mapsto ")]
    assert [e.name for e in own if f"`{e.name}`" not in text] == []
