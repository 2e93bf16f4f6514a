from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

import pytest

from mapsto import registry
from mapsto.core import recipes

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _no_texts_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever runs the tests may have set what the recipes read, and runs go into no folder of the checkout."""
    for name in ("TEXT", "TEXTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)


@pytest.fixture(scope="module")
def recipe(request: pytest.FixtureRequest) -> Iterator[ModuleType]:
    """The recipe that a test module names in RECIPE; after the module its names are free again."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(registry, "_decorated", {})
        patch.setattr(registry, "_loaded", {})
        patch.setattr(recipes, "_LOADED", {})
        yield recipes.load_file(request.module.RECIPE)
