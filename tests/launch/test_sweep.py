"""Fifty random kills of random ranks: every run recovers, bitwise (`python -m tests.launch.sweep 50`)."""

from __future__ import annotations

import pytest
from tests.launch.sweep import sweep


@pytest.mark.slow
def test_fifty_kills(torch_server, tmp_path):
    found = sweep(torch_server, tmp_path, 50, seed=1)
    assert found["kills"] >= 50
    assert len({hit["step"] for hit in found["hits"]}) >= 8  # at many different steps
    assert len({hit["rank"] for hit in found["hits"]}) >= 3
