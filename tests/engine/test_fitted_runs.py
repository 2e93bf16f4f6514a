"""What transforms learn from the training records is the run's: kept in its folder, used wherever it goes on or is asked."""

from __future__ import annotations

import json

import numpy as np
import pytest
from runs import Blobs, numpy_spec

import mapsto
from mapsto.core.errors import CheckpointError, DataError
from mapsto.core.values import use
from mapsto.data import Arrays
from mapsto.engine.run import Run

EVERY_RECORD = np.arange(50)


def learning(valid=None, **changes):
    """A spec whose training and validation readers normalise by what is learned."""
    data = {
        "train": {"source": use("runs:Blobs"), "batch_size": 9, "transforms": [use("scale", factor=2.0), use("normalise")]},
        "valid": {"source": use("runs:Blobs", records=20, seed=1), "batch_size": 8, "transforms": valid or [use("normalise")]},
    }
    return numpy_spec(data=data, **changes)


def kept(folder):
    return json.loads((folder / "learned.json").read_text())


def test_a_run_learns_from_its_training_records_alone(tmp_path):
    Run(learning(), tmp_path / "run").fit()
    rows = 2.0 * Blobs(seed=3)[EVERY_RECORD]["input"].astype(np.float32).astype(np.float64)
    learned = kept(tmp_path / "run")["1"]
    assert list(kept(tmp_path / "run")) == ["1"]  # its place among the transforms of data.train
    assert np.allclose(learned["mean"], rows.mean(0), rtol=1e-6)
    assert np.allclose(learned["std"], rows.std(0), rtol=1e-6)
    others = Blobs(20, seed=1)[np.arange(20)]["input"]
    assert not np.allclose(np.concatenate([rows, others]).mean(0), learned["mean"], rtol=1e-3)  # the control


def test_validation_records_are_mapped_by_what_was_learned_of_the_others(tmp_path):
    run = Run(learning(), tmp_path / "run")
    learned = run.reader("train").transforms[1].learned
    found = run.reader("valid").batch(0)["input"]
    raw = Blobs(20, seed=1)[np.arange(8)]["input"]
    assert np.allclose(found, (raw - learned["mean"]) / learned["std"], atol=1e-5)
    assert abs(found.mean()) > 0.1  # by their own mean it would be 0


def test_a_resumed_run_ends_as_one_that_was_never_interrupted(tmp_path):
    whole = Run(learning(), tmp_path / "run").fit().metrics
    before = (tmp_path / "run" / "learned.json").read_bytes()
    again = Run.resume(tmp_path / "run", checkpoint=6).fit().metrics
    assert [again[name] for name in ("train/loss", "valid/loss")] == [whole[name] for name in ("train/loss", "valid/loss")]
    assert (tmp_path / "run" / "learned.json").read_bytes() == before


def test_what_was_learned_is_read_and_not_learned_again(tmp_path):
    Run(learning(), tmp_path / "run").fit()
    before = Run.resume(tmp_path / "run").evaluate("valid")
    found = kept(tmp_path / "run")
    found["1"]["mean"] = [x + 1 for x in found["1"]["mean"]]
    (tmp_path / "run" / "learned.json").write_text(json.dumps(found))
    assert Run.resume(tmp_path / "run").evaluate("valid") != before
    (tmp_path / "run" / "learned.json").unlink()
    with pytest.raises(CheckpointError, match=r"has lost learned\.json"):
        Run.resume(tmp_path / "run").evaluate("valid")


def test_who_evaluates_needs_no_training_data(tmp_path, monkeypatch):
    Run(learning(), tmp_path / "run").fit()

    def read(self, indices):
        assert self.records == 20, "the training records were read"
        return original(self, indices)

    original = Blobs.__getitem__
    monkeypatch.setattr(Blobs, "__getitem__", read)
    assert Run.resume(tmp_path / "run").evaluate("valid")


def test_a_transform_that_the_training_data_lack_has_nothing_to_learn_from(tmp_path):
    for valid in ([use("fill_missing")], [use("normalise", axis=-1)], [use("normalise"), use("normalise")]):
        with pytest.raises(
            DataError, match=r"data\.valid\.transforms\.\d: \w+ is fitted on data\.train, whose transforms hold"
        ):
            Run(learning(valid), tmp_path / "run").reader("valid")


def test_the_vocabulary_of_a_run_is_that_of_its_training_texts():
    train, valid = (Arrays(input=texts) for texts in (["a cat", "a dog sat"], ["a new cat", "new"]))
    reader = {"batch_size": 2, "transforms": [use("tokenise_words"), use("pad")]}
    data = {"train": {**reader, "source": train}, "valid": {**reader, "source": valid}}
    run = Run(mapsto.Spec(**{**numpy_spec().__dict__, "data": data}))
    assert run.reader("valid").batch(0)["input"].tolist() == [[2, 1, 3], [1, 0, 0]]
