"""Losses: (prediction, target) -> (total, weight). A sum and its weight, never a mean: only the engine divides, once.

Any callable serves unwrapped where it leaves no doubt: one that returns (total, weight), or one that returns unreduced
losses (`reduction="none"`), which are summed and counted. A scalar says neither what was summed nor by what it was
divided; `mean_of` states it.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Annotated, Any, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from ..core.errors import DataError, LossError
from ..core.kinds import KINDS
from ..core.ranges import Share
from ..core.registry import decorator

loss = decorator("loss")
Weight = Tensor | float | int
Loss = Callable[[Any, Any], tuple[Tensor, Weight]]
LOSS = KINDS["loss"]
IGNORE = -100
NOTHING = -(2**31)  # an index that no target has


def stated(function: Callable[[Any, Any], Any]) -> Loss:
    """The loss with its result checked: (total, weight) passes, unreduced losses are summed and counted.

    Raises LossError, with the ways out, where the result is a scalar whose weight is not stated.
    """

    def total_and_weight(prediction: Any, target: Any) -> tuple[Tensor, Weight]:
        result = function(prediction, target)
        if type(result) is tuple and len(result) == 2:
            total, weight = result
            if isinstance(total, Tensor) and total.dim() == 0:
                return total, weight
        elif isinstance(result, Tensor) and result.dim() > 0:
            return result.sum(), _count(function, result, target)
        raise LossError(_teach(function, result))

    return total_and_weight


def _count(function: Any, losses: Tensor, target: Any) -> Weight:
    """How many losses there are, without those of ignored targets."""
    ignored = getattr(function, "ignore_index", None)
    if ignored is None or not isinstance(target, Tensor) or target.is_floating_point() or target.shape != losses.shape:
        return losses.numel()
    return torch.sum(target != ignored)


def _name(function: Any) -> str:
    return getattr(function, "__name__", type(function).__name__)


def describe(value: Any) -> str:
    """What stands where a scalar tensor was wanted."""
    return f"of shape {list(value.shape)}" if isinstance(value, Tensor) else f"a {type(value).__name__}"


def _alike(name: str, prediction: Tensor, target: Tensor) -> Tensor:
    """The target in the prediction's dtype. Raises DataError where shapes differ and would broadcast."""
    if prediction.shape != target.shape:
        raise DataError(
            f"{name}: the prediction is {list(prediction.shape)} and the target {list(target.shape)}, and they must be alike "
            "(broadcast, every prediction would be compared with every target)"
        )
    return target.to(prediction.dtype)


def _require_classes(name: str, prediction: Tensor, target: Tensor) -> None:
    """Raise DataError where class indices [...] or probabilities [..., C] do not stand beside logits [..., C]."""
    wanted = prediction.shape if target.is_floating_point() else prediction.shape[:-1]
    if target.shape != wanted and (prediction.dim() > 2 or target.numel() != math.prod(wanted)):
        raise DataError(
            f"{name}: logits {list(prediction.shape)} have their classes on the last axis, so that targets are {list(wanted)}, "
            f"and these are {list(target.shape)}"
        )


def _teach(function: Any, result: Any) -> str:
    name = _name(function)
    if not isinstance(result, Tensor):
        got = f"a {type(result).__name__}"
        if isinstance(result, tuple):
            got = f"{len(result)} values" if len(result) != 2 else f"a total that is {describe(result[0])}"
        return f"loss {name} returned {got}; a loss returns (total, weight): the summed loss, a scalar, and how much it weighs"
    return (
        f"loss {name} returned a scalar, which does not say its weight: averaged over micro-batches, ranks or batches of "
        "unequal size it would give wrong gradients. Say one of\n"
        '  use(the_loss, reduction="none")               unreduced: summed and counted here\n'
        '  use("mean_of", loss=the_loss, weight="records")  it is a mean over "records", "elements" or "targets"\n'
        "  return total, weight                          from your own loss: the sum, and what a mean divides by"
    )


class mean_of:  # registered and written as a function would be
    """A loss that returns a mean (or a sum), with its weight stated: (prediction, target) -> (mean * weight, weight).

    weight: what the mean divides by: `records` (first axis of the prediction), `elements` (of the target, else of the
    prediction), `targets` (those not equal to `ignore_index`), or a function (prediction, target) -> weight.
    reduction: whether `loss` returns the mean or already the sum.
    """

    def __init__(
        self,
        loss: Annotated[Any, LOSS],
        weight: Literal["records", "elements", "targets"] | Callable[[Any, Any], Weight],
        reduction: Literal["mean", "sum"] = "mean",
        ignore_index: int = IGNORE,
    ) -> None:
        self.loss, self.weight, self.reduction, self.ignore_index = loss, weight, reduction, ignore_index

    def __call__(self, prediction: Any, target: Any) -> tuple[Tensor, Weight]:
        value = self.loss(prediction, target)
        if not isinstance(value, Tensor) or value.dim() > 0:
            shape = tuple(value.shape) if isinstance(value, Tensor) else type(value).__name__
            raise LossError(f"mean_of: {_name(self.loss)} returned {shape}, and a scalar {self.reduction} was announced")
        weight = self._weigh(prediction, target)
        if self.reduction == "sum":
            return value, weight
        if not isinstance(weight, Tensor) and weight:
            return value * weight, weight
        some = torch.as_tensor(weight, device=value.device) > 0  # a mean over nothing is 0/0; its sum is 0
        return torch.where(some, value, 0.0) * weight, weight

    def _weigh(self, prediction: Any, target: Any) -> Weight:
        if callable(self.weight):
            weight: Weight = self.weight(prediction, target)
            return weight
        if self.weight == "records":
            return int(prediction.shape[0])
        if self.weight == "elements":
            return int((target if isinstance(target, Tensor) else prediction).numel())
        return torch.sum(target != self.ignore_index)


loss("mean_of")(mean_of)


@loss
def cross_entropy(
    prediction: Tensor,
    target: Tensor,
    *,
    label_smoothing: Share = 0.0,
    ignore_index: int | None = None,
    class_weights: list[float] | None = None,
) -> tuple[Tensor, Weight]:
    """Cross entropy of logits [..., C] against class indices [...] or probabilities [..., C], summed over targets.

    weight: the number of targets, without those that are `ignore_index` where one is given (with `class_weights`, the sum
    of their classes' weights). Without one, a target outside [0, C) is the framework's IndexError.
    """
    classes = prediction.shape[-1]
    _require_classes("cross_entropy", prediction, target)
    logits = prediction if prediction.dim() == 2 else prediction.reshape(-1, classes)  # a view has a backward of its own
    weights = None if class_weights is None else torch.tensor(class_weights, dtype=logits.dtype, device=logits.device)
    if target.is_floating_point():
        total = F.cross_entropy(logits, target.reshape(-1, classes), weights, reduction="sum", label_smoothing=label_smoothing)
        return total, logits.shape[0]
    labels = target.reshape(-1)
    ignored = NOTHING if ignore_index is None else ignore_index
    total = F.cross_entropy(logits, labels, weights, ignore_index=ignored, reduction="sum", label_smoothing=label_smoothing)
    if weights is not None:
        counted = labels != ignored
        return total, (weights[labels.where(counted, 0)] * counted).sum()
    return total, labels.shape[0] if ignore_index is None else (labels != ignore_index).sum()


@loss
def binary_cross_entropy(prediction: Tensor, target: Tensor, *, pos_weight: float | None = None) -> tuple[Tensor, Weight]:
    """Binary cross entropy of logits against targets in [0, 1] of the same shape, summed; weight: elements."""
    positive = None if pos_weight is None else torch.tensor(pos_weight, dtype=prediction.dtype, device=prediction.device)
    wanted = _alike("binary_cross_entropy", prediction, target)
    total = F.binary_cross_entropy_with_logits(prediction, wanted, pos_weight=positive, reduction="sum")
    return total, prediction.numel()


@loss
def mse(prediction: Tensor, target: Tensor) -> tuple[Tensor, Weight]:
    """Squared error, summed; weight: elements."""
    return F.mse_loss(prediction, _alike("mse", prediction, target), reduction="sum"), prediction.numel()


@loss
def mae(prediction: Tensor, target: Tensor) -> tuple[Tensor, Weight]:
    """Absolute error, summed; weight: elements."""
    return F.l1_loss(prediction, _alike("mae", prediction, target), reduction="sum"), prediction.numel()


@loss
def huber(prediction: Tensor, target: Tensor, *, delta: float = 1.0) -> tuple[Tensor, Weight]:
    """Huber loss (Huber 1964), summed; weight: elements."""
    return F.huber_loss(prediction, _alike("huber", prediction, target), reduction="sum", delta=delta), prediction.numel()


@loss
def focal(prediction: Tensor, target: Tensor, *, gamma: float = 2.0, ignore_index: int = IGNORE) -> tuple[Tensor, Weight]:
    """Focal loss (Lin et al. 2017) of logits [..., C] against class indices [...], summed; weight: targets not ignored."""
    _require_classes("focal", prediction, target)
    logits, labels = prediction.reshape(-1, prediction.shape[-1]), target.reshape(-1)
    surprise = F.cross_entropy(logits, labels, ignore_index=ignore_index, reduction="none")
    return ((1 - torch.exp(-surprise)) ** gamma * surprise).sum(), (labels != ignore_index).sum()


OF_CLASSES = (cross_entropy, focal)
"""Losses of logits of several classes, each place a record of its own."""
