"""Tasks with a planted bug, modelled on public reports, and their right twins."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mapsto.core.laws import Example
from mapsto.torch import Task

from . import Mutant

Batch = Mapping[str, Any]
IGNORE = -100


# -- sequences with padding ------------------------------------------------------------------------------------------------
class Tagger(nn.Module):
    """Ids [n, t] and which of them are kept -> logits [n, t, 3]; each position sees the mean of the kept ones."""

    def __init__(self) -> None:
        super().__init__()
        self.embed, self.own, self.all = nn.Embedding(7, 5), nn.Linear(5, 3), nn.Linear(5, 3)

    def forward(self, ids: Tensor, keep: Tensor) -> Tensor:
        x = self.embed(ids)
        weight = keep.to(x.dtype)[..., None]
        mean = (x * weight).sum(1, keepdim=True) / weight.sum(1, keepdim=True).clamp(min=1)
        logits: Tensor = self.own(x) + self.all(mean)
        return logits


class Tags(Task):
    """A class for each kept token; accuracy of kept tokens."""

    def __init__(self) -> None:
        super().__init__(F.cross_entropy, input=["input", "keep"])

    def __call__(self, model: Any, batch: Batch) -> Any:
        logits = self.forward(model, batch)
        return self.total(logits, batch["target"]), self.count(batch), logits

    def total(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.cross_entropy(logits.flatten(0, 1), target.flatten(), ignore_index=IGNORE, reduction="sum")

    def count(self, batch: Batch) -> Any:
        return (batch["target"] != IGNORE).sum()

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        return {"tag": outputs.argmax(-1)}

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Any]:
        counted = batch["target"] != IGNORE
        return {"accuracy": (((outputs.argmax(-1) == batch["target"]) & counted).sum(), counted.sum())}


class TagsMeaned(Tags):
    """A mean over the batch where a sum is due (trl#2175)."""

    def total(self, logits: Tensor, target: Tensor) -> Tensor:
        counted = (target != IGNORE).sum().clamp(min=1)
        return super().total(logits, target) / counted * len(target)


class TagsOfRecords(Tags):
    """The weight counts records, the total tokens."""

    def count(self, batch: Batch) -> Any:
        return max(1, len(batch["target"]) // 2)


class TagsOfAll(Tags):
    """Padded places weigh (transformers#34191, in spirit)."""

    def count(self, batch: Batch) -> Any:
        return batch["target"].numel()


class TagsWithoutMask(Tags):
    """The mask never reaches the model."""

    def forward(self, model: Any, batch: Batch) -> Any:
        return model(batch["input"], torch.ones_like(batch["keep"]))


class TagsTrimmed(Tags):
    """The batch is cut to what the loss would see of a longest record: the last place is left out."""

    def total(self, logits: Tensor, target: Tensor) -> Tensor:
        return super().total(logits[:, :-1], target[:, :-1])


class TagsCountedWrong(Tags):
    """Ignored targets are errors."""

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Any]:
        return {"accuracy": ((outputs.argmax(-1) == batch["target"]).sum(), batch["target"].numel())}


class TagsOfBatch(Tags):
    """The accuracy of the batch, with weight one."""

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Any]:
        total, weight = super().measure(outputs, batch)["accuracy"]
        return {"accuracy": (total / weight, 1)}


class TagsOfNothing(Tags):
    """Divides by how many there are, and multiplies again: 0 / 0 where none is."""

    def total(self, logits: Tensor, target: Tensor) -> Tensor:
        counted = (target != IGNORE).sum()
        return super().total(logits, target) / counted * counted


class TagsAtLeastOne(Tags):
    """A weight that is never zero, so that nothing is averaged with something."""

    def count(self, batch: Batch) -> Any:
        return super().count(batch).clamp(min=1)


class TagsAccuracyOfNothing(Tags):
    """An accuracy that is one where nothing is counted."""

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Any]:
        total, weight = super().measure(outputs, batch)["accuracy"]
        return {"accuracy": (total + (weight == 0), weight + (weight == 0))}


def _tagged(size: int, generator: torch.Generator) -> tuple[Batch]:
    lengths = torch.arange(size) % 4 + 2
    keep = torch.arange(5)[None] < lengths[:, None]
    ids = torch.randint(1, 7, (size, 5), generator=generator)
    target = torch.randint(3, (size, 5), generator=generator)
    return ({"input": ids * keep, "keep": keep, "target": target.where(keep, torch.tensor(IGNORE))},)


TAGGED = Example(
    inputs=_tagged,
    more={
        "model": Tagger,
        "pads": {"input": 0, "keep": False, "target": IGNORE},
        "ignored": {"target": IGNORE},
        "reference": lambda outputs, batch: {
            "accuracy": np.mean([p == t for p, t in zip(outputs.argmax(-1).flat, batch["target"].flat, strict=True) if t >= 0])
        },
    },
)


# -- one logit, several labels -----------------------------------------------------------------------------------------------
class Coin(Task):
    """One logit [n, 1] a record, and its accuracy."""

    def __init__(self) -> None:
        super().__init__(F.binary_cross_entropy_with_logits)

    def __call__(self, model: Any, batch: Batch) -> Any:
        logits = self.forward(model, batch)
        return self.total(logits[:, 0], batch["target"]), len(logits), logits

    def total(self, logits: Tensor, target: Tensor) -> Tensor:
        return F.binary_cross_entropy_with_logits(logits, target.to(logits.dtype), reduction="sum")

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        return {"label": self.label(outputs)}

    def label(self, outputs: Tensor) -> Tensor:
        return (outputs[:, 0] > 0).long()

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Any]:
        return {"accuracy": ((self.label(outputs) == batch["target"]).sum(), len(outputs))}


class CoinByArgmax(Coin):
    """argmax of one logit is always 0 (reports/binary_one_logit)."""

    def label(self, outputs: Tensor) -> Tensor:
        return outputs.argmax(-1)


class CoinAtMedian(Coin):
    """The threshold is the median of the batch."""

    def label(self, outputs: Tensor) -> Tensor:
        return (outputs[:, 0] > outputs[:, 0].median()).long()


class CoinSorted(Coin):
    """Predictions come by score."""

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        return {"label": self.label(outputs[:, 0].sort().indices[:, None].to(outputs.dtype) - 1)}


class CoinOfBatch(Coin):
    """Logits are centred over the batch before they are decided."""

    def forward(self, model: Any, batch: Batch) -> Any:
        logits = super().forward(model, batch)
        return logits - logits.mean(0)


class CoinPrecise(Coin):
    """A weight that counts what is predicted."""

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Any]:
        label = self.label(outputs)
        return {"accuracy": ((label & batch["target"]).sum(), label.sum())}


class CoinWithWeights(Coin):
    """Classes weigh while it trains only."""

    def __call__(self, model: Any, batch: Batch) -> Any:
        total, weight, logits = super().__call__(model, batch)
        return (total * 1.5 if model.training else total), weight, logits


class CoinFlooded(Coin):
    """A term that evaluation leaves out (label smoothing in training)."""

    def __call__(self, model: Any, batch: Batch) -> Any:
        total, weight, logits = super().__call__(model, batch)
        return (total + 0.1 * logits.square().sum() if model.training else total), weight, logits


class CoinRounded(Coin):
    """Evaluation gives decisions for logits."""

    def __call__(self, model: Any, batch: Batch) -> Any:
        total, weight, logits = super().__call__(model, batch)
        return total, weight, logits if model.training else logits.sign()


def _coins(size: int, generator: torch.Generator) -> tuple[Batch]:
    return ({"input": torch.randn(size, 4, generator=generator), "target": torch.randint(2, (size,), generator=generator)},)


COINS = Example(inputs=_coins, more={"model": lambda: nn.Linear(4, 1)})


def _task(law: str, bug: Any, models: str) -> Mutant:
    twin, example = (Tags, TAGGED) if issubclass(bug, Tags) else (Coin, COINS)
    return Mutant(law=f"task.{law}", name=bug.__name__, bug=bug, twin=twin, models=models, example=example)


MUTANTS = [
    _task("additivity", TagsMeaned, "trl#2175"),
    _task("additivity", TagsOfRecords, "an integer division of records"),
    _task("additivity", CoinOfBatch, "statistics of the batch"),
    _task("measures", TagsCountedWrong, "reports of ignored targets"),
    _task("measures", TagsOfBatch, "a mean of means"),
    _task("measures", CoinByArgmax, "reports of one-logit classifiers"),
    _task("measures", CoinPrecise, "precision as an accuracy"),
    _task("padding", TagsOfAll, "transformers#34191, in spirit"),
    _task("padding", TagsWithoutMask, "a mask that is not passed on"),
    _task("padding", TagsTrimmed, "a shift that drops the last token"),
    _task("record_independence", CoinAtMedian, "a threshold of the batch"),
    _task("record_independence", CoinSorted, "predictions by score"),
    _task("record_independence", CoinOfBatch, "statistics of the batch"),
    _task("modes", CoinWithWeights, "class weights in training alone"),
    _task("modes", CoinFlooded, "a penalty in training alone"),
    _task("modes", CoinRounded, "decisions for logits"),
    _task("nothing", TagsOfNothing, "pytorch#70348"),
    _task("nothing", TagsAtLeastOne, "a clamp of the weight"),
    _task("nothing", TagsAccuracyOfNothing, "an accuracy of nothing"),
]
