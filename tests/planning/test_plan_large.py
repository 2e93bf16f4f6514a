"""A model of 6.6 billion parameters on 1024 ranks is planned here, in little memory, and its bytes are those of a formula."""

from __future__ import annotations

import json
import os
import resource
import signal
import subprocess
import sys
from pathlib import Path

import pytest

RECIPE = Path(__file__).parents[2] / "recipes" / "language_model.py"
WIDTH, LAYERS, WORDS, CONTEXT, RANKS = 4096, 32, 50304, 128, 1024
LIMIT = 900.0


@pytest.mark.slow
def test_a_large_model_on_a_thousand_ranks(tmp_path: Path) -> None:
    words = [f"model.width={WIDTH}", "model.heads=32", f"model.layers={LAYERS}", f"model.vocabulary={WORDS}"]
    file = tmp_path / "plan.json"
    command = [sys.executable, "-m", "mapsto", "plan", str(RECIPE), *words, f"data.train.batch_size={RANKS}"]
    command += ["--mesh", f"shard={RANKS}", "--memory", "80GB", "--json", str(file)]
    process = subprocess.Popen(
        command, env={**os.environ, "OMP_NUM_THREADS": "1"}, start_new_session=True, stdout=subprocess.PIPE, text=True
    )
    try:
        out, _ = process.communicate(timeout=LIMIT)
    finally:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    assert process.returncode == 0, out
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss < 2 * 1024 * 1024  # KB

    (found,) = json.loads(file.read_text())["meshes"]
    block = 12 * WIDTH**2 + 13 * WIDTH
    rows = -(-WORDS // RANKS) * RANKS + -(-CONTEXT // RANKS) * RANKS  # of the embeddings, padded to equal parts
    root = rows * WIDTH + 2 * WIDTH
    assert found["communicated"]["all-gather"] == 4 * (2 * LAYERS * block + root)
    assert found["communicated"]["reduce-scatter"] == 4 * (LAYERS * block + root)
    assert found["held"]["parameters"] == found["held"]["gradients"] == 4 * (LAYERS * block + root) // RANKS
    assert found["peak"] < 80e9
    assert found["largest_micro_batch"] > 1
