"""What all tests share: nothing of a test is left to the settings of whoever runs it, nor to the tests after it."""

from __future__ import annotations

import gc
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from mapsto.core import recipes
from mapsto.processes.forks import ForkServer

DEAR = (
    "test_mutants.py",
    "plugin",
    "mesh",
    "planning",
    "launch",
    "check",
    "servers",
    "laws",
    "recipes",
    "hostile",
    "cli",
    "engine",
)
"""What takes longest, first: files go whole to one worker, and at the end none should be left alone with a long one."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Dear folders first, else in the order of the files."""
    here, places = Path(__file__).parent, {name: place for place, name in enumerate(DEAR)}
    items.sort(key=lambda item: places.get(item.path.relative_to(here).parts[0], len(DEAR)))


def pytest_collection_finish() -> None:
    """What was imported stays: collections during the tests, which some laws ask for at every event, need not go through it."""
    gc.collect()
    gc.freeze()


@pytest.fixture(autouse=True)
def _recipes_end_with_the_test(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """A run keeps every recipe that its process has loaded; those that a test wrote are no longer of the process after it."""
    before, written = set(recipes._LOADED), str(tmp_path_factory.getbasetemp())
    yield
    for name in [n for n, recipe in recipes._LOADED.items() if n not in before and str(recipe.path).startswith(written)]:
        del recipes._LOADED[name]


@pytest.fixture(autouse=True, scope="session")
def _own_settings(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """The user's configuration directory, also of processes that tests start, is one of their own."""
    before, folder = os.environ.get("XDG_CONFIG_HOME"), tmp_path_factory.mktemp("settings")
    os.environ["XDG_CONFIG_HOME"] = str(folder)
    yield folder
    if before is None:
        del os.environ["XDG_CONFIG_HOME"]
    else:
        os.environ["XDG_CONFIG_HOME"] = before


@pytest.fixture(scope="session")
def loaded() -> Iterator[ForkServer]:
    """What processes of tests are forked from (`tests.forked`): one that has the framework imported."""
    from tests.forked import PRELOAD

    with ForkServer(PRELOAD) as server:
        yield server
