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


@pytest.fixture
def simulated(monkeypatch):
    """The clock of the loop is moved by faults alone: what a step takes depends on no machine."""
    import faults

    from mapsto.engine import loop

    faults.CLOCK[0] = 0.0
    monkeypatch.setattr(loop, "clock", lambda: faults.CLOCK[0])
