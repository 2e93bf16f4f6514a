"""What all tasks share: the book-keeping of `mapsto.tasks.Task` around a native loss."""

from __future__ import annotations

import math
from typing import Annotated, Any

import torch
from torch import Tensor

from ...core.registry import decorator
from ...tasks import task as tasks
from ...tasks.task import Metrics
from ..losses import LOSS, Weight, stated

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
        metrics: Metrics = None,
    ) -> None:
        super().__init__(stated(loss), input=input, target=target, metrics=metrics)


def default(loss: Any) -> Any:
    """The registered loss where a task made in Python was given its name."""
    if not isinstance(loss, str):
        return loss
    from ...core.parts import Part, build

    return build(Part(loss), "loss", path="task.loss")


def indices(target: Any) -> Any:
    """Indices of every whole type (int8 codes of a table, bool) as int64, the one that losses of PyTorch take."""
    return target.long() if isinstance(target, Tensor) and not target.is_floating_point() else target


def readable(values: Tensor, *, first: bool) -> bool:
    """Whether values can be looked at: they are on the CPU or those of a first batch, and there are some (not in a dry run)."""
    return type(values) is Tensor and (first or values.device.type == "cpu") and not torch.compiler.is_compiling()


def unless(bad: Tensor, total: Tensor) -> Tensor:
    """The total, which with its gradient is no number where something is bad: said without a copy from the device."""
    return total * torch.where(bad.any(), math.nan, 1.0).to(total.dtype)
