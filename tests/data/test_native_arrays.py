"""Arrays of frameworks in batches: each is known by what its wing says of it, and none is named where data are read."""

from __future__ import annotations

import sys
import types
from collections.abc import Iterator
from typing import Any

import numpy as np
import pytest
import torch

from mapsto.core import native
from mapsto.core.wings import ARRAY_TYPES, NATIVE, WINGS, Framework, add_wing
from mapsto.data.arrays import Arrays
from mapsto.data.combine import Concatenated
from mapsto.data.laws.contents import content
from mapsto.data.pad import Pad
from mapsto.data.reader import Batches
from mapsto.data.shared import open_slots, pack, unpack
from mapsto.engine.fingerprint import described, digest_of


class Tiny:
    """An array of a framework of its own: it is no NumPy array, and nothing turns it into one unasked."""

    def __init__(self, held: Any) -> None:
        self.held = np.asarray(held)
        self.dtype, self.shape, self.ndim = f"tiny.{self.held.dtype}", self.held.shape, self.held.ndim

    def __len__(self) -> int:
        return len(self.held)

    def __getitem__(self, where: Any) -> Tiny:
        return Tiny(self.held[where])


def _stated() -> types.ModuleType:
    """What its wing says of it."""
    made: Any = types.ModuleType("tiny_native_arrays")
    made.is_array = lambda value: isinstance(value, Tiny)
    made.on_device = lambda array: ""
    made.detached = lambda array: array
    made.to_numpy = lambda array: array.held
    made.from_numpy = Tiny
    made.rows = lambda array, indices: Tiny(array.take(indices, 0))
    made.take = lambda array, indices: Tiny(array.held.take(indices, 0))
    made.concatenate = lambda arrays: Tiny(np.concatenate([a.held for a in arrays]))
    made.stack = lambda arrays, shape, dtype: Tiny(np.stack([a.held for a in arrays]))
    made.cast = lambda array, dtype: Tiny(array.held.astype(dtype.removeprefix("tiny.")))
    made.dtype_name = lambda dtype: dtype.removeprefix("tiny.")
    made.to_bytes = lambda array: array.held.tobytes()
    made.is_dataset = lambda value: False
    made.ranks = lambda: None
    made.collectives = lambda: [{"profiling_name": "tiny:all_reduce"}]
    return made


@pytest.fixture
def tiny(monkeypatch: pytest.MonkeyPatch) -> Iterator[Any]:
    """The wing, loaded for one test."""
    stated = _stated()
    monkeypatch.setitem(sys.modules, stated.__name__, stated)
    monkeypatch.setitem(sys.modules, "tiny_arrays_of_a_test", types.ModuleType("tiny_arrays_of_a_test"))
    add_wing(Framework(name="tiny-arrays", packages=("tiny_arrays_of_a_test",), native=stated.__name__))
    yield Tiny
    del WINGS["tiny-arrays"]
    ARRAY_TYPES.clear()
    NATIVE.clear()


MAKERS = {"torch": lambda values: torch.as_tensor(values), "tiny": Tiny}
VALUES = np.arange(24, dtype=np.float32).reshape(8, 3)


def plain(value: Any) -> Any:
    return native.native(native.wing_of_array(value)).to_numpy(value)


@pytest.mark.parametrize("framework", MAKERS)
def test_a_batch_holds_arrays_of_the_framework_that_its_source_held(tiny: Any, framework: str) -> None:
    kind, values = MAKERS[framework], {"input": MAKERS[framework](VALUES), "target": MAKERS[framework](np.arange(8))}
    batch = Batches(values, 4, shuffle=True).batch(0)
    assert type(batch["input"]) is type(kind(VALUES))
    assert len(batch["input"]) == 4
    assert np.array_equal(plain(batch["input"]), VALUES[plain(batch["target"])])
    joined = Concatenated([Arrays(**values), Arrays(**values)])[np.array([9, 1, 15])]
    assert type(joined["input"]) is type(kind(VALUES))
    assert np.array_equal(plain(joined["input"]), VALUES[[1, 1, 7]])


@pytest.mark.parametrize("framework", MAKERS)
def test_records_one_by_one_are_stacked_by_their_framework_and_padded_by_numpy(tiny: Any, framework: str) -> None:
    make = MAKERS[framework]
    batch = Batches([{"input": make(row)} for row in VALUES], 8).batch(0)
    assert type(batch["input"]) is type(make(VALUES))
    assert np.array_equal(plain(batch["input"]), VALUES)
    padded = Pad("input")({"input": [make(VALUES[0]), make(VALUES[1, :2])]})
    assert np.array_equal(padded["input"], [[0, 1, 2], [3, 4, 0]])


@pytest.mark.parametrize("framework", MAKERS)
def test_worker_processes_hand_arrays_over_as_what_they_were(tiny: Any, framework: str) -> None:
    large, slots = np.arange(70_000, dtype=np.float64), open_slots(1)
    try:
        sent = pack({"input": MAKERS[framework](large)}, slots, 0)
        assert slots is None or sent["placed"], "it is large enough for shared memory"
        found = unpack(sent, slots, 0)["input"]
    finally:
        if slots is not None:
            slots.close()
    assert type(found) is type(MAKERS[framework](large))
    assert np.array_equal(plain(found), large)


@pytest.mark.parametrize("framework", MAKERS)
def test_a_fingerprint_sees_every_bit_of_it(tiny: Any, framework: str) -> None:
    make, other = MAKERS[framework], VALUES.copy()
    other[7, 2] = np.nextafter(other[7, 2], np.float32(99))
    assert digest_of(make(VALUES)) == digest_of(make(VALUES.copy())) != digest_of(make(other))
    assert content({"a": make(VALUES)}) == content({"a": make(VALUES.copy())}) != content({"a": make(other)})
    assert described(make(VALUES)) == "float32 [3]"


def test_only_a_wing_whose_framework_is_loaded_is_asked(tiny: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    assert native.wing_of_array(Tiny(VALUES)) == "tiny-arrays"
    assert native.wing_of_array(VALUES) == ""
    assert set(native.loaded()) >= {"tiny-arrays", "torch"}
    monkeypatch.delitem(sys.modules, "tiny_arrays_of_a_test")
    assert "tiny-arrays" not in native.loaded()
