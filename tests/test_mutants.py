"""The checker is checked: each law catches its planted bugs and passes their correct near-twins."""

from __future__ import annotations

import warnings
from contextlib import nullcontext

import pytest
from tests.mutants import Mutant, every, verdicts
from tests.servers.pool import pool

from mapsto.core.laws import all_laws, find_law

FOUND = [(file, mutant) for file, mutants in every().items() for mutant in mutants]
LONG = 100.0
"""Laws with a time limit above this (seconds) compile or start processes: their mutants run in the slow tests."""


def params() -> list[object]:
    """Each mutant as a test; of a long law the first, and the others among the slow tests."""
    found, seen = [], set[str]()
    for file, mutant in FOUND:
        slow = mutant.law in seen and find_law(mutant.law).seconds > LONG
        seen.add(mutant.law)
        name = f"{file}-{mutant.law}-{mutant.name}"
        found.append(pytest.param(mutant, id=name, marks=[pytest.mark.slow] if slow else []))
    return found


@pytest.mark.parametrize("mutant", params())
def test_the_bug_is_caught_and_its_twin_passes(mutant: Mutant) -> None:
    served = pool() if mutant.law == "program.served" else nullcontext()  # the twin uses the processes of the bug
    with served, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bug, twin = verdicts(mutant, seed=0)
    if bug.status == "not applicable" and "not installed" in bug.reason:
        pytest.skip(bug.reason)
    assert bug.status == mutant.status, f"the bug: {bug.status} {bug.reason}"
    assert twin.status == "pass", f"the twin: {twin.status} {twin.reason}"
    if bug.status == "fail":
        assert bug.witness is not None
        assert bug.witness.said


def test_every_law_has_a_planted_bug() -> None:
    caught = {find_law(mutant.law).name for _, mutant in FOUND}
    assert [law.name for law in all_laws().values() if law.name not in caught] == []


def test_mutants_have_names_of_their_own() -> None:
    names = [(m.law, m.name) for _, m in FOUND]
    assert len(set(names)) == len(names)
