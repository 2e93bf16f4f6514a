"""Tasks: (model, batch) -> (total, weight, outputs). The adaptation layer between data and model.

A task may be any function of that signature. The classes here also predict, measure and show.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Annotated, Any

import torch
from torch import Tensor

from ..core.registry import decorator
from ..tasks import panels
from ..tasks import task as tasks
from ..tasks.task import Batch
from .losses import IGNORE, LOSS, Weight, stated

task = decorator("task")
Pair = tuple[Tensor | float, Weight]


class Task(tasks.Task):
    """The book-keeping of `mapsto.tasks.Task` around a loss of any of the forms that `stated` takes."""

    def __init__(
        self,
        loss: Annotated[Any, LOSS],
        *,
        input: str | list[str] = "input",
        target: str = "target",
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(stated(loss), input=input, target=target, metrics=metrics)


@task
class Classification(Task):
    """One class a record: logits [B, C] against class indices [B] (or probabilities [B, C]).

    labels: the classes' names, for predictions and the confusion matrix. Metric: `accuracy`.
    """

    def __init__(
        self,
        loss: Annotated[Any, LOSS] = "cross_entropy",
        *,
        input: str | list[str] = "input",
        target: str = "target",
        labels: list[str] | None = None,
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(_default(loss), input=input, target=target, metrics=metrics)
        self.labels = labels

    def wanted(self, batch: Batch) -> Any:
        return _indices(super().wanted(batch))

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        probability = torch.softmax(outputs.float(), -1)
        return {"label": probability.argmax(-1), "probability": probability}

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Pair]:
        classes = _classes(self.wanted(batch))
        right = (outputs.argmax(-1) == classes).sum()
        return {"accuracy": (right, classes.numel()), **super().measure(outputs, batch)}

    def panels(self, collected: Sequence[tuple[dict[str, Any], Batch]]) -> list[dict[str, Any]]:
        if not collected:
            return []
        predicted = torch.cat([p["label"].reshape(-1) for p, _ in collected])
        target = torch.cat([_classes(b[self.target]).reshape(-1) for _, b in collected])
        return [panels.confusion(predicted.numpy(), target.numpy(), collected[0][0]["probability"].shape[-1], self.labels)]


def _indices(target: Any) -> Any:
    """Indices of every whole type (int8 codes of a table, bool) as int64, the one that losses of PyTorch take."""
    return target.long() if isinstance(target, Tensor) and not target.is_floating_point() else target


def _classes(target: Tensor) -> Tensor:
    """Class indices, of targets that are indices or probabilities."""
    return target.argmax(-1) if target.is_floating_point() else target.long()


@task
class Regression(Task):
    """A number, or an array of them, a record: predictions of the target's shape. Metrics: `mae`, `mse`."""

    def __init__(
        self,
        loss: Annotated[Any, LOSS] = "mse",
        *,
        input: str | list[str] = "input",
        target: str = "target",
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(_default(loss), input=input, target=target, metrics=metrics)

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        return {"value": outputs}

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Pair]:
        target = self.field(batch, self.target)
        if target.shape != outputs.shape and target.numel() == outputs.numel():
            target = target.reshape(outputs.shape)  # for a loss that takes [B, 1] and [B]: subtracted they would be [B, B]
        error = (outputs - target).double()
        return {
            "mae": (error.abs().sum(), error.numel()),
            "mse": (error.square().sum(), error.numel()),
            **super().measure(outputs, batch),
        }

    def panels(self, collected: Sequence[tuple[dict[str, Any], Batch]]) -> list[dict[str, Any]]:
        if not collected:
            return []
        true = torch.cat([b[self.target].double().reshape(-1) for _, b in collected])
        predicted = torch.cat([p["value"].double().reshape(-1) for p, _ in collected])
        return [panels.scatter(true.numpy(), predicted.numpy())]


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
        metrics: Mapping[str, Any] | None = None,
    ) -> None:
        super().__init__(loss or _token_loss(ignore_index), input=input, target=target, metrics=metrics)
        self.ignore_index, self.decode = ignore_index, decode or _bytes_to_text

    def wanted(self, batch: Batch) -> Any:
        return _indices(super().wanted(batch))

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        return {"token": outputs.argmax(-1)}

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Pair]:
        target = self.wanted(batch)
        counted = target != self.ignore_index
        right = ((outputs.argmax(-1) == target) & counted).sum()
        return {"accuracy": (right, counted.sum()), **super().measure(outputs, batch)}

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


def _token_loss(ignore_index: int) -> Any:
    from functools import partial

    from .losses import cross_entropy

    return partial(cross_entropy, ignore_index=ignore_index)


def _default(loss: Any) -> Any:
    """The registered loss where a task made in Python was given its name."""
    if not isinstance(loss, str):
        return loss
    from ..core.parts import Part, build

    return build(Part(loss), "loss", path="task.loss")


def _bytes_to_text(ids: list[int]) -> str:
    return bytes(i for i in ids if 0 <= i < 256).decode("utf-8", errors="replace")
