"""One fork server for fake ranks, and one with the framework for real ones, for all tests of a process."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from mapsto.processes.forks import ForkServer


@pytest.fixture(scope="session")
def bare() -> Iterator[ForkServer]:
    """Without a framework."""
    with ForkServer(("tests.launch.fake_ranks",), threads=1) as server:
        yield server


@pytest.fixture(scope="session")
def torch_server() -> Iterator[ForkServer]:
    """With the framework."""
    from mapsto.cli.launching import PRELOAD
    from mapsto.wings.torch import TORCH

    with ForkServer((*TORCH.preload, *PRELOAD), threads=1) as server:
        yield server
