"""Arrays, indexed objects of any make, and parts of sources."""

from __future__ import annotations

import pickle
import subprocess
import sys
from typing import Any

import numpy as np
import pytest
from records import Counting

from mapsto.core.errors import DataError
from mapsto.core.registry import Entry, registry
from mapsto.data import Arrays, Batches, Items, Source, Split, as_source
from mapsto.data.adapt import gathers
from mapsto.data.source import lengths_of

SOME = np.array([2, 0, 2])
NONE = np.array([], np.int64)


def test_arrays_gather_rows_of_every_kind() -> None:
    torch = pytest.importorskip("torch")
    source = Arrays(
        image=np.arange(24, dtype=np.uint8).reshape(3, 2, 4),
        text=["a", "b", "c"],
        number=[1, 2, 3],
        odd=np.array([{"x": 1}, None, 3], object),
        tensor=torch.arange(3.0, requires_grad=True),
    )
    batch = source[SOME]
    assert np.array_equal(batch["image"], source.fields["image"][[2, 0, 2]])
    assert batch["image"].dtype == np.uint8
    assert batch["text"] == ["c", "a", "c"]
    assert batch["number"].tolist() == [3, 1, 3]
    assert batch["odd"] == [3, {"x": 1}, 3]
    assert batch["tensor"].tolist() == [2.0, 0.0, 2.0]
    assert not batch["tensor"].requires_grad
    empty = source[NONE]
    assert empty["image"].shape == (0, 2, 4)
    assert empty["text"] == []
    assert len(empty["tensor"]) == 0


def test_tensors_of_types_that_numpy_lacks_are_gathered_and_sent() -> None:
    torch = pytest.importorskip("torch")
    source = Arrays(half=torch.arange(3).to(torch.bfloat16), input=torch.arange(3), text=["a", "b", "c"])
    for each in (source, pickle.loads(pickle.dumps(source))):
        batch = each[SOME]
        assert batch["half"].dtype == torch.bfloat16
        assert batch["half"].tolist() == [2.0, 0.0, 2.0]
        assert torch.equal(batch["input"], torch.tensor([2, 0, 2]))
        assert batch["text"] == ["c", "a", "c"]
    assert lengths_of(torch.tensor([3, 1]), "n").tolist() == [3, 1]


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({}, "no field was given"),
        ({"input": np.zeros(3), "target": np.zeros(4)}, "field 'target' has 4 records, and 'input' has 3"),
        ({"input": np.zeros(0)}, "field 'input' is empty"),
        ({"input": []}, "field 'input' is empty"),
        ({"input": 3.0}, "field 'input' is a single value"),
        ({"input": [[1, 2], [3]]}, "the records of field 'input' differ in shape"),
    ],
)
def test_arrays_that_do_not_fit_are_told(fields: dict[str, Any], message: str) -> None:
    with pytest.raises(DataError, match=message):
        Arrays(**fields)


@pytest.mark.parametrize("kind", ["numpy", "torch", "list"])
def test_an_index_out_of_range_is_told(kind: str) -> None:
    values: Any = np.arange(3) if kind == "numpy" else ["a", "b", "c"]
    if kind == "torch":
        values = pytest.importorskip("torch").arange(3)
    with pytest.raises(DataError, match="arrays: record 7 is out of range; it has 3 records, 0 to 2"):
        Arrays(input=values)[np.array([0, 7])]


def test_tensors_elsewhere_than_on_the_cpu_are_refused() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(DataError, match="field 'input' is on meta; a source holds CPU tensors"):
        Arrays(input=torch.zeros(3, device="meta"))


class Pairs:
    """A data set with tuples, one record an index."""

    def __len__(self) -> int:
        return 4

    def __getitem__(self, i: int) -> Any:
        return [10, 11, 12, 13][i], float(i)


class ManyPairs(Pairs):
    """Knows how to gather."""

    asked: Any = None

    def __getitems__(self, indices: list[int]) -> Any:
        self.asked = indices
        return [self[i] for i in indices]


def test_items_of_tuples_dicts_and_single_values() -> None:
    batch = Items(Pairs())[SOME]
    assert batch["input"].tolist() == [12, 10, 12]
    assert batch["input"].dtype == np.int64
    assert batch["target"].dtype == np.float32
    assert Items(Pairs(), fields=("x", "y"))[SOME].keys() == {"x", "y"}
    assert Items([5, 6, 7])[SOME]["input"].tolist() == [7, 5, 7]
    assert Items([(1,), (2,), (3,)])[SOME]["input"].tolist() == [3, 1, 3]
    assert Items([{"a": "x"}, {"a": "y"}, {"a": "z"}])[SOME] == {"a": ["z", "x", "z"]}
    empty = Items(Pairs())[NONE]
    assert empty["input"].shape == (0,)
    many = ManyPairs()
    assert Items(many)[SOME]["input"].tolist() == [12, 10, 12]
    assert many.asked == [2, 0, 2]


def test_items_are_stacked_by_what_they_are() -> None:
    torch = pytest.importorskip("torch")
    image = pytest.importorskip("PIL.Image")

    def stacked(*values: Any) -> Any:
        return Items([{"v": v} for v in values])[np.arange(len(values))]["v"]

    assert stacked(True, False).dtype == bool
    assert stacked(True, 2) == [True, 2]
    assert stacked(1, 2.5).dtype == np.float32
    assert stacked(1, None) == [1, None]
    assert stacked(np.float64(1), np.float64(2)).dtype == np.float64
    assert stacked(np.zeros((2, 3)), np.ones((2, 3))).shape == (2, 2, 3)
    ragged = stacked(np.zeros(2), np.zeros(3))
    assert isinstance(ragged, list)
    assert [len(r) for r in ragged] == [2, 3]
    assert torch.equal(stacked(torch.tensor([1, 2]), torch.tensor([3, 4])), torch.tensor([[1, 2], [3, 4]]))
    assert isinstance(stacked(torch.zeros(1), torch.zeros(2)), list)
    assert stacked(image.new("RGB", (4, 3)), image.new("RGB", (4, 3))).shape == (2, 3, 4, 3)
    assert stacked("a", "b") == ["a", "b"]
    assert stacked(None, None) == [None, None]


@pytest.mark.parametrize(
    ("items", "message"),
    [
        ([(1, 2, 3)], "a tuple of 3 values and 2 are named .input, target."),
        ([(1, 2), (1,)], "a tuple of 2 values"),
        ([{"a": 1}, {"b": 1}], "records differ in their fields: a in one, b in another"),
    ],
)
def test_records_that_differ_are_told(items: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Items(items)[np.arange(len(items))]


def test_items_out_of_range_and_empty_are_told() -> None:
    with pytest.raises(DataError, match="items: record 4 is out of range"):
        Items(Pairs())[np.array([4])]
    with pytest.raises(DataError, match="list is empty"):
        Items([])


class Vectorised:
    """Gathers, and takes single indices to the same effect."""

    def __init__(self) -> None:
        self.x = np.arange(12.0).reshape(4, 3)
        self.x[3, 0] = np.nan

    def __len__(self) -> int:
        return 4

    def __getitem__(self, indices: Any) -> Any:
        return {"input": self.x[indices]}


class OnlyArrays(Vectorised):
    """Gathers, and takes no bare integer."""

    def __getitem__(self, indices: Any) -> Any:
        return {"input": self.x[indices].reshape(len(indices), 3)}


class Reshapes(Vectorised):
    """Gathers; a bare integer gives something of another shape."""

    def __getitem__(self, indices: Any) -> Any:
        return {"input": self.x[indices].reshape(-1, 3)}


class Flipping(Vectorised):
    """One record an index; an index array would be accepted and flipped along the wrong axis."""

    def __getitem__(self, i: Any) -> Any:
        return {"input": self.x[i][::-1]}


class MeanOfPixels(Vectorised):
    """One record an index; an index array of two gives two numbers by coincidence."""

    def __init__(self) -> None:
        self.x = np.arange(16.0).reshape(4, 2, 2)

    def __getitem__(self, i: Any) -> Any:
        return {"input": self.x[i].mean(0)}


class DictPerIndex(Vectorised):
    """One record an index, and no index arrays."""

    def __getitem__(self, i: Any) -> Any:
        return {"input": self.x[int(i)]}


class Merging(Vectorised):
    """Gathers, but each record once."""

    def __getitem__(self, indices: Any) -> Any:
        return {"input": self.x[np.unique(indices)], "target": np.asarray(indices)}


@pytest.fixture
def registered(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Registers a class as a source, for this test."""

    def register(target: Any) -> Any:
        monkeypatch.setitem(registry._decorated, ("source", "mine"), Entry("source", "mine", "here:Mine", "here", target))
        return target

    return register


def test_what_gathers_is_told_from_what_reads_one_record() -> None:
    assert gathers(Vectorised())
    assert gathers(OnlyArrays())
    assert gathers(Counting(3))
    for one in (MeanOfPixels(), DictPerIndex(), Pairs(), ManyPairs(), [{"input": 1}]):
        assert not gathers(one)
    assert as_source(MeanOfPixels())[np.array([3, 0])]["input"].tolist() == [[13, 14], [1, 2]]


@pytest.mark.parametrize("source", [Vectorised, OnlyArrays, Reshapes, Flipping])
def test_a_registered_class_that_gathers_is_never_asked_for_single_records(registered: Any, source: Any) -> None:
    made = registered(source)()
    assert as_source(made) is made


@pytest.mark.parametrize("source", [DictPerIndex, Pairs])
def test_a_registered_class_may_read_one_record_an_index(registered: Any, source: Any) -> None:
    assert isinstance(as_source(registered(source)()), Items)


@pytest.mark.parametrize(
    ("source", "message"),
    [
        (Reshapes, r"for the indices .0, 3, 0. it gives input .3, 3., and for the index 0 input .1, 3., which is not record 0"),
        (Flipping, r"for the indices .0, 3, 0. it gives input .3, 3., and for the index 0 input .3., .*vectorised = False"),
        (Merging, r"for the indices .0, 3, 0. it gives input .2, 3., target .3., so not every field holds a record an index"),
    ],
)
def test_answers_that_disagree_are_told_with_their_shapes_unless_it_is_declared(source: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        as_source(source())
    made = source()
    made.vectorised = True
    assert as_source(made) is made
    made.vectorised = False
    assert isinstance(as_source(made), Items)


def test_a_registered_class_that_does_not_gather_whole_batches_is_told(registered: Any) -> None:
    with pytest.raises(DataError, match=r"source MeanOfPixels: for the indices .0, 3, 0. it gives input .2, 2., so not every"):
        as_source(registered(MeanOfPixels)())


def test_what_takes_no_index_at_all_is_told_by_its_own_errors() -> None:
    class ByName(Vectorised):
        def __getitem__(self, name: Any) -> Any:
            return {"a": 1}[name]

    class Broken(Vectorised):
        def __getitem__(self, indices: Any) -> Any:
            raise DataError("the disk is gone")

    with pytest.raises(DataError, match=r"ByName: it takes neither an array of record indices .TypeError.* nor one index"):
        as_source(ByName())
    with pytest.raises(DataError, match="^the disk is gone$"):
        as_source(Broken())


def test_torch_data_sets_read_one_record_an_index_whatever_an_array_would_do() -> None:
    torch = pytest.importorskip("torch")

    class Augmented(torch.utils.data.Dataset):  # type: ignore[misc,name-defined]
        def __init__(self) -> None:
            self.x = torch.arange(12.0).reshape(4, 3)

        def __len__(self) -> int:
            return 4

        def __getitem__(self, i: Any) -> Any:
            return {"input": self.x[i].flip(0)}

    assert as_source(Augmented())[np.array([3, 0])]["input"].tolist() == [[11, 10, 9], [2, 1, 0]]


def test_a_reader_refuses_batches_that_are_none() -> None:
    merging = Merging()
    merging.vectorised = True  # type: ignore[attr-defined]

    class Twice:
        def __len__(self) -> int:
            return 2

        def __call__(self, epoch: int, positions: Any) -> Any:
            return positions * 0

    reader = Batches(merging, 2, order=Twice())
    with pytest.raises(DataError, match="source Merging: field 'input' has 1 records for 2 indices"):
        reader.batch(0)


def test_readers_take_any_object_directly() -> None:
    torch = pytest.importorskip("torch")
    data = torch.utils.data.TensorDataset(torch.arange(6.0).reshape(3, 2), torch.arange(3))
    batch = Batches(data, 2).batch(1)
    assert torch.equal(batch["input"], torch.tensor([[4.0, 5.0]]))
    assert torch.equal(batch["target"], torch.tensor([2]))
    assert Batches(Pairs(), 3).batch(0)["target"].tolist() == [0, 1, 2]
    assert Batches(np.arange(6).reshape(3, 2), 2).batch(0)["input"].tolist() == [[0, 1], [2, 3]]
    assert Batches(torch.arange(3), 2).batch(0)["input"].tolist() == [0, 1]
    own = Arrays(input=np.arange(3))
    assert as_source(own) is own
    vectorised = Vectorised()
    assert as_source(vectorised) is vectorised
    table = pytest.importorskip("pyarrow").table({"input": [1, 2, 3]})
    assert Batches(table, 2).batch(1)["input"].tolist() == [3]


def test_a_source_of_ones_own_may_subclass() -> None:
    class Own(Source):
        def __len__(self) -> int:
            return 2

        def __getitem__(self, indices: Any) -> Any:
            return {"input": indices}

    assert Batches(Own(), 2).batch(0)["input"].tolist() == [0, 1]


def test_a_split_is_disjoint_complete_and_drawn_by_its_seed() -> None:
    parts = {
        name: Split(Counting(103), name, 0.2, seed=4)[np.arange(n)]["id"].tolist()  # type: ignore[arg-type]
        for name, n in (("rest", 82), ("held_out", 21))
    }
    assert sorted(parts["rest"] + parts["held_out"]) == list(range(103))
    assert parts["held_out"] != Split(Counting(103), "held_out", 0.2, seed=5)[np.arange(21)]["id"].tolist()
    texts = Split({"input": ["a" * i for i in range(10)]}, "rest", 0.5)
    assert texts.lengths("input", np.arange(5)).tolist() == [len(t) for t in texts[np.arange(5)]["input"]]
    texts.close()

    class Closing(Counting):
        closed = False

        def close(self) -> None:
            self.closed = True

    source = Closing(10)
    Split(source, "rest").close()
    assert source.closed


@pytest.mark.parametrize(
    ("part", "fraction", "message"),
    [
        ("rest", 0.0, "leaves one part empty"),
        ("rest", 1.0, "leaves one part empty"),
        ("heldout", 0.1, "split.part: 'heldout' is not a choice; allowed: held_out, rest; did you mean 'held_out'"),
    ],
)
def test_a_split_that_cannot_be_is_told(part: Any, fraction: float, message: str) -> None:
    with pytest.raises(DataError, match=message):
        Split(Counting(10), part, fraction)
    with pytest.raises(DataError, match="split: record 9 is out of range; it has 9 records"):
        Split(Counting(10), "rest", 0.1)[np.array([9])]


def test_importing_the_data_wing_loads_numpy_and_nothing_heavier() -> None:
    code = (
        "import sys, mapsto.data; "
        "print(sorted({m.partition('.')[0] for m in sys.modules} & {'torch', 'pyarrow', 'PIL', 'datasets', 'pandas', 'jax'}))"
    )
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
