"""Tasks: (model, batch) -> (total, weight, outputs). The adaptation layer between data and model.

A task may be any function of that signature. The classes here also predict, measure and show.
"""

from __future__ import annotations

import functools
import inspect
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Annotated, Any, Literal

import torch
from torch import Tensor

from ..core.errors import DataError, SpecError
from ..core.registry import decorator
from ..tasks import panels
from ..tasks import task as tasks
from ..tasks.task import Batch, Metrics
from .losses import IGNORE, LOSS, OF_CLASSES, Weight, stated

task = decorator("task")
Pair = tuple[Tensor | float, Weight]
CERTAIN = 1e-3
"""How far from 1 the probabilities of a target may sum up to."""


class Task(tasks.Task):
    """The book-keeping of `mapsto.tasks.Task` around a loss of any of the forms that `stated` takes."""

    def __init__(
        self,
        loss: Annotated[Any, LOSS],
        *,
        input: str | list[str] = "input",
        target: str = "target",
        metrics: Metrics = None,
    ) -> None:
        super().__init__(stated(loss), input=input, target=target, metrics=metrics)


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
        function, self.ignore_index = _ignoring(_default(loss), ignore_index)
        super().__init__(function, input=input, target=target, metrics=metrics)
        self.labels, self.class_axis = labels, class_axis
        self._function = function.func if isinstance(function, functools.partial) else function
        self._known_axis = self._known_targets = False

    def __call__(self, model: Callable[..., Any], batch: Batch) -> tuple[Tensor, Weight, Any]:
        outputs = self.forward(model, batch)
        total, weight = self.loss(*self._for_loss(outputs, *self._aligned(outputs, batch)))
        return total, weight, outputs

    def wanted(self, batch: Batch) -> Any:
        target = _indices(super().wanted(batch))
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
        target = torch.cat([_classes(_indices(b[self.target]), p["probability"]).reshape(-1) for p, b in collected])
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
        target = _indices(self.field(batch, self.target))
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


def _indices(target: Any) -> Any:
    """Indices of every whole type (int8 codes of a table, bool) as int64, the one that losses of PyTorch take."""
    return target.long() if isinstance(target, Tensor) and not target.is_floating_point() else target


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


@task
class MultiLabel(Task):
    """Any of the classes a record: logits [B, ..., C] against 0 and 1 of the same shape, each class a decision of its own.

    threshold: the probability from which a class is predicted, one or one a class. Metrics: `accuracy`, of single
    decisions, and `exact_match`, of records whose every class is right. labels: the classes' names.
    """

    def __init__(
        self,
        loss: Annotated[Any, LOSS] = "binary_cross_entropy",
        *,
        input: str | list[str] = "input",
        target: str = "target",
        labels: list[str] | None = None,
        threshold: float | list[float] = 0.5,
        metrics: Metrics = None,
    ) -> None:
        super().__init__(_default(loss), input=input, target=target, metrics=metrics)
        self.labels, self.threshold = labels, threshold

    def __call__(self, model: Callable[..., Any], batch: Batch) -> tuple[Tensor, Weight, Any]:
        outputs = self.forward(model, batch)
        total, weight = self.loss(outputs, self._target(outputs, batch))
        return total, weight, outputs

    def _target(self, outputs: Tensor, batch: Batch) -> Tensor:
        target: Tensor = self.field(batch, self.target)
        if target.shape != outputs.shape:
            raise DataError(
                f"multi_label: logits {list(outputs.shape)} and targets {list(target.shape)} differ, and each class has a "
                "target of 0 or 1; one class a record is the task classification"
            )
        return target.to(outputs.dtype)

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        probability = torch.sigmoid(outputs.float())
        least = torch.as_tensor(self.threshold, dtype=probability.dtype, device=probability.device)
        return {"label": (probability > least).long(), "probability": probability}

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Pair]:
        right = self.predict(outputs)["label"] == (self._target(outputs, batch) > 0.5)
        whole = right.all(-1)
        return {
            "accuracy": (right.sum(), right.numel()),
            "exact_match": (whole.sum(), whole.numel()),
            **super().measure(outputs, batch),
        }

    def compared(self, outputs: Tensor, batch: Batch) -> tuple[dict[str, Any], Any, Any]:
        """A row a record: `label` and `probability` of each class, and 0 or 1 of each."""
        classes = outputs.shape[-1]
        target = (self._target(outputs, batch) > 0.5).long().reshape(-1, classes)
        return {n: v.reshape(-1, classes) for n, v in self.predict(outputs).items()}, target, None


@task
class Regression(Task):
    """A number, or an array of them, a record: predictions of the target's shape. Metrics: `mae`, `mse`."""

    def __init__(
        self,
        loss: Annotated[Any, LOSS] = "mse",
        *,
        input: str | list[str] = "input",
        target: str = "target",
        metrics: Metrics = None,
    ) -> None:
        super().__init__(_default(loss), input=input, target=target, metrics=metrics)

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        return {"value": outputs}

    def _target(self, outputs: Tensor, batch: Batch) -> Tensor:
        target: Tensor = self.field(batch, self.target)
        if target.shape != outputs.shape and target.numel() == outputs.numel():
            target = target.reshape(outputs.shape)  # for a loss that takes [B, 1] and [B]: subtracted they would be [B, B]
        return target

    def measure(self, outputs: Tensor, batch: Batch) -> dict[str, Pair]:
        error = (outputs - self._target(outputs, batch)).double()
        return {
            "mae": (error.abs().sum(), error.numel()),
            "mse": (error.square().sum(), error.numel()),
            **super().measure(outputs, batch),
        }

    def compared(self, outputs: Tensor, batch: Batch) -> tuple[dict[str, Any], Any, Any]:
        """`value` as the model gives it, and the target of the same shape."""
        return self.predict(outputs), self._target(outputs, batch), None

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
        metrics: Metrics = None,
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
