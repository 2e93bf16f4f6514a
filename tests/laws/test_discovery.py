"""An example is found once for what was stated, and never taken for that of another statement."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from mapsto.core.laws import Example, Law, Subject, Trial
from mapsto.laws.discovery import Held, settled

LAW = Law(name="layer.any", id="0", kinds=("layer",), priority=0, statement="Any.", why="", satisfy="", check=print)
LONG = np.zeros(2000)
"""Longer than what its text shows: 1, 0, 0, ..., 0 and 2, 0, 0, ..., 0 in its middle are told alike."""


class Target: ...


def found(held: Held, **args: Any) -> tuple[Example, int]:
    """The example that is found for these arguments, and how many times something was searched."""
    searched = []

    def discover(subject: Subject) -> Example:
        searched.append(subject)
        return replace(subject.example, more={"settled": True})

    subject = Subject(kind="layer", label="it", reference="", target=Target, example=Example(args=args))
    return settled(Trial(subject, LAW), discover, held), len(searched)


def middle(value: float) -> Any:
    array = LONG.copy()
    array[1000] = value
    return array


@pytest.mark.parametrize("first", [{"size": 3}, {}, {"table": LONG}])
def test_it_is_searched_once(first: dict[str, Any]) -> None:
    held: Held = {}
    assert [found(held, **first)[1] for _ in range(3)] == [1, 0, 0]


@pytest.mark.parametrize(("first", "second"), [({"size": 3}, {"size": 4}), ({"table": middle(1)}, {"table": middle(2)})])
def test_another_statement_is_searched_anew(first: dict[str, Any], second: dict[str, Any]) -> None:
    held: Held = {}
    assert repr(first) == repr(second) or "size" in first
    found(held, **first)
    example, searches = found(held, **second)
    assert searches == 1
    assert example.args is not first
    assert all(np.array_equal(example.args[name], value) for name, value in second.items())
