"""A small trained run, and the command line called in this process."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from mapsto.cli import main

SPEC = """\
name: gates
model: {use: "torch.nn:Linear", in_features: 2, out_features: 2}
task: classification
optimizer: {use: adamw, lr: 0.05}
middleware: [{use: clip_norm, max_norm: 1.0}]
data:
  train: &table
    source: {use: arrays, input: [[0, 0], [0, 1], [1, 0], [1, 1], [1, 1]], target: [0, 1, 1, 1, 1]}
    transforms: [{use: scale, factor: 1.0}]
    batch_size: 2
    shuffle: true
  valid: *table
  test: *table
epochs: 2
log_every: 2
device: cpu
"""


@dataclass
class Said:
    """What a command line answered."""

    code: int
    out: str
    err: str


@pytest.fixture
def mapsto(capsys: pytest.CaptureFixture[str]) -> Callable[..., Said]:
    """Call `mapsto` with these words in this process."""

    def call(*words: object) -> Said:
        capsys.readouterr()
        try:
            code = main([str(word) for word in words])
        except SystemExit as ended:
            code = ended.code if isinstance(ended.code, int) else 1
        found = capsys.readouterr()
        return Said(code, found.out, found.err)

    return call


@pytest.fixture
def spec(tmp_path: Path) -> Path:
    """A small spec in YAML."""
    path = tmp_path / "gates.yaml"
    path.write_text(SPEC)
    return path


@pytest.fixture(scope="session")
def _trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trained")
    (folder / "gates.yaml").write_text(SPEC)
    assert main(["train", str(folder / "gates.yaml"), "--run", str(folder / "run"), "--quiet"]) == 0
    return folder / "run"


@pytest.fixture
def trained(_trained: Path, tmp_path: Path) -> Path:
    """The folder of a finished run of the small spec, to do with as one likes."""
    return Path(shutil.copytree(_trained, tmp_path / "run"))
