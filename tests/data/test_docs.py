"""The examples of the pages about sources, orders, readers and transforms run as they stand."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from mapsto.core.registry import registry

PAGES = Path(__file__).parents[2] / "docs" / "kinds"


@pytest.mark.parametrize("page", ["source", "order", "reader", "transform"])
def test_the_examples_run(page: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(registry, "_decorated", dict(registry._decorated))
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    blocks = re.findall(r"^```python\n(.*?)^```", text, re.M | re.S)
    assert len(blocks) >= 2
    names = {"__name__": f"page_{page}"}
    for block in blocks:
        exec(compile(block, f"{page}.md", "exec"), names)


@pytest.mark.parametrize("page", ["source", "order", "transform"])
def test_every_registered_name_stands_in_its_page(page: str) -> None:
    text = (PAGES / f"{page}.md").read_text(encoding="utf-8")
    missing = [e.name for e in registry.entries(page) if e.reference.startswith("mapsto.") and f"`{e.name}`" not in text]
    assert missing == []
