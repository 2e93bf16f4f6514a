"""Classification: one class a record, or one at each place of it."""

from __future__ import annotations

import functools
import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from ...core.errors import DataError, SpecError
from ...tasks import panels
from ...tasks.task import Batch, Metrics
from ..losses import LOSS, OF_CLASSES, Weight
from .base import Pair, Task, default, indices, task

CERTAIN = 1e-3
"""How far from 1 the probabilities of a target may sum up to."""


@task
class Classification(Task):
    """One class a record, or one at each place of it. Metric: `accuracy`, of the targets that count.

    outputs: logits [B, C] against class indices [B] or [B, 1] or probabilities [B, C]; [B, ..., C] against [B, ...] (with
    `class_axis: 1`, [B, C, ...]); or one logit a target, [B] or [B, 1], against 0 and 1 (loss `binary_cross_entropy`).
    labels: the classes' names, for predictions, metrics and the confusion matrix; ignore_index: the class index that does
    not count (default: the loss's own). Several classes a record are the task `multi_label`. Raises DataError where outputs
    and targets do not fit, or fit in two ways.
    """

    def __init__(
        self,
        loss: Annotated[Any, LOSS] = "cross_entropy",
        *,
        input: str | list[str] = "input",
        target: str = "target",
        labels: list[str] | None = None,
        class_axis: Literal[1, -1] | None = None,
        ignore_index: int | None = None,
        metrics: Metrics = None,
    ) -> None:
        function, self.ignore_index = _ignoring(default(loss), ignore_index)
        super().__init__(function, input=input, target=target, metrics=metrics)
        self.labels, self.class_axis = labels, class_axis
        self._function = function.func if isinstance(function, functools.partial) else function
        self._known_axis = self._known_targets = False

    def __call__(self, model: Callable[..., Any], batch: Batch) -> tuple[Tensor, Weight, Any]:
        outputs = self.forward(model, batch)
        total, weight = self.loss(*self._for_loss(outputs, *self._aligned(outputs, batch)))
        return total, weight, outputs

    def wanted(self, batch: Batch) -> Any:
        target = indices(super().wanted(batch))
        column = isinstance(target, Tensor) and not target.is_floating_point() and target.dim() == 2 and target.shape[1] == 1
        return target[:, 0] if column else target

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        logits = self._classes_last(outputs)
        if _one_logit(logits):
            probability = torch.sigmoid(_squeezed(logits).float())
            return {"label": (probability > 0.5).long(), "probability": probability}
        probability = torch.softmax(logits.float(), -1)
        return {"label": probability.argmax(-1), "probability": probability}

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Pair]:
        logits, target = self._aligned(outputs, batch)
        self._require_distribution(logits, target)
        classes, counted = _classes(target, logits), self._counted(target)
        right = self.predict_label(logits) == classes
        pair = (right.sum(), right.numel()) if counted is None else ((right & counted).sum(), counted.sum())
        return {"accuracy": pair, **super().measure(outputs, batch)}

    def predict_label(self, logits: Tensor) -> Tensor:
        """The class of the largest logit [..., C], or whether the one logit [...] is above 0."""
        return (_squeezed(logits) > 0).long() if _one_logit(logits) else logits.argmax(-1)

    def compared(self, outputs: Tensor, batch: Batch) -> tuple[dict[str, Any], Any, Any]:
        """A row a target that counts: `label`, `probability`, and the class that is due."""
        logits, target = self._aligned(outputs, batch)
        found = self.predict(outputs)
        places = found["label"].numel()
        predicted = {n: v.reshape(places, *v.shape[found["label"].dim() :]) for n, v in found.items()}
        classes, counted = _classes(target, logits).reshape(-1), self._counted(target)
        if counted is not None:
            kept = counted.reshape(-1)
            return {n: v[kept] for n, v in predicted.items()}, classes[kept], None
        return predicted, classes, None

    def panels(self, collected: Sequence[tuple[dict[str, Any], Batch]]) -> list[dict[str, Any]]:
        if not collected:
            return []
        predicted = torch.cat([p["label"].reshape(-1) for p, _ in collected])
        target = torch.cat([_classes(indices(b[self.target]), p["probability"]).reshape(-1) for p, b in collected])
        probability = collected[0][0]["probability"]
        classes = 2 if probability.shape == collected[0][0]["label"].shape else probability.shape[-1]
        if self.ignore_index is not None:
            predicted, target = (x[target != self.ignore_index] for x in (predicted, target))
        return [panels.confusion(predicted.numpy(), target.numpy(), classes, self.labels)]

    # -- what is compared with what ------------------------------------------------------------------------------------
    def _classes_last(self, outputs: Tensor) -> Tensor:
        return outputs.movedim(1, -1) if self.class_axis == 1 and outputs.dim() > 2 else outputs

    def _aligned(self, outputs: Any, batch: Batch) -> tuple[Tensor, Tensor]:
        """Logits [..., C] (or one logit, [...] or [..., 1]) and the target: indices [...] or probabilities [..., C]."""
        target = indices(self.field(batch, self.target))
        if not isinstance(outputs, Tensor) or not isinstance(target, Tensor):
            raise DataError(f"classification: outputs and target are arrays, not {_type(outputs)} and {_type(target)}")
        logits = self._classes_last(outputs)
        if _one_logit(logits) and _squeezed(logits).numel() == target.numel():
            return self._one_logit(logits, target)
        if target.is_floating_point():
            return self._probabilities(outputs, logits, target)
        if outputs.dim() > 2 and self.class_axis is None:
            self._require_axis(outputs, target)
        if target.shape != logits.shape[:-1]:
            axis = 1 if self.class_axis == 1 else -1
            if target.dim() != logits.dim() or target.shape[axis] != 1 or target.squeeze(axis).shape != logits.shape[:-1]:
                raise DataError(self._unfit(outputs, target))
            target = target.squeeze(axis)
        return logits, target

    def _one_logit(self, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if self._function in OF_CLASSES:
            raise DataError(
                f"classification: the model gives one logit a target, {list(logits.shape)}, and the loss compares classes: say "
                "loss: binary_cross_entropy, or give a logit a class"
            )
        return logits, target.reshape(_squeezed(logits).shape)

    def _probabilities(self, outputs: Tensor, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        if target.shape != outputs.shape:
            raise DataError(self._unfit(outputs, target))
        if outputs.dim() > 2 and self.class_axis is None:
            raise DataError(f"classification: logits and probabilities {list(outputs.shape)}: say class_axis: 1 or -1")
        target = self._classes_last(target)
        if not self._known_targets:
            self._require_distribution(logits, target)
            self._known_targets = True
        return logits, target

    def _require_distribution(self, logits: Tensor, target: Tensor) -> None:
        if not target.is_floating_point() or target.shape != logits.shape or _one_logit(logits):
            return
        sums = target.sum(-1)
        if target.numel() and (bool((target < 0).any()) or bool(((sums - 1).abs() > CERTAIN).any())):
            worst = float(sums.flatten()[(sums - 1).abs().flatten().argmax()])
            raise DataError(
                f"classification: targets {list(target.shape)} are no probabilities of one class (a record's sum to {worst:.4g}"
                "): several classes a record are the task multi_label, numbers the task regression"
            )

    def _require_axis(self, outputs: Tensor, target: Tensor) -> None:
        """Raise DataError where the classes are not on the last axis, or on another just as well."""
        last = target.shape == outputs.shape[:-1]
        first = target.shape == outputs.shape[:1] + outputs.shape[2:]
        if first and not (last and self._known_axis):
            how = "fit in two ways" if last else "have the classes on axis 1"
            ways = "class_axis: 1 ([B, C, ...]) or class_axis: -1 ([B, ..., C])" if last else "class_axis: 1"
            raise DataError(f"classification: logits {list(outputs.shape)} and targets {list(target.shape)} {how}: say {ways}")
        self._known_axis = self._known_axis or last

    def _unfit(self, outputs: Tensor, target: Tensor) -> str:
        said = f"classification: logits {list(outputs.shape)} and targets {list(target.shape)} ({_kind(target)}) do not fit"
        if target.shape == outputs.shape and not target.is_floating_point():
            return f"{said}: 0 and 1 a class are the task multi_label"
        wanted = [outputs.shape[0], *outputs.shape[2:]] if self.class_axis == 1 else list(outputs.shape[:-1])
        return f"{said}: class indices {wanted} or probabilities {list(outputs.shape)} are wanted"

    def _counted(self, target: Tensor) -> Tensor | None:
        return None if self.ignore_index is None or target.is_floating_point() else target != self.ignore_index

    def _for_loss(self, outputs: Tensor, logits: Tensor, target: Tensor) -> tuple[Tensor, Tensor]:
        """What the loss is given: one logit and its target alike; else logits as the loss takes them."""
        if _one_logit(logits) and target.shape == _squeezed(logits).shape:
            return _squeezed(logits), target.to(logits.dtype)
        if logits.dim() == 2:
            return logits, target
        if self._function in OF_CLASSES:  # each place is a record of its own
            return logits.reshape(-1, logits.shape[-1]), target.reshape(-1, *target.shape[logits.dim() - 1 :])
        if _of_torch(self._function):
            alike = target.shape == logits.shape
            return logits.movedim(-1, 1), target.movedim(-1, 1) if alike else target
        return outputs, target.movedim(-1, 1) if self.class_axis == 1 and target.shape == logits.shape else target


def _classes(target: Tensor, like: Tensor) -> Tensor:
    """Class indices, of targets that are indices, probabilities like the logits, or chances of the one logit."""
    if not target.is_floating_point():
        return target
    return target.argmax(-1) if target.shape == like.shape and like.dim() > 1 and like.shape[-1] > 1 else (target > 0.5).long()


def _one_logit(logits: Tensor) -> bool:
    return logits.dim() == 1 or logits.shape[-1] == 1


def _squeezed(logits: Tensor) -> Tensor:
    return logits if logits.dim() == 1 else logits.squeeze(-1)


def _type(value: Any) -> str:
    return f"a {type(value).__name__}"


def _kind(target: Tensor) -> str:
    return str(target.dtype).removeprefix("torch.")


def _of_torch(function: Any) -> bool:
    """Whether a loss is PyTorch's own, which takes the classes on axis 1."""
    made = function if inspect.isroutine(function) else type(function)
    return str(getattr(made, "__module__", "")).startswith("torch.nn")


def _ignoring(loss: Any, index: int | None) -> tuple[Any, int | None]:
    """The loss, and the class index that it ignores: what is said, or its own. Raises SpecError where the two differ."""
    bound = loss.keywords if isinstance(loss, functools.partial) else {}
    function = loss.func if isinstance(loss, functools.partial) else loss
    taken = None
    if inspect.isroutine(function):
        taken = inspect.signature(function).parameters.get("ignore_index")
    own = bound.get("ignore_index", taken.default if taken is not None else getattr(function, "ignore_index", None))
    own = own if isinstance(own, int) else None
    if index is None or index == own:
        return loss, own
    if taken is not None and "ignore_index" not in bound:
        return functools.partial(loss, ignore_index=index), index
    name = getattr(function, "__name__", type(function).__name__)
    said = f"ignores {own}" if own is not None else "has no ignore_index"
    raise SpecError(f"task.ignore_index: {index}, and the loss {name} {said}: targets that do not count would be in its sum")
