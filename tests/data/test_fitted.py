"""Transforms that learn from the training records: what they learn is scikit-learn's, and nothing but those records."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pytest
from sklearn.impute import SimpleImputer
from sklearn.preprocessing import OneHotEncoder, OrdinalEncoder, StandardScaler

from mapsto.core.errors import DataError
from mapsto.data import (
    Arrays,
    Batches,
    EncodeCategories,
    EncodeLabels,
    FillMissing,
    Normalise,
    RandomFlip,
    Scale,
    Split,
    Stack,
    TokeniseWords,
    Vocabulary,
)

RNG = np.random.default_rng(0)
TABLE = {
    "input": (RNG.standard_normal((101, 4)) * [1, 10, 0.1, 5] + [0, 100, 1, -3]).astype(np.float32),
    "site": [("arm", "back", "leg", "toe")[i % 4 if i < 90 else i % 3] for i in range(101)],
    "sex": np.arange(101) % 2,
    "target": np.arange(101) % 3,
}


def parts() -> tuple[Any, Any, Any]:
    """Two parts of the table, and the rows of the first as the oracle reads them."""
    train, valid = (Split(Arrays(**TABLE), part, 0.3, seed=1) for part in ("rest", "held_out"))
    return train, valid, train[np.arange(len(train))]


def test_a_mean_and_deviation_are_those_of_the_training_records() -> None:
    train, valid, rows = parts()
    made = Batches(train, 16, shuffle=True, transforms=[Normalise()]).fit()
    oracle = StandardScaler().fit(rows["input"].astype(np.float64))
    learned = made.transforms[0].learned
    assert np.allclose(learned["mean"], oracle.mean_, rtol=1e-12)
    assert np.allclose(learned["std"], oracle.scale_, rtol=1e-12)
    other = Batches(valid, 7, transforms=made.transforms)
    assert np.allclose(other.batch(0)["input"], oracle.transform(valid[np.arange(7)]["input"]), atol=1e-5)
    of_all = StandardScaler().fit(TABLE["input"].astype(np.float64))
    assert not np.allclose(learned["mean"], of_all.mean_, rtol=1e-4)  # the control: the held-out records would show


def test_missing_values_and_constant_columns_are_left_out_of_the_statistics() -> None:
    values = RNG.standard_normal((50, 3))
    values[::7, 0], values[:, 2] = np.nan, 4.0
    made = Batches({"input": values}, 8, transforms=[Normalise()]).fit()
    oracle = StandardScaler().fit(values)
    assert np.allclose(made.transforms[0].learned["std"], oracle.scale_, rtol=1e-12)
    assert np.allclose(made.batch(1)["input"], oracle.transform(values[8:16]), atol=1e-6, equal_nan=True)


@pytest.mark.parametrize(("shape", "axis", "over"), [((9, 3, 5, 4), 1, (0, 2, 3)), ((9, 6, 3), -1, (0, 1)), ((9,), 1, 0)])
def test_a_channel_has_statistics_of_its_own_wherever_it_lies(shape: tuple[int, ...], axis: int, over: Any) -> None:
    values = RNG.integers(0, 255, shape, dtype=np.uint8)
    made = Batches({"input": values}, 4, transforms=[Normalise(axis=axis)]).fit()
    wide = values.astype(np.float64)
    want = (wide - wide.mean(over, keepdims=True)) / wide.std(over, keepdims=True)
    assert np.allclose(made.batch(0)["input"], want[:4], atol=1e-5)
    assert np.allclose(made.batch(2)["input"], want[8:], atol=1e-5)


@pytest.mark.parametrize("by", ["mean", "median", "most_frequent"])
def test_missing_values_become_what_an_imputer_says(by: str) -> None:
    values = RNG.integers(0, 5, (60, 3)).astype(np.float64)
    values[RNG.random((60, 3)) < 0.3] = np.nan
    made = Batches({"input": values}, 60, transforms=[FillMissing(by=by, mask="_missing")], limit=40).fit()  # type: ignore[arg-type]
    oracle = SimpleImputer(strategy=by).fit(values[:40])
    found = Batches({"input": values}, 60, transforms=made.transforms).batch(0)
    assert np.allclose(found["input"], oracle.transform(values), rtol=1e-12)
    assert np.array_equal(found["input_missing"], np.isnan(values))
    whole = SimpleImputer(strategy=by).fit(values)
    assert by == "most_frequent" or not np.allclose(oracle.statistics_, whole.statistics_)


def test_missing_text_and_lists_of_numbers_are_filled() -> None:
    fields = {"site": ["b", None, "a", "b", "a"], "age": [None, 30, 50, None, 40]}
    found = Batches(Arrays(**fields), 5, transforms=[FillMissing("site", "most_frequent"), FillMissing("age")]).fit().batch(0)
    assert found["site"] == ["b", "a", "a", "b", "a"]
    assert found["age"].dtype == np.float32
    assert found["age"].tolist() == [40, 30, 50, 40, 40]


def test_categories_are_those_of_the_training_records_and_others_are_unknown() -> None:
    train, _, rows = parts()
    made = Batches(train, 200, transforms=[EncodeCategories(["site", "sex"], one_hot=True)]).fit()
    new = {"site": ["arm", "toe", "nose", None], "sex": np.array([0, 1, 7, 1])}
    found = Batches(Arrays(**new), 4, transforms=made.transforms).batch(0)
    for name in ("site", "sex"):
        column = np.array(rows[name], object)[:, None]
        oracle = OneHotEncoder(handle_unknown="ignore", sparse_output=False).fit(column)
        assert np.array_equal(found[name], oracle.transform(np.array(new[name], object)[:, None]))
    ids = Batches(train, 200, transforms=[EncodeCategories("site")]).fit()
    ordinal = OrdinalEncoder().fit_transform(np.array(rows["site"], object)[:, None])[:, 0] + 1
    assert np.array_equal(ids.batch(0)["site"], ordinal)
    rare = Batches(Arrays(site=["a", "b", "a"]), 3, transforms=[EncodeCategories("site", least=2)]).fit()
    assert rare.batch(0)["site"].tolist() == [1, 0, 1]


def test_columns_stand_side_by_side() -> None:
    fields = {"age": np.array([1, 2]), "old": np.array([True, False]), "site": np.eye(2), "target": np.arange(2)}
    found = Batches(fields, 2, transforms=[Stack(["age", "site", "old"])]).batch(0)
    assert sorted(found) == ["input", "target"]
    assert found["input"].dtype == np.float32
    assert found["input"].tolist() == [[1, 1, 0, 1], [2, 0, 1, 0]]
    with pytest.raises(DataError, match="'site'.*shape"):
        Stack(["site"])({"site": np.zeros((2, 2, 2))})


def test_labels_and_words_without_a_list_are_learned() -> None:
    texts = {"input": ["a cat", "a dog", "a cat sat"], "target": ["yes", "no", "yes"]}
    made = Batches(Arrays(**texts), 3, transforms=[TokeniseWords(size=10), EncodeLabels()]).fit()
    words = Vocabulary.build(Arrays(**texts), 10)
    assert [list(ids) for ids in made.batch(0)["input"]] == [words.encode(text) for text in texts["input"]]
    assert made.batch(0)["target"].tolist() == [1, 0, 1]
    with pytest.raises(DataError, match="'maybe' in field 'target' is no class"):
        Batches(Arrays(input=["a"], target=["maybe"]), 1, transforms=made.transforms).batch(0)


def test_a_transform_learns_from_what_those_before_it_leave() -> None:
    train, _, rows = parts()
    made = Batches(train, 9, transforms=[Scale(factor=3.0), RandomFlip(), Normalise()], seed=4)
    made.transforms = (made.transforms[0], made.transforms[2])
    made._draws = (False, False)
    assert np.allclose(made.fit().transforms[1].learned["mean"], 3 * rows["input"].astype(np.float64).mean(0), rtol=1e-6)
    images = RNG.standard_normal((12, 1, 4, 4)).astype(np.float32)
    flipped = [Batches({"input": images}, 5, transforms=[RandomFlip(), Normalise()], seed=4).fit() for _ in range(2)]
    assert flipped[0].transforms[1].learned == flipped[1].transforms[1].learned  # what is drawn before it is fixed


def test_a_reader_whose_transforms_have_not_learned_says_so() -> None:
    waiting = Batches(TABLE["input"], 5, transforms=[Normalise()])
    with pytest.raises(DataError, match=r"Normalise learns from the training records and has not yet.*fit\(\)"):
        waiting.batch(0)
    with pytest.raises(DataError, match="Normalise learns"):
        Normalise()({"input": TABLE["input"]})


def test_what_cannot_be_learned_is_one_clear_error() -> None:
    def fitting(values: Any, transform: Any) -> None:
        Batches(Arrays(input=values), 2, transforms=[transform]).fit()

    with pytest.raises(DataError, match="no value in channel 1"):
        fitting(np.array([[1, np.nan], [2, np.nan]]), Normalise())
    with pytest.raises(DataError, match="holds infinity"):
        fitting(np.array([[1, np.inf], [2, 0]]), Normalise())
    with pytest.raises(DataError, match="holds text, which has no mean"):
        fitting(["a", None], FillMissing())
    with pytest.raises(DataError, match="no value in feature 1"):
        fitting(np.array([[1, np.nan], [2, np.nan]]), FillMissing())
    with pytest.raises(DataError, match=r"no value of field 'input' stands in 3 training"):
        fitting(["a", "b"], EncodeCategories("input", least=3))
    with pytest.raises(DataError, match="both mean and std"):
        Normalise(mean=1.0)


def test_what_fit_returns_must_be_json() -> None:
    class Odd:
        learned = None

        def __init__(self, found: Any) -> None:
            self.found = found

        def fit(self, source: Any) -> Any:
            return self.found

        def __call__(self, batch: Any) -> Any:
            return batch

    for found, said in (({"a": np.zeros(2)}, "kept as JSON"), ([1], "not a list")):
        with pytest.raises(DataError, match=f"Odd.*{said}"):
            Batches(TABLE["input"], 5, transforms=[Odd(found)]).fit()
    kept = Odd({"a": (0.1, 1 / 3)})
    Batches(TABLE["input"], 5, transforms=[kept]).fit()
    assert kept.learned == json.loads(json.dumps({"a": [0.1, 1 / 3]}))  # the first session has what a later one reads
