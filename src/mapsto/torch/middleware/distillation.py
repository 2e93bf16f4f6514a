"""Knowledge distillation."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ...core.compose import middleware
from ...core.doors import typed
from ...core.errors import DataError, LossError, SpecError, nearest
from ...core.kinds import KINDS
from ...core.ranges import Positive, Share
from ..losses import IGNORE
from ..mappings import Batch, Loss
from ..state import Builder, State


@middleware("distillation")
class Distillation:
    """loss -> (1 - alpha) loss + alpha T^2 KL(teacher || student) of logits softened by the temperature (Hinton et al. 2015).

    The divergence is summed over records (tokens), as the loss is, without those whose integer target is `ignore_index`;
    the weight is the loss's own. The teacher is placed on the device, in evaluation mode, not trained and in no checkpoint;
    it is called with the fields `input`. Training only: evaluation reports the task's own loss. `alpha` 0 does nothing.
    Raises SpecError, LossError where the two disagree about the shape of logits.
    """

    @typed
    def __init__(
        self,
        teacher: Annotated[Any, KINDS["model"]],
        alpha: Share = 0.5,
        temperature: Positive = 2.0,
        *,
        input: str | Sequence[str] = "input",
        target: str = "target",
        ignore_index: int = IGNORE,
    ) -> None:
        if not isinstance(teacher, nn.Module):
            raise SpecError(f"distillation.teacher: an nn.Module is wanted, not a {type(teacher).__name__}")
        self.teacher, self.alpha, self.temperature = teacher, alpha, temperature
        self.inputs = (input,) if isinstance(input, str) else tuple(input)
        self.target, self.ignore_index = target, ignore_index

    def setup(self, builder: Builder) -> None:
        self.teacher.to(builder.device).eval().requires_grad_(False)

    def loss(self, inner: Loss) -> Loss:
        if self.alpha == 0:
            return inner

        def distilled(state: State, batch: Batch) -> tuple[Tensor, Any, Any]:
            total, weight, outputs = inner(state, batch)
            if not state.training:
                return total, weight, outputs
            return (1 - self.alpha) * total + self.alpha * self._divergence(batch, outputs), weight, outputs

        return distilled

    def _divergence(self, batch: Batch, student: Any) -> Tensor:
        for name in self.inputs:
            if name not in batch:
                raise DataError(f"distillation: the batch has no field {name!r}; {nearest(name, batch)}")
        with torch.no_grad():
            teacher = self.teacher(*[batch[name] for name in self.inputs])
        if not isinstance(student, Tensor) or student.shape != teacher.shape:
            found = list(student.shape) if isinstance(student, Tensor) else type(student).__name__
            raise LossError(f"distillation: the teacher's logits are {list(teacher.shape)}, the student's {found}")
        t, dtype = self.temperature, torch.promote_types(student.dtype, torch.float32)
        said, wanted = (F.log_softmax(logits.to(dtype) / t, -1) for logits in (student, teacher))
        divergence = F.kl_div(said, wanted, reduction="none", log_target=True).sum(-1)
        labels = batch.get(self.target)
        if isinstance(labels, Tensor) and not labels.is_floating_point() and labels.shape == divergence.shape:
            divergence = divergence.where(labels != self.ignore_index, 0.0)
        return t * t * divergence.sum()
