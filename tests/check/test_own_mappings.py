"""Everything that mapsto registers keeps the laws of its kind: pairs of a mapping and a law, so that nothing is left out.

The files of tests/laws judge them, a kind a file; here stands what takes too long for them.
"""

from __future__ import annotations

import importlib
from pathlib import Path

import pytest

from mapsto.check.targets import UNCHECKED
from mapsto.core.laws import Law, all_laws, find_law
from mapsto.core.registry import Entry, registry
from mapsto.testing import in_words, judge_law

OWN = [e for e in registry.entries() if e.origin.startswith("mapsto ") and e.kind not in UNCHECKED]
LAWS = Path(__file__).parents[1] / "laws"


def owed() -> set[tuple[str, str]]:
    """(mapping, law): all that our own mappings owe, but for what only a thorough check asks."""
    laws = [law for law in all_laws().values() if law.priority < 2]
    return {(entry.key, law.name) for entry in OWN for law in laws if entry.kind in law.kinds}


def long() -> list[tuple[Entry, Law]]:
    """Sharded steps of the optimizers that tests/laws leaves out, and the export that takes a process of its own each time."""
    sharded = [e for e in OWN if e.kind == "optimizer" and e.name not in ("sgd", "adamw", "adafactor")]
    exported = [law for law in all_laws().values() if law.priority < 2 and "export" in law.kinds]
    found = [(entry, find_law("optimizer.sharded")) for entry in sharded]
    return found + [(entry, law) for entry in OWN if entry.key == "export/onnx" for law in exported]


def judged_in_the_files_of_laws() -> set[tuple[str, str]]:
    """(mapping, law) of each test that `laws_of` made there."""
    modules = [importlib.import_module(f"tests.laws.{path.stem}") for path in LAWS.glob("test_*.py")]
    marks = [mark for module in modules for made in vars(module).values() for mark in getattr(made, "pytestmark", ())]
    tests = [test for mark in marks if mark.name == "parametrize" and mark.args[0] == "law" for test in mark.args[1]]
    demands = [test.values[0] for test in tests if hasattr(test, "values")]
    return {(demand.subject.reference or demand.subject.label, demand.law.name) for demand in demands}


def test_each_law_of_each_mapping_is_judged() -> None:
    judged = judged_in_the_files_of_laws() | {(entry.key, law.name) for entry, law in long()}
    assert sorted(owed() - judged) == []
    assert len(owed()) > 600


@pytest.mark.slow
@pytest.mark.parametrize(("entry", "law"), [pytest.param(e, w, id=f"{e.key}-{w.name}") for e, w in long()])
def test_it_keeps_the_law(entry: Entry, law: Law) -> None:
    made = judge_law(entry.key, law.name, kind=entry.kind)
    if made.status == "not applicable":
        pytest.skip(made.reason)
    assert made.status in ("pass", "expected failure"), in_words(made, law)
