"""What all tasks share: the book-keeping of `mapsto.tasks.Task` around a native loss."""

from __future__ import annotations

from typing import Annotated, Any

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
