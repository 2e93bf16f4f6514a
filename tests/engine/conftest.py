from __future__ import annotations

import sys
from pathlib import Path

import pytest

sys.path.insert(0, str(Path(__file__).parent))


@pytest.fixture(autouse=True)
def numpy_wing(monkeypatch):
    """The wing `numpy` exists, and runs go into no folder of the checkout."""
    import numpy_wing

    from mapsto.core.wings import WINGS

    monkeypatch.setitem(WINGS, "numpy", numpy_wing.FRAMEWORK)


@pytest.fixture
def simulated(monkeypatch):
    """The clock of the loop is moved by faults alone: what a step takes depends on no machine."""
    import faults

    from mapsto.engine import loop

    faults.CLOCK[0] = 0.0
    monkeypatch.setattr(loop, "clock", lambda: faults.CLOCK[0])
