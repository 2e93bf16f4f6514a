"""`mapsto check --record` keeps values beside a component, and later checks hold it to them."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

FILE = """
from torch import nn
import torch
import mapsto

class Scaled(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(4))

    def forward(self, x):
        return {formula}

mapsto.example(Scaled, inputs=lambda size, generator: (torch.randn(size, 4, generator=generator),))
"""


def check(folder: Path, *words: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "mapsto", "check", "golden_scaled.py:Scaled", *words]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False, env={**os.environ})


def written(folder: Path, formula: str) -> Path:
    (folder / "golden_scaled.py").write_text(FILE.format(formula=formula))
    return folder / "goldens" / "Scaled.layer.npz"


def test_what_was_recorded_is_held(tmp_path: Path) -> None:
    kept = written(tmp_path, "x * self.weight")
    unrecorded = check(tmp_path, "--laws", "layer.golden", "--kind", "layer")
    assert "no values of it are recorded" in unrecorded.stdout
    assert check(tmp_path, "--record", "--kind", "layer").returncode == 0
    assert {name.partition(" ")[0] for name in np.load(kept, allow_pickle=False).files} == {
        "parameter",
        "input",
        "state",
        "output",
    }
    assert check(tmp_path, "--laws", "layer.golden", "--kind", "layer", "--seed", "5").returncode == 0
    written(tmp_path, "x * self.weight * 1.001")
    changed = check(tmp_path, "--laws", "layer.golden", "--kind", "layer")
    assert changed.returncode == 1
    assert "a constant factor of 1.001 throughout" in changed.stdout
    kept.write_bytes(kept.read_bytes()[:100])
    assert "cannot be read" in check(tmp_path, "--laws", "layer.golden", "--kind", "layer").stdout


@pytest.mark.parametrize("words", [("--record", "--laws", "layer.golden"), ("--record", "--list")])
def test_recording_judges_nothing_else(tmp_path: Path, words: tuple[str, ...]) -> None:
    written(tmp_path, "x")
    done = check(tmp_path, *words)
    assert done.returncode == 2
    assert "--record judges no laws and lists none" in done.stderr
