"""The language model: every byte is a target once, none is seen before its time, and what is learnt is gone on with."""

from __future__ import annotations

import math
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from recipe_runs import RECIPES, same, weights_at
from tests import forked

from mapsto import DataError, Run, Spec, load_spec
from mapsto.processes.forks import ForkServer

RECIPE = str(RECIPES / "language_model.py")
TUNE = b"one two three four five six seven eight nine "  # 45 bytes: blocks of 32 begin at each of them
SMALL = ("model.width=32", "model.layers=1", "model.heads=2", "data.train.batch_size=8", "evaluate_every=null")


@pytest.fixture
def book(tmp_path: Path) -> Path:
    path = tmp_path / "book.txt"
    path.write_bytes(TUNE * 60 + b"the end")
    return path


def small(recipe: ModuleType, book: Path, *changes: str) -> Spec:
    return recipe.spec(str(book), block=32).override(*SMALL, *changes)


def test_every_byte_is_a_target_once(recipe: ModuleType, book: Path) -> None:
    text = book.read_bytes()
    seen = []
    for split in ("train", "valid"):
        source = recipe.TextBlocks(split, str(book), block=32)
        batch = source[np.arange(len(source))]
        kept = batch["target"] >= 0
        ends = (source.numbers[:, None] * 32 + np.arange(1, 33))[kept]
        assert batch["target"][kept].tolist() == [text[i] for i in ends]
        seen += ends.tolist()
    assert sorted(seen) == list(range(1, len(text)))


def test_a_text_of_one_block_is_an_error(recipe: ModuleType, tmp_path: Path) -> None:
    (tmp_path / "short.txt").write_bytes(b"short")
    with pytest.raises(DataError, match=r"short\.txt is one block of 128 bytes, which leaves none for train"):
        recipe.TextBlocks("train", str(tmp_path / "short.txt"))


def test_no_position_sees_what_comes_after(recipe: ModuleType) -> None:
    torch.manual_seed(0)
    model = recipe.Transformer(width=16, context=12, heads=2, layers=2).double().eval()
    ids = torch.randint(0, 256, (1, 12))
    changed = ids.clone()
    changed[0, 7] = (ids[0, 7] + 1) % 256
    before, after = model(ids), model(changed)
    torch.testing.assert_close(after[:, :7], before[:, :7], rtol=1e-12, atol=1e-12)
    seen = (after[:, 7:] - before[:, 7:]).abs().amax(dim=(0, 2))
    assert (seen > 1e-6).all(), "the control: the position itself and those after it do see the change"


def test_the_loss_is_a_mean_over_targets_and_not_over_batches(recipe: ModuleType, book: Path, tmp_path: Path) -> None:
    changes = ("data.valid.source.split=train", "data.valid.limit=null", "data.valid.batch_size=5")
    run = Run(small(recipe, book, *changes), tmp_path / "run")
    source = run.reader("valid").source
    batch = source[np.arange(len(source))]
    ids, target = torch.from_numpy(batch["input"]), torch.from_numpy(batch["target"])
    found = run.evaluate("valid")
    with torch.no_grad():
        logits = run.program.model.double()(ids)
        losses = F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=-100, reduction="none").view(target.shape)
    exact = float(losses.sum() / (target >= 0).sum())
    assert found["loss"] == pytest.approx(exact, rel=1e-5)
    assert found["perplexity"] == pytest.approx(math.exp(found["loss"]))
    means = [float(one.sum() / (t >= 0).sum()) for one, t in zip(losses.split(5), target.split(5), strict=True)]
    assert abs(np.mean(means) - exact) > 2e-5 * exact, "the control: a mean of the batches' means is another number"


def test_learns_and_goes_on_with_a_text(recipe: ModuleType, book: Path, tmp_path: Path) -> None:
    spec = small(recipe, book, "steps=300", "optimizer.lr=5e-3", "model.layers=2", "model.width=64")
    run = Run(spec, tmp_path / "run")
    result = run.fit()
    counts = np.bincount(np.frombuffer(book.read_bytes(), np.uint8))
    share = counts[counts > 0] / counts.sum()
    unigram = math.exp(-(share * np.log(share)).sum())
    assert result.metrics["valid/perplexity"] < 0.3 * unigram
    with run.program.evaluating() as state:
        text = recipe.generate(state.model, TUNE[:20], len(TUNE) - 20, temperature=0)
    assert text == TUNE
    panel = run.folder.panels()[0]
    assert panel["kind"] == "samples"
    assert len(panel["rows"]) > 0


def test_the_recipe_as_a_script_goes_on_with_a_text(
    recipe: ModuleType, loaded: ForkServer, book: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TEXT", str(book))
    Run(load_spec(RECIPE).override(*SMALL, "steps=3"), tmp_path / "run").fit()
    spoken = forked.run(loaded, RECIPE, tmp_path / "run", "one two")
    assert spoken.returncode == 0, spoken.stderr
    assert spoken.stdout.startswith("one two")
    assert len(spoken.stdout.encode(errors="surrogateescape")) >= len("one two") + 200


def test_drawing_depends_on_its_seed_alone(recipe: ModuleType) -> None:
    torch.manual_seed(0)
    model = recipe.Transformer(width=16, context=8, heads=2, layers=1).eval()
    with torch.no_grad():
        drawn = [recipe.generate(model, b"mapsto", 30, seed=seed) for seed in (1, 1, 2)]
    assert drawn[0] == drawn[1] != drawn[2]
    assert all(len(d) == 36 and d.startswith(b"mapsto") for d in drawn)


def test_resumes_bitwise(recipe: ModuleType, book: Path, tmp_path: Path) -> None:
    spec = small(recipe, book, "steps=6", "model.dropout=0.1", "checkpoint={every: 1, keep: null}")
    Run(spec, tmp_path / "run").fit()
    whole = weights_at(spec, tmp_path / "run", 6)
    Run(spec, tmp_path / "run").fit(checkpoint=2)
    assert same(weights_at(spec, tmp_path / "run", 6), whole)
    assert not same(weights_at(spec, tmp_path / "run", 5), whole), "the control: a step changes the weights"


def test_reads_the_standard_library_where_nothing_is_named(recipe: ModuleType, tmp_path: Path) -> None:
    run = Run(load_spec(RECIPE).override(*SMALL, "steps=40", "data.valid.limit=32", "optimizer.lr=1e-2"), tmp_path / "run")
    result = run.fit()
    assert run.reader("train").records * 128 > 1_000_000
    assert result.metrics["valid/perplexity"] < 60 < 256, "of 256 bytes, the likely ones are known after some steps"
