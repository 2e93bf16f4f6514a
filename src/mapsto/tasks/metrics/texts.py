"""Metrics of texts: `text` [records] against the true texts, by sacrebleu (Post 2018), whose figures can be compared."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, Literal

import numpy as np

from ...core.errors import require
from ..metric import Array, Metric, Result, Statistics


class _Corpus(Metric):
    reads: ClassVar[tuple[str, ...]] = ("text",)
    keep: ClassVar[Literal["sums", "records"]] = "records"

    def count(self, prediction: Mapping[str, Array], target: Array, mask: Array | None) -> Statistics:
        found = {"text": np.asarray(prediction["text"], object), "due": np.asarray(target, object)}
        return found if mask is None else {key: value[mask] for key, value in found.items()}

    def _score(self, made: Any, totals: Statistics) -> float:
        texts, due = ([str(t) for t in totals[key]] for key in ("text", "due"))
        return float(made.corpus_score(texts, [due]).score) if texts else float("nan")


class BLEU(_Corpus):
    """BLEU of the corpus, 0 to 100 (Papineni et al. 2002). tokenize, lowercase: as sacrebleu takes them."""

    def __init__(self, tokenize: str = "13a", lowercase: bool = False) -> None:
        self.tokenize, self.lowercase = tokenize, lowercase

    @property
    def name(self) -> str:
        return "bleu"

    def finish(self, totals: Statistics) -> Result:
        library = require("sacrebleu.metrics", "bleu", "the metric bleu")
        return self._score(library.BLEU(tokenize=self.tokenize, lowercase=self.lowercase), totals)


class CHRF(_Corpus):
    """chrF of the corpus, 0 to 100 (Popovic 2015)."""

    @property
    def name(self) -> str:
        return "chrf"

    def finish(self, totals: Statistics) -> Result:
        return self._score(require("sacrebleu.metrics", "bleu", "the metric chrf").CHRF(), totals)
