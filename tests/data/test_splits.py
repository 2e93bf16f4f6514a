"""Parts of a source against their definitions and scikit-learn's splitters."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from sklearn.model_selection import GroupKFold, StratifiedKFold

from mapsto import use
from mapsto.core.errors import DataError, MapstoError
from mapsto.core.parts import build
from mapsto.data import Arrays, Concatenated, Fold, ImageFolder, Split, as_source

COUNT = 1003
DRAW = np.random.default_rng(0)
FIELDS: dict[str, Any] = {
    "id": np.arange(COUNT),
    "label": DRAW.choice(4, COUNT, p=[0.6, 0.3, 0.08, 0.02]),
    "user": DRAW.integers(0, 60, COUNT),
    "time": DRAW.integers(0, 400, COUNT),
    "word": [["cat", "dog", "owl"][i % 3] for i in range(COUNT)],
}
SOURCE = Arrays(**FIELDS)
Args = dict[str, Any]


def ids(source: Any) -> np.ndarray[Any, Any]:
    return np.asarray(source[np.arange(len(source))]["id"])


def both(**args: Any) -> tuple[np.ndarray[Any, Any], np.ndarray[Any, Any]]:
    return ids(Split(SOURCE, "rest", **args)), ids(Split(SOURCE, "held_out", **args))


WAYS: list[Args] = [
    {"fraction": 0.2},
    {"fraction": 0.2, "stratify": "label"},
    {"fraction": 0.2, "stratify": "word"},
    {"fraction": 0.2, "groups": "user"},
    {"fraction": 0.2, "groups": "user", "stratify": "label"},
    {"fraction": 0.2, "by": "time"},
    {"groups": "user", "by": "time", "last": 2},
]


@pytest.mark.parametrize("args", WAYS, ids=str)
def test_parts_are_disjoint_complete_and_the_same_each_time(args: Args) -> None:
    rest, held = both(**args)
    assert sorted([*rest, *held]) == list(range(COUNT))
    again = both(**args)
    assert np.array_equal(rest, again[0])
    assert np.array_equal(held, again[1])
    if "by" not in args:
        assert not np.array_equal(np.sort(held), np.sort(both(**args, seed=1)[1])), "another seed draws others"
        assert abs(len(held) - 0.2 * COUNT) <= (1 if "groups" not in args else 25)


@pytest.mark.parametrize("field", ["label", "word"])
def test_strata_have_their_share_within_one_record(field: str) -> None:
    values = np.asarray(FIELDS[field])
    _, held = both(fraction=0.2, stratify=field)
    for value in np.unique(values):
        share = 0.2 * (values == value).sum()
        assert abs((values[held] == value).sum() - share) <= 1
    plain = both(fraction=0.2)[1]
    assert max(abs((values[plain] == v).sum() - 0.2 * (values == v).sum()) for v in np.unique(values)) > 1, "the control"


def test_a_group_is_in_one_part_and_strata_are_kept_as_groups_allow() -> None:
    for more in ({}, {"stratify": "label"}):
        rest, held = both(fraction=0.2, groups="user", **more)
        assert not set(FIELDS["user"][rest]) & set(FIELDS["user"][held])
        assert abs(len(held) / COUNT - 0.2) < 0.01
    shares = [abs((FIELDS["label"][held] == c).sum() / (FIELDS["label"] == c).sum() - 0.2) for c in range(4)]
    assert max(shares) < 0.06
    rest, held = both(fraction=0.2)
    assert set(FIELDS["user"][rest]) & set(FIELDS["user"][held]), "the control"


@pytest.mark.parametrize("fraction", [0.1, 0.2, 0.5])
def test_groups_of_every_size_are_in_both_parts_as_in_the_whole(fraction: float) -> None:
    sizes = np.random.default_rng(3).integers(5, 200, 400)
    source = Arrays(group=np.repeat(np.arange(400), sizes), size=np.repeat(sizes, sizes))
    for part in ("rest", "held_out"):
        found = Split(source, part, fraction, groups="group")  # type: ignore[arg-type]
        rows = found[np.arange(len(found))]
        own = rows["size"][np.unique(rows["group"], return_index=True)[1]]
        assert abs(own.mean() - sizes.mean()) < 0.06 * sizes.mean()
        assert abs(np.quantile(own, 0.9) - np.quantile(sizes, 0.9)) < 12
        assert abs(len(own) - 400 * (fraction if part == "held_out" else 1 - fraction)) < 8


def test_what_is_held_out_by_time_is_later_than_all_the_rest() -> None:
    rest, held = both(fraction=0.2, by="time")
    assert FIELDS["time"][rest].max() < FIELDS["time"][held].min()
    assert abs(len(held) - 0.2 * COUNT) <= np.bincount(FIELDS["time"]).max()
    days = [f"2024-01-{1 + i % 28:02}" for i in range(56)]
    dates = Arrays(id=np.arange(56), day=days, moment=np.array(days, "datetime64[D]"))
    for field in ("day", "moment"):
        kept = ids(Split(dates, "held_out", 0.25, by=field))
        assert sorted(kept) == [i for i in range(56) if i % 28 >= 21]


def test_the_last_of_each_group_are_held_out_by_a_plain_definition() -> None:
    source = Arrays(id=np.arange(8), user=np.array([1, 1, 1, 2, 3, 3, 2, 1]), time=np.array([5, 9, 9, 1, 4, 2, 0, 7]))
    held = Split(source, "held_out", groups="user", by="time", last=1)
    assert sorted(ids(held)) == [2, 3, 4], "of equal times the later record"
    two = Split(source, "held_out", groups="user", by="time", last=2)
    assert sorted(ids(two)) == [1, 2]
    assert two.notes() == ["split: 2 groups have no record held out, since they have too few"]
    assert held.notes() == []
    _, last = both(groups="user", by="time", last=1)
    for user in np.unique(FIELDS["user"]):
        own = np.flatnonzero(FIELDS["user"] == user)
        assert (FIELDS["user"][last] == user).sum() == 1
        assert FIELDS["time"][last][FIELDS["user"][last] == user][0] == FIELDS["time"][own].max()


def test_leave_one_out_with_validation_nests() -> None:
    rest = Split(SOURCE, "rest", groups="user", by="time", last=1)
    valid = Split(rest, "held_out", groups="user", by="time", last=1)
    train = Split(rest, "rest", groups="user", by="time", last=1)
    test = Split(SOURCE, "held_out", groups="user", by="time", last=1)
    assert sorted([*ids(train), *ids(valid), *ids(test)]) == list(range(COUNT))
    for user in range(60):
        times = [FIELDS["time"][ids(part)][FIELDS["user"][ids(part)] == user] for part in (train, valid, test)]
        assert times[0].max() <= times[1].min() <= times[2].min()


# -- folds -----------------------------------------------------------------------------------------------------------------
def folds(of: int, **args: Any) -> list[np.ndarray[Any, Any]]:
    return [ids(Fold(SOURCE, "held_out", i, of, **args)) for i in range(1, of + 1)]


@pytest.mark.parametrize(
    "args", [{}, {"stratify": "label"}, {"groups": "user"}, {"groups": "user", "stratify": "label"}], ids=str
)
def test_folds_are_disjoint_and_complete_and_the_rest_is_all_others(args: Args) -> None:
    found = folds(5, **args)
    assert sorted(np.concatenate(found)) == list(range(COUNT))
    for number, held in enumerate(found, 1):
        rest = ids(Fold(SOURCE, "rest", number, 5, **args))
        assert sorted([*rest, *held]) == list(range(COUNT))
    if "groups" not in args:
        assert {len(held) for held in found} <= {COUNT // 5, COUNT // 5 + 1}


def test_strata_of_folds_are_as_even_as_scikit_learn_s() -> None:
    counts = np.array([np.bincount(FIELDS["label"][held], minlength=4) for held in folds(5, stratify="label")])
    theirs = StratifiedKFold(5, shuffle=True, random_state=0).split(np.zeros(COUNT), FIELDS["label"])
    their_counts = np.array([np.bincount(FIELDS["label"][held], minlength=4) for _, held in theirs])
    assert (np.ptp(counts, axis=0) <= np.ptp(their_counts, axis=0)).all()
    plain = np.array([np.bincount(FIELDS["label"][held], minlength=4) for held in folds(5)])
    assert np.ptp(plain, axis=0).max() > 1, "the control"


def test_groups_of_folds_are_as_even_as_scikit_learn_s() -> None:
    found = folds(5, groups="user")
    users = [set(FIELDS["user"][held]) for held in found]
    assert sum(map(len, users)) == len(set.union(*users)) == 60
    theirs = [len(held) for _, held in GroupKFold(5).split(np.zeros(COUNT), groups=FIELDS["user"])]
    assert np.ptp([len(held) for held in found]) <= np.ptp(theirs)


def test_a_fold_within_a_fold_leaves_the_outer_one_alone() -> None:
    outer = Fold(SOURCE, "rest", 2, 5)
    inner = [ids(Fold(outer, "held_out", i, 4, seed=7)) for i in range(1, 5)]
    assert sorted(np.concatenate(inner)) == sorted(ids(outer))
    assert not set(np.concatenate(inner)) & set(ids(Fold(SOURCE, "held_out", 2, 5)))


# -- sources and doors -----------------------------------------------------------------------------------------------------
def test_one_field_is_asked_of_sources_that_know_it(tmp_path: Any) -> None:
    pillow = pytest.importorskip("PIL.Image")
    for name, count in (("a", 8), ("b", 12)):
        (tmp_path / name).mkdir()
        for i in range(count):
            pillow.fromarray(np.full((4, 4), i, np.uint8)).save(tmp_path / name / f"{i}.png")
    source = ImageFolder(str(tmp_path))
    read: list[int] = []
    whole = source.__class__.__getitem__

    class Watched(ImageFolder):
        def __getitem__(self, indices: Any) -> Any:
            read.append(len(indices))
            return whole(self, indices)

    part = Split(Watched(str(tmp_path)), "held_out", 0.25, stratify="target")
    assert not read, "no image was decoded"
    assert np.bincount(part[np.arange(len(part))]["target"]).tolist() == [2, 3]
    joined = Concatenated([SOURCE, SOURCE])
    assert np.array_equal(joined.field_values("label", np.array([1004, 2, 5])), FIELDS["label"][[1, 2, 5]])


def test_any_object_and_a_spec_can_be_split() -> None:
    class Plain:
        def __len__(self) -> int:
            return 20

        def __getitem__(self, indices: Any) -> Any:
            return {"id": indices, "label": indices % 2}

    part = build(
        use("fold", source=Plain(), part="held_out", fold=1, of=4, stratify="label"), "source", path="data.train.source"
    )
    assert np.bincount(part[np.arange(len(part))]["label"]).tolist() in ([2, 3], [3, 2])
    assert (
        len(Split(as_source({"id": np.arange(10), "column": np.arange(10)[:, None] % 2}), "rest", 0.2, stratify="column")) == 8
    )


ODD = Arrays(
    id=np.arange(6),
    one=np.zeros(6),
    each=np.arange(6),
    few=np.array([0, 0, 0, 0, 0, 1]),
    holes=np.array([1, 2, np.nan, 4, 5, 6]),
    texts=["a", None, "b", "c", "d", "e"],
    wide=np.zeros((6, 2)),
)  # fmt: skip


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda: Split(ODD, "rest", 0.5, stratify="few"), r"stratify='few': the value 1 has 1 record\(s\), and 2 are wanted"),
        (lambda: Fold(ODD, "rest", 1, 3, stratify="few"), r"the value 1 has 1 record\(s\), and 3 are wanted"),
        (lambda: Split(ODD, "rest", 0.5, groups="one"), r"groups='one' has 1 value\(s\), too few for 2 parts"),
        (lambda: Fold(ODD, "rest", 4, 3), "there is no fold 4 of 3"),
        (lambda: Fold(ODD, "rest", 1, 7), "6 records are too few for 7 folds"),
        (lambda: Split(ODD, "rest", 0.5, by="one"), "by='one' has one value"),
        (lambda: Split(ODD, "rest", 0.5, by="holes"), "by='holes' has no value at record 2"),
        (lambda: Split(ODD, "rest", 0.5, by="texts"), "by='texts' holds NoneType and str, which have no order"),
        (lambda: Split(ODD, "rest", 0.5, stratify="wide"), r"has records of shape \(2,\), and one value a record is wanted"),
        (lambda: Split(ODD, "rest", 0.5, stratify="fwe"), "there is no field 'fwe'|has no field 'fwe'"),
        (lambda: Split(ODD, "rest", 0.0), "leaves one part empty"),
        (lambda: Split(ODD, "rest", by="each", last=1), "last goes with groups"),
        (lambda: Split(ODD, "rest", by="each", groups="few"), "goes with groups only where `last`"),
        (lambda: Split(ODD, "valid"), "rest"),
    ],
)  # fmt: skip
def test_parts_that_cannot_be_are_one_clear_error(make: Callable[[], Any], told: str) -> None:
    with pytest.raises(MapstoError, match=told) as found:
        make()
    assert isinstance(found.value, DataError)
    assert "\n" not in str(found.value).strip() or "nearest" in str(found.value)
