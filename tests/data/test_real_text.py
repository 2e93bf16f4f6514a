"""Real text, where it is at hand: every question once, padded in buckets, from raw lines to ids."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from mapsto.data import Batches, Pad, TextLines, TokenBlocks, TokeniseWords, Vocabulary

FILE = Path("/work/shared/data/sentence_cls/TREC.train.all")
pytestmark = pytest.mark.skipif(not FILE.is_file(), reason=f"{FILE} is not here")


def test_questions_from_lines_to_padded_ids() -> None:
    source = TextLines(FILE, pattern=r"(?P<target>\d) (?P<input>.*)", encoding="latin-1")
    raw = FILE.read_text(encoding="latin-1").splitlines()
    assert len(source) == len(raw) == 5452
    vocabulary = Vocabulary.build(source, 3000)
    reader = Batches(
        source, 32, shuffle=True, bucket_by="input", transforms=[TokeniseWords(vocabulary), Pad(mask="mask", lengths="n")]
    )
    plain = Batches(source, 32, shuffle=True, transforms=[TokeniseWords(vocabulary), Pad(mask="mask", lengths="n")])
    targets = np.zeros(6, int)
    words, cells, plain_cells = 0, 0, 0
    for position in range(reader.batches_per_epoch):
        batch = reader.batch(position)
        assert batch["input"].shape == batch["mask"].shape
        assert batch["input"].max() < 3000
        targets += np.bincount(batch["target"], minlength=6)
        words += int(batch["mask"].sum())
        cells += batch["input"].size
        plain_cells += plain.batch(position)["input"].size
    assert targets.tolist() == np.bincount([int(line[0]) for line in raw], minlength=6).tolist()
    assert words == sum(len(vocabulary.split(line[2:])) for line in raw)
    assert words / cells > 0.7 > 0.55 > words / plain_cells


def test_blocks_of_the_same_file() -> None:
    source = TokenBlocks(FILE, 128)
    reader = Batches(source, 64, shuffle=True)
    counted = sum(int((reader.batch(p)["target"] != -100).sum()) for p in range(reader.batches_per_epoch))
    assert counted == FILE.stat().st_size - 1
