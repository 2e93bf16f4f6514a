from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def _no_texts_from_outside(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Whoever runs the tests may have set what the recipes read, and runs go into no folder of the checkout."""
    for name in ("TEXT", "TEXTS"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
