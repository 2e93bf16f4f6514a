from __future__ import annotations

import copy
import functools
import pickle

import numpy as np
import pytest

from mapsto.core.parts import Part, as_part, freeze, use
from mapsto.core.values import Frozen, Reference, contains, thaw


class Thing:
    def __init__(self, size: int = 1) -> None:
        self.size = size


def test_a_frozen_mapping_may_hold_frozen_mappings_as_keys_of_a_set() -> None:
    assert {freeze({"a": [1]}), freeze({"a": (1,)})} == {Frozen(a=(1,))}


def test_freezing_and_thawing() -> None:
    frozen = freeze({"a": [1, {"use": "x", "b": [2]}], "c": {"d": (3,)}})
    assert frozen == Frozen(a=(1, Part("x", {"b": (2,)})), c=Frozen(d=(3,)))
    assert frozen["a"][1].args["b"] == (2,)
    assert thaw(freeze({"c": {"d": [{"e": 1}]}})) == {"c": {"d": ({"e": 1},)}}
    assert type(thaw(freeze({"c": {}}))["c"]) is dict


def test_numpy_scalars_become_pythons_own() -> None:
    frozen = freeze([np.float64(0.5), np.int32(3), np.bool_(True)])
    assert frozen == (0.5, 3, True)
    assert [type(v) for v in frozen] == [float, int, bool]


def test_a_reference_is_a_mapping_of_one_key() -> None:
    assert freeze({"reference": "json:loads"}) == Reference("json:loads")
    assert freeze({"reference": "the handbook"}) == Frozen(reference="the handbook")


@pytest.mark.parametrize(
    "change", ["d['a'] = 2", "del d['a']", "d.update(a=2)", "d.pop('a')", "d.clear()", "d |= {}", "d.setdefault('b', 1)"]
)
def test_a_frozen_mapping_says_how_to_change_a_copy(change: str) -> None:
    d = Frozen(a=1)
    with pytest.raises(TypeError, match=r"a spec is frozen: make a changed copy with spec.override\('path=value'\)"):
        exec(change, {"d": d})
    assert d == {"a": 1}


def test_values_compare_hash_copy_and_pickle() -> None:
    one, two = (use("x", a=[1, {"b": {"c": 2.5}}], f=Thing) for _ in range(2))
    assert one == two
    assert hash(one) == hash(two)
    assert len({one, two}) == 1
    assert pickle.loads(pickle.dumps(one)) == copy.deepcopy(one) == one
    assert type(pickle.loads(pickle.dumps(one)).args) is Frozen
    assert use("x", a=1) != use("x", a=2) != use("y", a=2)
    assert Frozen(a=1) != Frozen(a=2)
    assert Frozen(a=1) != 3
    assert use("x") != "x"


def test_arrays_and_unhashable_objects_are_equal_to_themselves_only() -> None:
    array, other = np.arange(3), np.arange(3)
    assert use("x", a=array) == use("x", a=array)
    assert hash(use("x", a=array)) == hash(use("x", a=array))
    assert use("x", a=array) != use("x", a=other)
    assert use("x", a={1, 2}) != use("x", a={1, 2})


def test_names() -> None:
    assert use("adamw").name == "adamw"
    assert use("optimizer/adamw").name == "adamw"
    assert use("package.module:Outer.Inner").name == "inner"
    assert use(Thing).name == "thing"
    assert use(functools.partial(Thing, 1)).name == "thing"


def test_what_stands_in_a_slot() -> None:
    thing = Thing()
    assert as_part("x") == Part("x")
    assert as_part(Thing) == Part(Thing)
    assert as_part(len) == Part(len)
    assert as_part(thing) is thing
    assert as_part(None) is None
    assert as_part({"use": "x", "a": 1}) == use("x", a=1)
    assert as_part({"a": 1}, default="batches") == use("batches", a=1)
    assert as_part(functools.partial(Thing, size=3)) == use(Thing, size=3)
    bound = functools.partial(Thing, 3)
    assert as_part(bound) is bound


def test_contains() -> None:
    assert contains(freeze([1, {"a": [{"use": "x"}]}]), Part)
    assert not contains(freeze([1, {"a": ["b"]}]), Part)
    assert contains(freeze({"a": ["b"]}), str)
