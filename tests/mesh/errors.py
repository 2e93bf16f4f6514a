"""How far what ranks found is from what one process found."""

from __future__ import annotations

from typing import Any

import numpy as np


def error(got: Any, want: Any) -> float:
    """The largest difference, relative to the largest element of what is wanted; of mappings the largest of any value."""
    if isinstance(want, dict):
        assert got.keys() <= want.keys(), sorted(got.keys() - want.keys())
        return max((error(got.get(n), v) for n, v in want.items() if v is not None), default=0.0)
    if got is None:
        return float(np.abs(want).max() > 0)
    want = np.asarray(want)
    return float(np.abs(np.asarray(got) - want).max() / max(np.abs(want).max(), 1e-30)) if want.size else 0.0
