from __future__ import annotations

import os
from collections.abc import Iterator

import pytest
from tests.servers import pool as pools

os.environ["RAY_USAGE_STATS_ENABLED"] = "0"


@pytest.fixture(scope="module")
def pool() -> Iterator[None]:
    """One Ray cluster for a module."""
    with pools.pool():
        yield
