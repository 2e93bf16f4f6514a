"""200 damaged run folders, drawn from a seed: every reader answers with its result or with one error, and waits for nothing."""

from __future__ import annotations

import contextlib
import io
import json
import logging
import random
import re
import shutil
import warnings
from pathlib import Path

import pytest
from folders import DAMAGES, json_of_a_file, sealed

from mapsto.cli import main
from mapsto.core.shown import OBEYED
from mapsto.engine.checkpoints.manifest import TENSORS

SPEC = """\
name: small
model: {use: "torch.nn:Linear", in_features: 2, out_features: 2}
optimizer: {use: adamw, lr: 0.05}
middleware: [ema]
data:
  train: &rows
    source: {use: arrays, input: [[0, 0], [0, 1], [1, 0], [1, 1]], target: [0, 1, 1, 1]}
    transforms: [{use: scale, factor: 1.0}]
    batch_size: 2
  valid: *rows
  test: *rows
epochs: 3
log_every: 1
device: cpu
"""
CHEAP = [["doctor", "--json"], ["consolidate"], ["show"], ["evaluate"], ["predict", "--output", "p.jsonl"]]
DEAR = [["report"], ["train", "--quiet", "epochs=4", "--resume"]]
"""A page with its charts, and steps that are taken."""


SETTING = re.compile(r"error: (\w+\.)*\w+: |middleware")
"""An error of a setting names its path in the spec instead of the file."""


def readers(number: int, every: bool) -> list[list[str]]:
    """The commands that read a folder: all of them, or of a few each in its turn."""
    if every:
        return [["doctor"], *CHEAP, *DEAR]
    return [["doctor"], CHEAP[number % 5], *([DEAR[number // 25 % 2]] if number % 25 == 0 else [])]


@pytest.fixture(scope="module")
def whole(tmp_path_factory) -> Path:
    """A run with all that a folder may hold."""
    folder = tmp_path_factory.mktemp("hostile")
    (folder / "s.yaml").write_text(SPEC)
    assert main(["train", str(folder / "s.yaml"), "--run", str(folder / "run"), "--quiet"]) == 0
    run = folder / "run"
    (run / "report.html").unlink()
    logs = {
        "errors/rank-0.json": {
            "rank": 0,
            "host": "a",
            "step": 3,
            "time": 4e9,
            "type": "ValueError",
            "message": "m",
            "traceback": "t",
        },
        "launch.jsonl": {"event": "failed", "time": 4e9, "kind": "x", "sentence": "it failed", "ranks": [0], "attempt": 1},
        "stalls/rank-0.txt": {"rank": 0, "host": "a", "pid": 1, "step": 3, "time": 4e9, "limit": 60.0},
    }
    for name, data in logs.items():
        (run / "logs" / name).parent.mkdir(parents=True, exist_ok=True)
        (run / "logs" / name).write_text(json.dumps(data) + "\n")
    return run


def answers(words: list[str], bounded, what: str) -> tuple[int, str]:
    """The exit code and all that was said; anything but an answer is the test's failure."""
    out, err = io.StringIO(), io.StringIO()
    with warnings.catch_warnings(), bounded(what), contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
        warnings.simplefilter("ignore")
        code = main(words)
    said = out.getvalue() + err.getvalue()
    assert code in (0, 1, 3), what
    assert not OBEYED.search(said), what
    assert "Traceback" not in said, what
    assert code != 1 or err.getvalue().count("error: ") == 1, f"{what}: {err.getvalue()}"
    return code, err.getvalue()


def damaged(whole: Path, folder: Path, rng: random.Random, damages=DAMAGES) -> str:
    """A copy of the run with one to three damages; which."""
    shutil.copytree(whole, folder)
    if rng.random() < 0.2:  # as ranks would have written it: parts, of which there is one
        for checkpoint in (folder / "checkpoints").glob("step-*"):
            (checkpoint / TENSORS).rename(checkpoint / "part-00001-of-00001.safetensors")
            sealed(checkpoint, format=2)
    done = []
    for damage in rng.choices(damages, k=rng.randint(1, 3)):
        with contextlib.suppress(
            OSError, ValueError, IndexError, KeyError, AttributeError, TypeError, RecursionError
        ):  # damaged before
            done.append(damage(rng, folder))
    return ", ".join(done)


def read_all(whole, tmp_path, bounded, seed, count, every) -> int:
    """How many answers were errors."""
    errors, outside = 0, sorted(p.name for p in tmp_path.iterdir())
    for number in range(count):
        rng, folder = random.Random(f"{seed} {number}"), tmp_path / "run"
        what = f"folder {number} of seed {seed}: {damaged(whole, folder, rng)}"
        for words in readers(number, every):
            words = [word.replace("p.jsonl", str(tmp_path / "p.jsonl")) for word in words]
            code, said = answers([*words, str(folder)] if words[-1] == "--resume" else [words[0], str(folder), *words[1:]],
                                 bounded, f"{what}: {words[0]}")  # fmt: skip
            errors += code == 1
            if code == 1:
                assert str(folder) in said or SETTING.search(said), f"{what}: {said}"
        shutil.rmtree(folder)
        (tmp_path / "p.jsonl").unlink(missing_ok=True)
        assert sorted(p.name for p in tmp_path.iterdir()) == outside
    return errors


def test_every_reader_answers(whole, tmp_path, bounded, caplog):
    caplog.set_level(logging.CRITICAL)
    errors = read_all(whole, tmp_path, bounded, seed=0, count=200, every=False)
    assert errors > 50  # the damages do damage


def test_the_whole_folder_is_read_without_an_error(whole, tmp_path, bounded):
    """The control: what is damaged above is whole here."""
    shutil.copytree(whole, tmp_path / "run")
    for words in CHEAP:
        words = [word.replace("p.jsonl", str(tmp_path / "p.jsonl")) for word in words]
        assert answers([words[0], str(tmp_path / "run"), *words[1:]], bounded, "whole")[0] in (0, 3)
    assert json_of_a_file(random.Random(0), tmp_path / "run")


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(1, 21))
def test_every_reader_answers_at_length(whole, tmp_path, bounded, caplog, seed):
    caplog.set_level(logging.CRITICAL)
    read_all(whole, tmp_path, bounded, seed=seed, count=200, every=True)
