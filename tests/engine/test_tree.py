from __future__ import annotations

import enum
import json
import math
import struct
from collections import Counter, OrderedDict, defaultdict, deque, namedtuple

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.core.errors import CheckpointError
from mapsto.engine.checkpoints.tree import flatten, unflatten


def through(tree, is_tensor=torch.is_tensor):
    plain, tensors = flatten(tree, is_tensor)
    return unflatten(json.loads(json.dumps(plain, allow_nan=False)), tensors)


def same(a, b) -> bool:
    """Of one type and one value, bit by bit."""
    if type(a) is not type(b):
        return False
    if isinstance(a, float):
        return struct.pack(">d", a) == struct.pack(">d", b)
    if isinstance(a, complex):
        return same(a.real, b.real) and same(a.imag, b.imag)
    if isinstance(a, np.ndarray):
        return a.dtype == b.dtype and a.shape == b.shape and a.tobytes() == b.tobytes()
    if isinstance(a, torch.Tensor):
        return a is b
    if isinstance(a, dict):
        return len(a) == len(b) and all(same(x, y) for x, y in zip(a.items(), b.items(), strict=True))
    if isinstance(a, deque):
        return a.maxlen == b.maxlen and same(list(a), list(b))
    if isinstance(a, (list, tuple)):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


LEAVES = [
    None, True, False, 0, -1, 2**63, -(2**63) - 1, 10**5000, 0.1, -0.0, 5e-324, math.inf, -math.inf, math.nan,
    struct.unpack(">d", bytes.fromhex("fff8000000000123"))[0], 1e308, 1 - 2j, complex(math.nan, -0.0), "", "$", "Ü \ud800",
    b"", b"\x00\xff", bytearray(b"ab"), (), [], {}, {1, 2}, frozenset("ab"),
    (1, (2, [3])), {1: "a", (2, 3): "b", None: "c", 1.5: "d", True and "x": 0, b"k": 1}, {"$": "tensor", "v": "fake"},
    OrderedDict(b=1, a=2), Counter("aab"), Counter(), deque([1, 2], maxlen=5), deque(),
    np.float32(0.1), np.float64("nan"), np.int8(-3), np.bool_(True), np.str_("x"), np.datetime64("2020-01-02"),
    np.arange(6, dtype=np.uint16).reshape(2, 3), np.zeros((0, 3)), np.array(7), np.array([1j], np.complex64),
    np.array(["a", "bcd"]), np.zeros(2, [("a", "<i4"), ("b", ">f8")]), np.asfortranarray(np.arange(6.0).reshape(2, 3)),
]  # fmt: skip


@pytest.mark.parametrize("leaf", LEAVES, ids=lambda leaf: type(leaf).__name__)
def test_plain_values_come_back_as_they_were(leaf):
    assert same(through(leaf), leaf)
    assert same(through({"a": [leaf, (leaf,)]}), {"a": [leaf, (leaf,)]})


def test_the_comparison_of_these_tests_tells_apart_what_equality_does_not():
    assert not same(0.0, -0.0)
    assert not same((1,), [1])
    assert not same(1, True)
    assert not same(np.float32(1), np.float64(1))
    assert not same(deque([1], maxlen=2), deque([1], maxlen=3))


values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text() | st.binary() | st.complex_numbers(),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.lists(inner, max_size=4).map(tuple)
        | st.dictionaries(st.text() | st.integers() | st.tuples(st.integers(), st.text()), inner, max_size=4)
        | st.dictionaries(st.sampled_from(["$", "v", "a"]), inner)
    ),
    max_leaves=20,
)


@given(values)
@settings(max_examples=300, deadline=None)
def test_any_tree_comes_back_as_it_was(tree):
    assert same(through(tree), tree)


def test_tensors_go_by_path_and_two_of_one_path_stay_two():
    a, b, c = (torch.full((2,), float(i)) for i in range(3))
    tree = {"x.y": a, "x": {"y": b, 0: [c, a]}}
    plain, tensors = flatten(tree, torch.is_tensor)
    assert set(tensors) == {"x.y", "x.y#2", "x.0.0", "x.0.1"}
    assert same(through(tree), tree)
    json.dumps(plain)


def test_a_size_comes_back_as_the_tuple_that_it_equals():
    back = through({"shape": torch.Size([2, 3])})
    assert back == {"shape": (2, 3)} == {"shape": torch.Size([2, 3])}


class Colour(enum.IntEnum):
    RED = 1


POINT = namedtuple("POINT", "x")(1)
OTHERS = [object(), len, Colour.RED, defaultdict(int, a=1), POINT, np.array([object()]), np.ma.zeros(2), torch.float32]


@pytest.mark.parametrize("value", OTHERS, ids=lambda v: type(v).__name__)
def test_anything_else_is_an_error_that_names_its_path(value):
    with pytest.raises(CheckpointError, match=r"middleware\.ema\.1\.deep: .*cannot be kept in a checkpoint"):
        flatten({"middleware": {"ema": [0, {"deep": value}]}}, torch.is_tensor)


def test_a_key_that_cannot_be_kept_is_named():
    with pytest.raises(CheckpointError, match="key .* of a"):
        flatten({"a": {object(): 1}}, torch.is_tensor)


def test_a_tree_that_contains_itself_is_an_error_and_one_that_shares_is_not():
    loop: dict = {"a": []}
    loop["a"].append(loop)
    with pytest.raises(CheckpointError, match=r"a\.0: it contains itself"):
        flatten(loop, torch.is_tensor)
    shared = [1]
    assert through({"a": shared, "b": shared}) == {"a": [1], "b": [1]}


def test_missing_unexpected_and_unknown_are_errors():
    plain, tensors = flatten({"a": torch.zeros(1)}, torch.is_tensor)
    with pytest.raises(CheckpointError, match="no tensor 'a'"):
        unflatten(plain, {})
    with pytest.raises(CheckpointError, match="no tensor z"):
        unflatten(plain, {**tensors, "z": torch.zeros(1)})
    with pytest.raises(CheckpointError, match="unknown kind 'pickle'"):
        unflatten({"$": "pickle", "v": "..."}, {})
