from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def numpy_wing(monkeypatch):
    """The wing `numpy` exists, and runs go into no folder of the checkout."""
    from mapsto.engine import wing

    monkeypatch.setitem(wing.WINGS, "numpy", "numpy_wing")
