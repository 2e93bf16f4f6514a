"""What the tests of core share: a process whose registrations end with the test, and distributions made of two text files."""

from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import settings

from mapsto.core import recipes
from mapsto.core.kinds import KINDS
from mapsto.core.registry import registry

settings.register_profile("untimed", deadline=None)  # the machine may be busy: no test is about time
settings.load_profile("untimed")

Install = Callable[..., Path]


@pytest.fixture(autouse=True)
def _registrations_end_with_the_test() -> Iterator[None]:
    kinds, decorated, loaded = dict(KINDS), dict(registry._decorated), dict(registry._loaded)
    modules, files = set(sys.modules), dict(recipes._LOADED)
    yield
    KINDS.clear()
    KINDS.update(kinds)
    registry._decorated, registry._loaded, recipes._LOADED = decorated, loaded, files
    registry.refresh()
    for name in [n for n in set(sys.modules) - modules if n.startswith(("recipe_", "plug"))]:
        del sys.modules[name]


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Install:
    """`install("dist-name", {"kind/name": "module:attribute"}, module="source code")`: as pip would leave it.

    Of other groups than `mapsto` the key is the group, and the value its entries.
    """
    site = tmp_path / "site"
    site.mkdir()
    monkeypatch.syspath_prepend(str(site))

    def put(name: str, entries: dict[str, Any], version: str = "1.0", **modules: str) -> Path:
        info = site / f"{name.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")
        own = {k: v for k, v in entries.items() if isinstance(v, str)}
        groups = {"mapsto": own, **{k: v for k, v in entries.items() if k not in own}}
        texts = (f"[{g}]\n" + "".join(f"{k} = {v}\n" for k, v in found.items()) for g, found in groups.items())
        (info / "entry_points.txt").write_text("\n".join(texts))
        for module, source in modules.items():
            (site / f"{module}.py").write_text(source)
        importlib.invalidate_caches()
        registry.refresh()
        return site

    return put
