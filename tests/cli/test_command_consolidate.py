"""`mapsto consolidate`; of runs of several ranks see tests/mesh."""

from __future__ import annotations

import os

import numpy as np
import pytest
from safetensors.numpy import load_file

from mapsto import Run


def test_the_weights_of_a_run_as_one_plain_file(mapsto, trained, tmp_path):
    said = mapsto("consolidate", trained, "--output", tmp_path / "deep" / "w.safetensors")
    assert said.code == 0, said.err
    assert said.out.startswith(f"{tmp_path}/deep/w.safetensors: ")
    assert "of step-00000006" in said.out
    found = load_file(tmp_path / "deep/w.safetensors")
    with Run.resume(trained).trained() as program:
        weights = program.weights()
    assert found.keys() == weights.keys()
    for name, weight in weights.items():
        np.testing.assert_array_equal(found[name], weight)
    earlier = mapsto("consolidate", trained / "checkpoints/step-00000003", "--output", tmp_path / "w.safetensors")
    assert "of step-00000003" in earlier.out
    assert any((load_file(tmp_path / "w.safetensors")[n] != w).any() for n, w in weights.items())


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["--checkpoint", "5"], "there is no checkpoint '5'"),
        (["--output", "/dev/null/w.safetensors"], "/dev/null/w.safetensors cannot be written: "),
    ],
)
def test_what_cannot_be_done(mapsto, trained, words, told):
    said = mapsto("consolidate", trained, *words)
    assert said.code == 1
    assert told in said.err


def test_a_folder_without_a_run(mapsto, tmp_path):
    assert "is not the folder of a run: it has no spec.yaml" in mapsto("consolidate", tmp_path).err
    assert os.listdir(tmp_path) == []
