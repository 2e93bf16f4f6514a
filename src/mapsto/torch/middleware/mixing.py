"""Mixing of records: mixup and CutMix."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import Tensor, nn

from ...core.compose import middleware
from ...core.doors import typed
from ...core.errors import DataError, nearest
from ...core.random import generator
from ...core.ranges import NonNegative
from ..mappings import Batch, Loss
from ..state import State


class Mixing(ABC):
    """loss -> loss of records mixed with others of the batch: share * loss(x', y) + (1 - share) * loss(x', y permuted).

    The model runs once; only the loss is taken twice, so any loss serves and the weight is that of the plain batch. A task
    that calls parts of the model itself computes these twice. Training only. The share is drawn from Beta(alpha, alpha)
    for a batch (a micro-batch) by (seed, step, shard). `alpha` 0 mixes nothing. Raises SpecError, DataError.
    """

    name: str

    @typed
    def __init__(self, alpha: NonNegative, *, input: str | Sequence[str] = "input", target: str = "target") -> None:
        self.alpha, self.target = alpha, target
        self.inputs = (input,) if isinstance(input, str) else tuple(input)

    @abstractmethod
    def mix(self, value: Tensor, permutation: Tensor, share: float, draw: Any) -> tuple[Tensor, float]:
        """The mixed field and the share of the unpermuted records in it."""

    def loss(self, inner: Loss) -> Loss:
        if self.alpha == 0:
            return inner

        def mixed(state: State, batch: Batch) -> tuple[Tensor, Any, Any]:
            if not state.training:
                return inner(state, batch)
            first, second, share = self._mixed(state, batch)
            model, once = state.model, _Once(state.model)
            state.model = cast(nn.Module, once)
            try:
                total, weight, outputs = inner(state, first)
                once.again()
                other = inner(state, second)[0]
            finally:
                state.model = model
            return share * total + (1 - share) * other, weight, outputs

        return mixed

    def _mixed(self, state: State, batch: Batch) -> tuple[Batch, Batch, float]:
        for name in (*self.inputs, self.target):
            if name not in batch:
                raise DataError(f"{self.name}: the batch has no field {name!r}; {nearest(name, batch)}")
        target = batch[self.target]
        permutation = torch.randperm(len(target), generator=state.generator(self.name), device=state.device)
        share = float(generator(state.seed, self.name, "share", state.step, state.shard).beta(self.alpha, self.alpha))
        fields: dict[str, Any] = {}
        kept = share
        for name in self.inputs:
            value = batch[name]
            if not isinstance(value, Tensor) or not value.is_floating_point():
                kind = str(value.dtype).removeprefix("torch.") if isinstance(value, Tensor) else type(value).__name__
                raise DataError(f"{self.name} mixes fields of floating point, and {name!r} is {kind}: convert it first")
            draw = generator(state.seed, self.name, "place", state.step, state.shard)
            fields[name], kept = self.mix(value, permutation, share, draw)
        first = {**batch, **fields}
        return first, {**first, self.target: target[permutation]}, kept


@middleware("mixup", provides="mixing", before="distillation")
class Mixup(Mixing):
    __doc__ = (Mixing.__doc__ or "") + "\n    x' = share * x + (1 - share) * x permuted (mixup, Zhang et al. 2018)."
    name = "mixup"

    def mix(self, value: Tensor, permutation: Tensor, share: float, draw: Any) -> tuple[Tensor, float]:  # noqa: ARG002
        return torch.lerp(value[permutation], value, share), share


@middleware("cutmix", provides="mixing", before="distillation")
class CutMix(Mixing):
    __doc__ = (Mixing.__doc__ or "") + (
        "\n    x' is an image [B, ..., H, W] with a box of the permuted one pasted in, whose area is 1 - share where it fits;"
        "\n    the share is then what is left of the image (CutMix, Yun et al. 2019)."
    )
    name = "cutmix"

    def mix(self, value: Tensor, permutation: Tensor, share: float, draw: Any) -> tuple[Tensor, float]:
        if value.dim() < 3:
            raise DataError(f"cutmix pastes boxes into images [B, ..., H, W], and the field is {list(value.shape)}")
        height, width = value.shape[-2:]
        side = (1 - share) ** 0.5
        (top, bottom), (left, right) = (_span(int(size), side, draw) for size in (height, width))
        mixed = value.clone()
        mixed[..., top:bottom, left:right] = value[permutation][..., top:bottom, left:right]
        return mixed, 1 - (bottom - top) * (right - left) / (height * width)


def _span(size: int, side: float, draw: Any) -> tuple[int, int]:
    """A box's extent along an axis: about a uniform centre, cut at the border."""
    centre, half = int(draw.integers(size)), int(size * side) / 2
    return max(0, round(centre - half)), min(size, round(centre + half))


class _Once:
    """Stands for a model: calls it the first time and gives the same results, in order, the second."""

    def __init__(self, model: nn.Module) -> None:
        self._model, self._outputs, self._next = model, list[Any](), 0

    def again(self) -> None:
        self._next = 0

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        if self._next == len(self._outputs):
            self._outputs.append(self._model(*args, **kwargs))
        self._next += 1
        return self._outputs[self._next - 1]

    def __getattr__(self, name: str) -> Any:
        return getattr(self._model, name)
