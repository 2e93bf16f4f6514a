"""The checker is checked: each law catches its planted bugs and passes their correct near-twins."""

from __future__ import annotations

import warnings

import pytest
from tests.mutants import Mutant, every, verdicts

FOUND = [(file, mutant) for file, mutants in every().items() for mutant in mutants]


@pytest.mark.parametrize("mutant", [m for _, m in FOUND], ids=[f"{file}-{m.law}-{m.name}" for file, m in FOUND])
def test_the_bug_is_caught_and_its_twin_passes(mutant: Mutant) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        bug, twin = verdicts(mutant, seed=0)
    assert bug.status == mutant.status, f"the bug: {bug.status} {bug.reason}"
    assert twin.status == "pass", f"the twin: {twin.status} {twin.reason}"
    if bug.status == "fail":
        assert bug.witness is not None
        assert bug.witness.said


def test_mutants_have_names_of_their_own() -> None:
    names = [(m.law, m.name) for _, m in FOUND]
    assert len(set(names)) == len(names)
