"""Transforms map batches to batches, change nothing they were given, and say what does not fit."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from mapsto.core.errors import DataError, MissingExtra
from mapsto.core.registry import registry
from mapsto.data import (
    Arrays,
    Batches,
    EncodeLabels,
    Normalise,
    OneHot,
    Pad,
    RandomCrop,
    RandomFlip,
    RandomShift,
    Rename,
    Scale,
    Select,
    TokeniseBytes,
    TokeniseWith,
    TokeniseWords,
    Vocabulary,
)
from mapsto.data.augment import windows
from mapsto.data.fitted import fit


def rng(seed: int = 0) -> np.random.Generator:
    return np.random.default_rng(seed)


def pictures(count: int = 6, shape: tuple[int, ...] = (3, 5, 4)) -> Any:
    return rng().integers(1, 256, (count, *shape), dtype=np.uint8)


def make(name: str) -> Any:
    """Each built-in transform with arguments that fit `batch()`."""
    arguments: dict[str, Any] = {
        "encode_categories": {"field": "label"},
        "encode_labels": {"classes": ["a", "b"], "field": "label"},
        "fill_missing": {"field": "target"},
        "normalise": {"mean": 1.0, "std": 2.0, "field": "image"},
        "one_hot": {"classes": 3},
        "pad": {"field": "ids"},
        "random_crop": {"padding": 1, "field": "image"},
        "random_flip": {"field": "image"},
        "random_shift": {"pixels": 1, "field": "image"},
        "rename": {"names": {"image": "x"}},
        "scale": {"field": "image"},
        "select": {"fields": ["image"]},
        "stack": {"fields": ["target"]},
        "tokenise_bytes": {"field": "text"},
        "tokenise_words": {"vocabulary": Vocabulary(["red"]), "field": "text"},
    }
    made = registry.get("transform", name)(**arguments[name])
    return fit(Batches(Arrays(target=batch()["target"], label=batch()["label"]), 2, transforms=[made])).transforms[0]


def batch() -> dict[str, Any]:
    return {
        "image": pictures(2),
        "target": np.array([2, 0]),
        "ids": [[1, 2], [3]],
        "label": ["b", "a"],
        "text": ["red", "so red"],
    }


NAMES = [e.name for e in registry.entries("transform") if e.reference.startswith("mapsto.data") and e.name != "tokenise_with"]


@pytest.mark.parametrize("name", NAMES)
def test_no_transform_changes_its_batch_and_each_takes_an_empty_one(name: str) -> None:
    transform, given_batch = make(name), batch()
    draws = {"rng": rng()} if name.startswith("random") else {}
    result = transform(given_batch, **draws)
    assert result is not given_batch
    for field, value in batch().items():
        assert np.array_equal(given_batch[field], value) if isinstance(value, np.ndarray) else given_batch[field] == value
    if name != "select":
        assert len(result) == len(given_batch)
    nothing = {field: value[:0] for field, value in batch().items()}
    assert all(len(v) == 0 for v in transform(nothing, **draws).values())


@pytest.mark.parametrize("name", [n for n in NAMES if n not in ("select", "rename", "stack")])
def test_every_transform_names_the_nearest_field(name: str) -> None:
    draws = {"rng": rng()} if name.startswith("random") else {}
    transform = make(name)
    transform.field = "imge"
    with pytest.raises(DataError, match=f"{name}: the batch has no field 'imge'; allowed: .*; did you mean 'image'"):
        transform(batch(), **draws)


# -- numbers -------------------------------------------------------------------------------------------------------------
def test_scale_and_normalise_by_formula() -> None:
    x = pictures()
    exact = x.astype(float)
    scaled = Scale(factor=2.0, offset=-1.0)({"input": x})["input"]
    assert scaled.dtype == np.float32
    assert np.allclose(scaled, exact * 2 - 1)
    assert Scale()({"input": x})["input"].max() <= 1
    mean, std = [1.0, 2.0, 3.0], [4.0, 5.0, 6.0]
    normal = Normalise(mean, std)({"input": x})["input"]
    assert normal.dtype == np.float32
    shape = (1, 3, 1, 1)
    assert np.allclose(normal, (exact - np.reshape(mean, shape)) / np.reshape(std, shape), rtol=1e-6)
    assert np.allclose(Normalise(3.0, [4.0, 5.0])({"input": x[:, :2, 0, 0]})["input"], (exact[:, :2, 0, 0] - 3) / [4, 5])
    assert np.allclose(Normalise([3.0], 2)({"input": x[:, 0, 0, 0]})["input"], (exact[:, 0, 0, 0] - 3) / 2)


def test_tensors_are_taken_too() -> None:
    torch = pytest.importorskip("torch")
    x = torch.from_numpy(pictures())
    assert np.allclose(Scale()({"input": x})["input"], x.numpy() / 255)


def test_one_hot_and_labels() -> None:
    hot = OneHot(3)({"target": np.array([[2, 0], [1, 1]])})["target"]
    assert hot.dtype == np.float32
    assert hot.argmax(-1).tolist() == [[2, 0], [1, 1]]
    assert hot.sum() == 4
    labels = EncodeLabels(["cat", "dog"])
    assert labels({"target": ["dog", "cat"]})["target"].tolist() == [1, 0]
    assert EncodeLabels([5, 7])({"target": np.array([7, 7, 5])})["target"].tolist() == [1, 1, 0]


def test_select_and_rename() -> None:
    assert list(Select(["target", "image"])(batch())) == ["target", "image"]
    assert list(Select("target")(batch())) == ["target"]
    assert list(Rename({"text": "input"})(batch())) == ["image", "target", "ids", "label", "input"]


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (
            lambda: Normalise(0, 0),
            r"normalise.std: 0 is out of range: float above 0 \| Sequence\[float above 0\] \| None is wanted",
        ),
        (lambda: Normalise([1, 2], [1, 2, 3]), "must be numbers, or lists of one length"),
        (lambda: Normalise([1, 2], 1, "image")(batch()), "2 channels were given, and field 'image' has shape"),
        (lambda: OneHot(2)(batch()), "class 2 in field 'target' is outside 0 to 1"),
        (lambda: OneHot(2)({"target": np.zeros(2)}), "field 'target' is float64, and whole numbers are wanted"),
        (lambda: Scale("text")(batch()), "field 'text' is a list of str values, and an array is wanted"),
        (lambda: Scale("text")({"text": []}), "field 'text' is a list of no values"),
        (lambda: EncodeLabels(["cat", "cat"]), "class 'cat' is listed twice"),
        (
            lambda: EncodeLabels(["cat"])({"target": ["cta"]}),
            "'cta' in field 'target' is no class; allowed: cat; did you mean 'cat'",
        ),
        (lambda: Select(["imag"])(batch()), "select: the batch has no field 'imag'; .*did you mean 'image'"),
        (lambda: Rename({"imag": "x"})(batch()), "rename: the batch has no field 'imag'; .*did you mean 'image'"),
        (lambda: Rename({"text": "image"})(batch()), "two fields would be named 'image'"),
        (lambda: RandomFlip(p=1.5), "random_flip.p: 1.5 is out of range"),
        (lambda: RandomShift(-1), "random_shift.pixels: -1 is out of range"),
        (lambda: RandomCrop(padding=-1), "random_crop.padding: -1 is out of range"),
        (
            lambda: RandomCrop(9, padding=1, field="image")(batch(), rng=rng()),
            "9 x 9 does not fit into images of 5 x 4 padded by 1",
        ),
        (
            lambda: RandomFlip("target")(batch(), rng=rng()),
            "field 'target' has shape .2,.; .batch, ..., height, width. is wanted",
        ),
        (lambda: Pad(multiple_of=0), "pad.multiple_of: 0 is out of range"),
        (lambda: Pad(max_length=0), "pad.max_length: 0 is out of range"),
        (lambda: Pad("target")(batch()), "the records of field 'target' are not lists of numbers"),
        (lambda: Pad("text")(batch()), "the records of field 'text' are not lists of numbers: tokenise it first"),
        (lambda: Pad(side="lft"), "pad.side: 'lft' is not a choice; allowed: left, right; did you mean 'left'"),
        (lambda: Pad(["x", "y"], mask="mask"), "mask 'mask' would be that of 2 fields: write field: name for each"),
        (lambda: Pad(["x", "y"], {"z": 1}), "value names the field 'z', which is not padded; allowed: x, y"),
        (lambda: Pad("ids", 0.5)(batch()), "field 'ids' is int64, which cannot hold the value 0.5"),
        (lambda: Pad("x", -1)({"x": [np.array([1], np.uint8)]}), "field 'x' is uint8, which cannot hold the value -1"),
        (lambda: Pad("x", dtype="int64")({"x": [[0.5]]}), "field 'x' holds numbers that are not int64"),
        (lambda: Pad("x", dtype="integer")({"x": [[0.5]]}), "'integer' is no type of numbers"),
        (lambda: Pad("x")({"x": [[2**63]]}), "field 'x' holds a whole number beyond int64"),
        (
            lambda: Pad("x")({"x": [np.zeros((2, 3)), np.zeros((1, 4))]}),
            r"records of field 'x' differ in more than their length: \(3,\), \(4,\)",
        ),
        (lambda: TokeniseBytes("ids")(batch()), "field 'ids' holds list values, and text is wanted"),
        (lambda: TokeniseBytes("target")(batch()), "field 'target' holds int64 values, and text is wanted"),
        (lambda: TokeniseWords(Vocabulary(["a"]), source=batch()), "give one of vocabulary .* and source"),
    ],
)
def test_what_does_not_fit_is_told(act: Any, message: str) -> None:
    with pytest.raises(DataError, match=message):
        act()


# -- random images -------------------------------------------------------------------------------------------------------
@settings(max_examples=60, deadline=None)
@given(
    top=st.integers(-7, 7),
    left=st.integers(-7, 7),
    height=st.integers(1, 8),
    width=st.integers(1, 8),
    channels=st.sampled_from([(), (2,)]),
)
def test_windows_are_those_of_a_padded_image(top: int, left: int, height: int, width: int, channels: tuple[int, ...]) -> None:
    x = pictures(2, (*channels, 5, 4))
    pad = 16
    padded = np.pad(x, [(0, 0)] * (x.ndim - 2) + [(pad, pad)] * 2, constant_values=9)
    got = windows(x, np.array([[top, left], [0, 0]]), (height, width), 9)
    for i, (t, s) in enumerate([(top, left), (0, 0)]):
        assert np.array_equal(got[i], padded[i, ..., pad + t : pad + t + height, pad + s : pad + s + width])


def test_flips_mirror_some_records_and_leave_the_others() -> None:
    x = pictures(400)
    got = RandomFlip(p=0.25)({"input": x}, rng=rng())["input"]
    flipped = np.array([np.array_equal(g, i[..., ::-1]) for g, i in zip(got, x, strict=True)])
    assert all(np.array_equal(g, i) for g, i in zip(got[~flipped], x[~flipped], strict=True))
    assert abs(flipped.sum() - 100) < 5 * np.sqrt(400 * 0.25 * 0.75)
    assert np.array_equal(RandomFlip(p=0)({"input": x}, rng=rng())["input"], x)


def test_shifts_and_crops_reach_every_place_equally() -> None:
    x = np.zeros((3000, 1, 7, 7), np.uint8)
    x[:, :, 3, 3] = 1
    for transform in (RandomShift(2), RandomCrop(padding=2)):
        got = transform({"input": x}, rng=rng())["input"]
        assert got.shape == x.shape
        places = got.sum((0, 1))
        assert (places[1:6, 1:6] > 0).all()
        assert places.sum() == 3000
        expected = 3000 / 25
        assert ((places[1:6, 1:6] - expected) ** 2 / expected).sum() < 24 + 5 * np.sqrt(48)
    assert RandomCrop((3, 5))({"input": x}, rng=rng())["input"].shape == (3000, 1, 3, 5)
    assert RandomCrop(3, fill=7)({"input": x}, rng=rng())["input"].max() == 1
    assert (RandomShift(6, fill=7)({"input": x}, rng=rng())["input"] == 7).any()


# -- text ----------------------------------------------------------------------------------------------------------------
@settings(max_examples=80, deadline=None)
@given(
    rows=st.lists(st.lists(st.integers(0, 9), max_size=9), min_size=1, max_size=7),
    multiple=st.integers(1, 4),
    cut=st.one_of(st.none(), st.integers(1, 9)),
    arrays=st.booleans(),
)
def test_padding_keeps_every_id_and_marks_it(rows: list[list[int]], multiple: int, cut: int | None, arrays: bool) -> None:
    given_rows = [np.array(r, np.int64) for r in rows] if arrays else rows
    pad = Pad("x", -100, max_length=cut, multiple_of=multiple, mask="mask", lengths="n")
    got = pad({"x": given_rows})
    short = [r[:cut] for r in rows]
    assert got["x"].dtype == np.int64
    assert got["mask"].dtype == bool
    longest = max(max(map(len, short)), 1)
    assert got["x"].shape == got["mask"].shape == (len(rows), -(-longest // multiple) * multiple)
    assert got["n"].tolist() == [len(r) for r in short]
    for row, ids, mask in zip(short, got["x"], got["mask"], strict=True):
        assert ids[mask].tolist() == row
        assert mask[: len(row)].all()
        assert (ids[~mask] == -100).all()


@pytest.mark.parametrize("side", ["right", "left"])
@pytest.mark.parametrize("shape", [(), (2,), (2, 3)])
@pytest.mark.parametrize("dtype", ["float32", "float64", "uint8", "int16", "bool"])
def test_padding_keeps_types_and_trailing_shapes_on_either_side(dtype: str, shape: tuple[int, ...], side: Any) -> None:
    rows = [rng(n).integers(0, 2, (n, *shape)).astype(dtype) for n in (3, 0, 1)]
    got = Pad("x", side=side, multiple_of=2, lengths="n")({"x": rows})
    assert got["x"].dtype == dtype
    for row, padded in zip(rows, got["x"], strict=True):
        fill = [(0, 4 - len(row)) if side == "right" else (4 - len(row), 0), *[(0, 0)] * len(shape)]
        assert np.array_equal(padded, np.pad(row, fill))
    assert got["n"].tolist() == [3, 0, 1]


def test_padding_of_several_fields_with_values_and_masks_of_their_own() -> None:
    given_batch = {"input": [[1, 2], [3]], "series": [[0.5, 1, np.nan], [2]], "target": [[4], [5, 6]], "other": ["a", "b"]}
    pad = Pad(["input", "series", "target"], {"target": -100}, mask={"input": "mask"}, lengths={"series": "n"}, side="left")
    got = pad(given_batch)
    assert got["input"].tolist() == [[1, 2], [0, 3]]
    assert got["series"].dtype == np.float32
    assert np.array_equal(got["series"], np.float32([[0.5, 1, np.nan], [0, 0, 2]]), equal_nan=True)
    assert got["target"].tolist() == [[-100, 4], [5, 6]]
    assert got["mask"].tolist() == [[True, True], [False, True]]
    assert got["n"].tolist() == [3, 1]
    assert got["other"] == ["a", "b"]
    assert len(got) == 6


def test_a_padded_type_can_be_said() -> None:
    assert Pad(dtype="float64", value=0.5)({"input": [[1], [2, 3]]})["input"].tolist() == [[1, 0.5], [2, 3]]
    assert Pad(dtype="int32")({"input": [[1.0], []]})["input"].dtype == np.int32
    assert Pad(dtype="float64")({"input": []})["input"].dtype == np.float64
    torch = pytest.importorskip("torch")
    assert Pad()({"input": [torch.tensor([0.5, 2]), torch.tensor([1.0])]})["input"].tolist() == [[0.5, 2], [1, 0]]


def test_bytes() -> None:
    got = TokeniseBytes(max_length=3)({"input": ["abcd", "é", ""]})["input"]
    assert [g.tolist() for g in got] == [[99, 100, 101], [0xC3 + 2, 0xA9 + 2], []]
    assert max(max(TokeniseBytes()({"input": [chr(i)]})["input"][0]) for i in range(1, 1000)) < TokeniseBytes.size


def test_a_vocabulary_counts_ranks_and_cuts() -> None:
    texts = {"input": ["The cat saw the dog.", "The dog ran", "a cat!"]}
    vocabulary = Vocabulary.build(texts, 6)
    assert vocabulary.words == ("the", "cat", "dog", "!")
    assert len(vocabulary) == 6
    assert vocabulary.encode("the Cat flew !") == [2, 3, 1, 5]
    assert vocabulary.decode([2, 1, 5, 0, 0]) == "the <unknown> !"
    cased = Vocabulary.build(texts, 100, pattern=r"\w+", lower=False)
    assert cased.words[:4] == ("The", "cat", "dog", "a")
    words = TokeniseWords(source=texts, size=6, max_length=2)
    assert words({"input": ["the cat ran"]})["input"] == [[2, 3]]


def test_a_vocabulary_is_the_same_from_any_order_and_after_saving(tmp_path: Path) -> None:
    texts = [f"w{i} w{j}" for i in range(30) for j in range(i)]
    one = Vocabulary.build({"input": texts}, 20)
    assert one == Vocabulary.build({"input": texts[::-1]}, 20)
    assert one != Vocabulary.build({"input": texts[:100]}, 20)
    assert one != 3
    path = tmp_path / "vocabulary.json"
    one.save(path)
    again = Vocabulary.load(path)
    assert again == one
    assert hash(again) == hash(one)
    assert TokeniseWords(str(path))({"input": ["w3 w99"]})["input"] == [one.encode("w3 w99")]


def test_a_vocabulary_travels_to_workers() -> None:
    source = {"input": ["a b", "b c", "c d e"], "target": np.array([0, 1, 0])}
    transforms = [TokeniseWords(source=source, size=9), Pad()]
    reference = Batches(source, 2, transforms=transforms)
    with Batches(source, 2, transforms=transforms, workers=1).stream(0, 2) as stream:
        for position, got in stream:
            assert np.array_equal(got["input"], reference.batch(position)["input"])


@pytest.mark.parametrize(
    ("act", "message"),
    [
        (lambda p: Vocabulary.load(p / "vocab.jsn"), "there is no file .*; allowed: vocab.json; did you mean 'vocab.json'"),
        (lambda p: Vocabulary.load(p / "vocab.json"), "vocab.json is not a saved vocabulary"),
        (lambda p: Vocabulary.build({"input": ["a"]}, 2), "a size of 2 leaves no word"),
        (lambda p: Vocabulary.build({"input": [1]}, 9), "field 'input' holds int64 values, and text is wanted"),
        (lambda p: Vocabulary.build({"text": ["a"]}, 9), "vocabulary: the batch has no field 'input'"),
        (lambda p: Vocabulary([], pattern="("), "is not a regular expression"),
    ],
)
def test_bad_vocabularies_are_told(tmp_path: Path, act: Any, message: str) -> None:
    (tmp_path / "vocab.json").write_text("{}")
    with pytest.raises(DataError, match=message):
        act(tmp_path)


def test_a_saved_tokeniser(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Against the library's interface, which need not be installed; by the library itself where it is."""
    path = tmp_path / "tokenizer.json"
    path.write_text("{}")
    calls: list[str] = []

    class Tokenizer:
        @staticmethod
        def from_file(name: str) -> Any:
            if calls:
                raise Exception("expected a model")  # the library's own kind of error
            return Tokenizer()

        def no_padding(self) -> None:
            calls.append("no_padding")

        def no_truncation(self) -> None:
            calls.append("no_truncation")

        def num_special_tokens_to_add(self, pair: bool) -> int:
            return 0

        def enable_truncation(self, length: int) -> None:
            self.length = length

        def encode_batch(self, texts: list[str]) -> Any:
            return [SimpleNamespace(ids=[len(w) for w in text.split()][: self.length]) for text in texts]

    monkeypatch.setitem(sys.modules, "tokenizers", SimpleNamespace(Tokenizer=Tokenizer))
    transform = TokeniseWith(path, max_length=2)
    assert calls == ["no_padding", "no_truncation"]
    assert transform({"input": ["a bb ccc", "dd"]})["input"] == [[1, 2], [2]]
    with pytest.raises(DataError, match="tokenizer.json is not a tokeniser: expected a model"):
        TokeniseWith(path)
    monkeypatch.setitem(sys.modules, "tokenizers", None)
    with pytest.raises(MissingExtra, match=r"pip install 'mapsto\[tokenizers\]'"):
        TokeniseWith(path)


def test_the_tokenizers_library(tmp_path: Path) -> None:
    tokenizers = pytest.importorskip("tokenizers")
    model = tokenizers.models.WordLevel({"<unk>": 0, "red": 1, "so": 2}, unk_token="<unk>")
    tokeniser = tokenizers.Tokenizer(model)
    tokeniser.pre_tokenizer = tokenizers.pre_tokenizers.Whitespace()
    tokeniser.save(str(tmp_path / "t.json"))
    assert TokeniseWith(tmp_path / "t.json")({"input": ["so red", "blue"]})["input"] == [[2, 1], [0]]
    assert TokeniseWith(tmp_path / "t.json", max_length=1)({"input": ["so red", ""]})["input"] == [[2], []]
    tokeniser.post_processor = tokenizers.processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[("<s>", 3), ("</s>", 4)]
    )
    tokeniser.enable_truncation(1)  # what is saved with it is no part of the spec
    tokeniser.enable_padding()
    tokeniser.save(str(tmp_path / "s.json"))
    assert TokeniseWith(tmp_path / "s.json")({"input": ["so red", "so"]})["input"] == [[3, 2, 1, 4], [3, 2, 4]]
    for length, cut in ((2, [3, 4]), (3, [3, 2, 4]), (4, [3, 2, 1, 4])):
        assert TokeniseWith(tmp_path / "s.json", max_length=length)({"input": ["so red so"]})["input"][0][: length + 1] == cut
    with pytest.raises(DataError, match=r"max_length 1 leaves no room: .*s\.json adds 2 special tokens"):
        TokeniseWith(tmp_path / "s.json", max_length=1)
