"""Classify raw text files: `mapsto train recipes/text_classifier.py`.

    TEXTS=reviews mapsto train recipes/text_classifier.py           reviews/positive/*.txt, reviews/negative/*.txt
    TEXTS=questions.txt mapsto train recipes/text_classifier.py     lines of `label text` (ENCODING=latin-1 where not UTF-8)

Without texts of one's own it reads Python's standard library: which package do eight lines of code come from? Texts are
split into words, put into batches of similar length and padded; a mask keeps padding out of the result. Other settings are
overridden as ever: `mapsto train recipes/text_classifier.py optimizer.lr=1e-3 data.train.batch_size=32`.
"""

from __future__ import annotations

import functools
import os
import re
import sysconfig
import zlib
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from torch import Tensor, nn

import mapsto
from mapsto import Spec, use
from mapsto.data import TextFolder, TextLines

PACKAGES = ("asyncio", "email", "http", "importlib", "multiprocessing", "unittest", "urllib", "xml")


# -- data: raw texts, split so that equal texts lie on one side ---------------------------------------------------------------
@functools.lru_cache(maxsize=4)
def read(path: str | None, encoding: str) -> tuple[list[str], list[str]]:
    """Texts and their labels, of a folder with one sub-folder a class, of a file of lines, or of the standard library."""
    if path is None:
        return read_packages()
    if Path(path).is_dir():
        folder = TextFolder(path, unit="file", encoding=encoding)
        batch = folder[np.arange(len(folder))]
        return batch["input"], [folder.classes[i] for i in batch["target"]]
    lines = TextLines(path, pattern=r"(?P<target>\S+)\s+(?P<input>.*)", encoding=encoding, skip_blank=True)
    batch = lines[np.arange(len(lines))]
    return batch["input"], [str(label) for label in batch["target"]]


def read_packages(lines: int = 8) -> tuple[list[str], list[str]]:
    """Blocks of lines of packages that every Python has; those that name their own package are too easy and left out."""
    texts, labels = [], []
    for package in PACKAGES:
        for file in sorted((Path(sysconfig.get_path("stdlib")) / package).rglob("*.py")):
            code = [line for line in file.read_text(encoding="utf-8").splitlines() if line.strip()]
            blocks = ["\n".join(code[i : i + lines]) for i in range(0, len(code), lines)]
            kept = [block for block in blocks if package not in block.lower()]
            texts += kept
            labels += [package] * len(kept)
    return texts, labels


@mapsto.source
class Texts:
    """Texts (`input`) and class numbers (`target`) of one split: a tenth by hash for `valid` and `test` each; or `all`.

    classes: in the order of their numbers; where nothing is said, all labels at `path`, sorted.
    """

    def __init__(
        self,
        split: Literal["train", "valid", "test", "all"],
        path: str | None = None,
        encoding: str = "utf-8",
        classes: list[str] | None = None,
    ) -> None:
        texts, labels = read(path, encoding)
        number = {label: i for i, label in enumerate(classes or sorted(set(labels)))}
        if unknown := set(labels) - set(number):
            raise mapsto.DataError(f"texts: class {min(unknown)!r} of {path} is not one of {', '.join(number)}")
        side = ["test", "valid", *["train"] * 8]
        chosen = [i for i, text in enumerate(texts) if split in ("all", side[zlib.crc32(text.encode()) % 10])]
        self.texts = [texts[i] for i in chosen]
        self.target = np.array([number[labels[i]] for i in chosen], np.int64)

    def __len__(self) -> int:
        return len(self.texts)

    def __getitem__(self, indices: np.ndarray) -> dict[str, list[str] | np.ndarray]:
        return {"input": [self.texts[i] for i in indices], "target": self.target[indices]}


def words(batch: dict[str, list[str]]) -> list[int]:
    """How many words each text has: what batches are made alike in."""
    return [len(re.findall(r"\w+|[^\w\s]", text)) for text in batch["input"]]


# -- the model -------------------------------------------------------------------------------------------------------------
@mapsto.layer
class AttentionPool(nn.Module):
    """A weighted mean over positions for each head, concatenated: x [B, T, D], mask [B, T] -> [B, D * heads]."""

    def __init__(self, width: int, heads: int) -> None:
        super().__init__()
        self.score = nn.Linear(width, heads)

    def forward(self, x: Tensor, mask: Tensor) -> Tensor:
        scores = self.score(x)
        scores = scores.masked_fill(~mask[..., None], torch.finfo(scores.dtype).min)  # autocast makes them narrower than x
        return torch.einsum("bth,btd->bhd", scores.softmax(1), x).flatten(1)


@mapsto.model
class TextNet(nn.Module):
    """Word ids [B, T] and their mask [B, T] -> logits [B, classes]; what is padded has no influence."""

    def __init__(self, vocabulary: int, classes: int, width: int = 64, heads: int = 2, dropout: float = 0.3) -> None:
        super().__init__()
        self.embedding = nn.Embedding(vocabulary, width)
        self.near = nn.Conv1d(width, width, 3, padding=1)
        self.pool = AttentionPool(width, heads)
        self.head = nn.Sequential(nn.Dropout(dropout), nn.Linear(width * heads, classes))
        self.dropout = nn.Dropout(dropout)

    def forward(self, ids: Tensor, mask: Tensor) -> Tensor:
        words = self.dropout(self.embedding(ids)) * mask[..., None]
        near = self.near(words.transpose(1, 2)).transpose(1, 2)
        return self.head(self.pool((words + near.relu()) * mask[..., None], mask))


# -- the run ---------------------------------------------------------------------------------------------------------------
def spec(path: str | None = None, encoding: str | None = None, vocabulary: int = 8000) -> Spec:
    """The run on the texts at `path` (default: the environment's TEXTS, else the standard library)."""
    path = path or os.environ.get("TEXTS")
    where = {"path": str(Path(path).resolve()), "encoding": encoding or os.environ.get("ENCODING", "utf-8")} if path else {}
    classes = sorted(set(read(where.get("path"), where.get("encoding", "utf-8"))[1]))
    tokenise = use("tokenise_words", source=use("source/texts", split="train", **where), size=vocabulary, max_length=256)
    transforms = [tokenise, use("pad", mask="mask")]
    valid, test = (
        {"source": use("texts", split=s, **where), "batch_size": 256, "transforms": transforms} for s in ("valid", "test")
    )
    return Spec(
        name="text_classifier",
        model=use("text_net", vocabulary=vocabulary, classes=len(classes)),
        task=use("classification", input=["input", "mask"], labels=classes),
        data={
            "train": {
                "source": use("texts", split="train", **where),
                "batch_size": 64,
                "shuffle": True,
                "bucket_by": words,
                "transforms": transforms,
            },
            "valid": valid,
            "test": test,
        },
        optimizer=use("adamw", lr=3e-3, weight_decay=0.05),
        schedule=use("warmup", steps=0.1),
        middleware=[use("clip_norm", max_norm=1.0)],
        checkpoint={"metric": "valid/accuracy", "mode": "max"},
        epochs=10,
        log_every=20,
    )
