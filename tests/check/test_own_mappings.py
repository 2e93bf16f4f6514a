"""Everything that mapsto registers keeps the laws of its kind: generated from the registry, so that nothing is left out."""

from __future__ import annotations

import pytest

from mapsto.check.targets import UNCHECKED
from mapsto.core.laws import Law, all_laws
from mapsto.core.registry import Entry, registry
from mapsto.testing import in_words, judge_law

OWN = [e for e in registry.entries() if e.origin.startswith("mapsto ") and e.kind not in UNCHECKED]
EXEMPT: dict[tuple[str, str], str] = {}
"""(kind/name, law) -> why it is not kept. Strict: one that passes must be taken out. `expect` beside a mapping is the rule;
here stands only what cannot stand there."""
LONG = 60.0
"""Laws with a time limit above this (seconds) are judged in the slow tests."""


def owed() -> list[object]:
    """A test a mapping and law: the laws that gate by default, all others among the slow tests."""
    found = []
    for entry in OWN:
        for law in all_laws().values():
            if entry.kind in law.kinds and law.priority < 2:
                slow = law.priority > 0 or law.ranks > 1 or law.seconds > LONG
                marks = [pytest.mark.slow] if slow else []
                found.append(pytest.param(entry, law, id=f"{entry.key}-{law.name}", marks=marks))
    return found


@pytest.mark.parametrize(("entry", "law"), owed())
def test_it_keeps_the_law(entry: Entry, law: Law) -> None:
    made = judge_law(entry.key, law.name, kind=entry.kind)
    if (entry.key, law.name) in EXEMPT:
        assert made.status == "fail", f"it is exempt, and {made.status}: take it out of EXEMPT"
        pytest.xfail(EXEMPT[entry.key, law.name])
    if made.status == "not applicable":
        pytest.skip(made.reason)
    assert made.status in ("pass", "expected failure"), in_words(made, law)
    if made.status == "pass":
        assert sum(made.counts.values()) > 0


def test_exemptions_name_what_exists() -> None:
    keys, laws = {e.key for e in OWN}, all_laws()
    assert [pair for pair in EXEMPT if pair[0] not in keys or pair[1] not in laws] == []


def test_there_are_many() -> None:
    assert len(OWN) > 50
