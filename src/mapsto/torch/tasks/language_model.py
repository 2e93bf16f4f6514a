"""Language models: the next token."""

from __future__ import annotations

import functools
import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from ...tasks import panels
from ...tasks.task import Batch, Metrics
from ..losses import IGNORE, LOSS, cross_entropy
from .base import Pair, Task, indices, task


@task
class LanguageModel(Task):
    """The next token: logits [B, T, V] against token ids [B, T]; the weight is the number of tokens not ignored.

    Metrics: `accuracy` of tokens, and `perplexity`, the exponential of the mean loss. `decode`: token ids -> text, for
    the samples in a report (default: the ids are bytes).
    """

    def __init__(
        self,
        loss: Annotated[Any, LOSS] = None,
        *,
        input: str | list[str] = "input",
        target: str = "target",
        ignore_index: int = IGNORE,
        decode: Any = None,
        metrics: Metrics = None,
    ) -> None:
        super().__init__(
            loss or functools.partial(cross_entropy, ignore_index=ignore_index), input=input, target=target, metrics=metrics
        )
        self.ignore_index, self.decode = ignore_index, decode or _bytes_to_text

    def wanted(self, batch: Batch) -> Any:
        return indices(super().wanted(batch))

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        return {"token": outputs.argmax(-1)}

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Pair]:
        target = self.wanted(batch)
        counted = target != self.ignore_index
        right = ((outputs.argmax(-1) == target) & counted).sum()
        return {"accuracy": (right, counted.sum()), **super().measure(outputs, batch)}

    def compared(self, outputs: Tensor, batch: Batch) -> tuple[dict[str, Any], Any, Any]:
        """A row a token that counts: its `label`, the most likely token, `probability` of each, and the token that is due."""
        target = self.wanted(batch)
        kept = target != self.ignore_index
        logits = outputs[kept]
        return {"label": logits.argmax(-1), "probability": torch.softmax(logits.float(), -1)}, target[kept], None

    def derive(self, means: Mapping[str, float]) -> dict[str, float]:
        return {"perplexity": math.exp(min(means["loss"], 700.0))}

    def panels(self, collected: Sequence[tuple[dict[str, Any], Batch]]) -> list[dict[str, Any]]:
        if not collected:
            return []
        prediction, batch = collected[0]
        rows = []
        for given, wanted, got in zip(batch[self.inputs[0]][:8], batch[self.target][:8], prediction["token"][:8], strict=True):
            kept = wanted != self.ignore_index
            rows.append([self.decode(x.tolist()) for x in (given, wanted[kept], got[kept])])
        return [panels.samples("Next tokens", ["given", "true", "predicted"], rows)]


def _bytes_to_text(ids: list[int]) -> str:
    return bytes(i for i in ids if 0 <= i < 256).decode("utf-8", errors="replace")
