"""The text classifier: raw files in, classes out; padding and the order of reading leave no trace."""

from __future__ import annotations

from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from recipe_runs import RECIPES, same, weights_at

from mapsto import DataError, Run, load_spec

RECIPE = str(RECIPES / "text_classifier.py")
TREC = Path("/work/shared/data/sentence_cls")
WORDS = {"fruit": ["apple", "pear", "plum", "fig"], "tool": ["saw", "axe", "drill", "file"]}


def sentences(label: str, count: int, seed: int) -> list[str]:
    """Sentences with one word of the class among words that say nothing."""
    rng = np.random.default_rng(seed)
    neutral = ["the", "a", "one", "of", "in", "at", "then", "there"]
    made = []
    for number in range(count):
        words = list(rng.choice(neutral, rng.integers(2, 12)))
        words.insert(int(rng.integers(len(words))), str(rng.choice(WORDS[label])))
        made.append(" ".join([*words, str(number)]))
    return made


def as_folder(path: Path, count: int = 120) -> Path:
    for seed, label in enumerate(WORDS):
        (path / label).mkdir(parents=True)
        for number, text in enumerate(sentences(label, count, seed)):
            (path / label / f"{number}.txt").write_text(text)
    return path


def as_lines(path: Path, count: int = 120) -> Path:
    lines = [f"{label}\t{text}" for seed, label in enumerate(WORDS) for text in sentences(label, count, seed)]
    path.write_text("\n".join(lines) + "\n")
    return path


@pytest.fixture(params=[as_folder, as_lines])
def texts(request: pytest.FixtureRequest, tmp_path: Path) -> Path:
    made: Path = request.param(tmp_path / "texts")
    return made


def test_learns_from_files_of_ones_own(
    recipe: ModuleType, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXTS", str(texts))
    spec = load_spec(RECIPE).override("epochs=25", "data.train.batch_size=16", "model.width=32")
    assert spec.task.args["labels"] == ("fruit", "tool")
    untrained = Run(spec, tmp_path / "untrained").evaluate("test")
    run = Run(spec, tmp_path / "run")
    run.fit()
    assert run.evaluate("test")["accuracy"] >= 0.95
    assert untrained["accuracy"] < 0.9, "the control: without training the classes are not told apart"


def test_a_run_folder_needs_no_environment(
    recipe: ModuleType, texts: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXTS", str(texts))
    run = Run(load_spec(RECIPE).override("steps=2"), tmp_path / "run")
    run.fit()
    before = run.evaluate("test")
    monkeypatch.delenv("TEXTS")
    assert Run.resume(tmp_path / "run").evaluate("test") == before


def test_resumes_bitwise_with_buckets_and_dropout(recipe: ModuleType, tmp_path: Path) -> None:
    spec = recipe.spec(str(as_folder(tmp_path / "texts"))).override(
        "steps=8", "data.train.batch_size=32", "data.train.window=2", "checkpoint.every=1", "checkpoint.keep=null"
    )
    Run(spec, tmp_path / "run").fit()
    whole = weights_at(spec, tmp_path / "run", 8)
    for step in (6, 5, 1):
        Run(spec, tmp_path / "run").fit(checkpoint=step)
        assert same(weights_at(spec, tmp_path / "run", 8), whole)
    assert not same(weights_at(spec, tmp_path / "run", 7), whole), "the control: a step changes the weights"


def test_splits_are_complete_and_share_no_text(recipe: ModuleType) -> None:
    splits = {name: recipe.Texts(name) for name in ("train", "valid", "test")}
    everything = recipe.Texts("all")
    assert sum(map(len, splits.values())) == len(everything) > 5000
    for one, other in (("train", "valid"), ("train", "test"), ("valid", "test")):
        assert not set(splits[one].texts) & set(splits[other].texts)
    assert set(np.unique(splits["test"].target)) == set(range(len(recipe.PACKAGES)))


def test_batches_hold_texts_of_similar_length(recipe: ModuleType) -> None:
    spec = recipe.spec()
    padding = {}
    for name, one in (("bucketed", spec), ("control", spec.override("data.train.bucket_by=null"))):
        reader = Run(one, f"unused-{name}").reader("train")
        masks = [reader.batch(i)["mask"] for i in range(40)]
        padding[name] = 1 - sum(m.sum() for m in masks) / sum(m.size for m in masks)
    assert padding["bucketed"] < 0.1 < padding["control"]


def test_padding_has_no_influence(recipe: ModuleType) -> None:
    torch.manual_seed(0)
    net = recipe.TextNet(50, 3, width=8).double().eval()
    ids = torch.randint(1, 50, (4, 7))
    padded = torch.cat([ids, torch.zeros(4, 5, dtype=torch.int64)], 1)
    mask = torch.ones(4, 7, dtype=torch.bool)
    longer = torch.cat([mask, torch.zeros(4, 5, dtype=torch.bool)], 1)
    short = net(ids, mask)
    torch.testing.assert_close(net(padded, longer), short, rtol=1e-12, atol=1e-12)
    unmasked = net(padded, torch.ones_like(longer))
    assert (unmasked - short).abs().max() > 1e-3, "the control: padding that is not masked changes the result"
    assert net(padded[:1] * 0, longer[:1] & False).isfinite().all(), "a text without words is still a text"


def test_a_class_of_another_file_is_an_error(recipe: ModuleType, tmp_path: Path) -> None:
    path = as_lines(tmp_path / "lines.txt")
    with pytest.raises(DataError, match="class 'fruit' of .*lines.txt is not one of metal, tool"):
        recipe.Texts("train", str(path), classes=["metal", "tool"])


def test_tells_the_packages_of_the_standard_library_apart(recipe: ModuleType, tmp_path: Path) -> None:
    run = Run(load_spec(RECIPE).override("epochs=4", "optimizer.lr=6e-3"), tmp_path / "run")
    run.fit()
    target = run.reader("test").source.target
    majority = np.bincount(target).max() / len(target)
    assert majority < 0.35
    assert run.evaluate("test")["accuracy"] > 0.65


@pytest.mark.skipif(not (TREC / "TREC.train.all").is_file(), reason="the TREC questions are not here")
def test_answers_what_a_question_asks_for(recipe: ModuleType, tmp_path: Path) -> None:
    spec = recipe.spec(str(TREC / "TREC.train.all"), encoding="latin-1")
    test = [f"data.test.source.path={TREC / 'TREC.test.all'}", "data.test.source.split=all"]
    run = Run(spec.override("epochs=6", *test), tmp_path / "run")
    run.fit()
    assert run.reader("test").records == 500
    assert run.evaluate("test", checkpoint="best")["accuracy"] > 0.75
