"""Mixed precision: the forward pass in bfloat16 or float16, weights and updates in what they are."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext
from typing import Any, Literal

import torch
from torch import Tensor

from ...core.compose import middleware
from ...core.doors import typed
from ...core.errors import CheckpointError
from ...core.ranges import AtLeastOne, Count, Factor, Positive
from ..mappings import Batch, Grad, Loss, Metrics, Update
from ..state import State
from .gradients import check_and_scale, either

DTYPES = {"bf16": torch.bfloat16, "fp16": torch.float16, "fp32": None}


@middleware(
    "mixed_precision", provides="mixed_precision", before=("sam", "mesh", "accumulate", "mixup", "cutmix", "distillation")
)
class MixedPrecision:
    """loss -> loss under autocast, in training, evaluation and prediction (Micikevicius et al. 2018).

    dtype: `bf16`, `fp16`, or `fp32` for nothing. With `fp16` the loss is scaled dynamically: what flows back is multiplied
    by the scale and divided again at the end of `grad`, so that the reported loss and everything inside `update` see
    true values. A step with a gradient that is not finite changes no weight and lowers the scale by `backoff_factor`;
    `growth_interval` steps without one raise it by `growth_factor`. The skip happens on the device for fused optimizers
    (from their first update on); for others it costs one read a step. With `accumulate` losses are summed before they are
    divided, so the scale settles lower by about the weight of a batch.
    Metrics (fp16): `loss_scale`, and `skipped`, 1 where the step was. Raises SpecError.
    """

    @typed
    def __init__(
        self,
        dtype: Literal["bf16", "fp16", "fp32"] = "bf16",
        *,
        init_scale: Positive = 65536.0,
        growth_factor: AtLeastOne = 2.0,
        backoff_factor: Factor = 0.5,
        growth_interval: Count = 2000,
    ) -> None:
        self.dtype, self.scaled = DTYPES[dtype], dtype == "fp16"
        self.edits_gradients = self.scaled
        self.init_scale, self.growth_factor = init_scale, growth_factor
        self.backoff_factor, self.growth_interval = backoff_factor, growth_interval

    def begin(self, state: State) -> None:
        self.scale = torch.full((), self.init_scale, dtype=torch.float32, device=state.device)
        self.good_steps = torch.zeros((), dtype=torch.int32, device=state.device)
        self.found = torch.zeros((), dtype=torch.float32, device=state.device)

    def loss(self, inner: Loss) -> Loss:
        dtype = self.dtype
        if dtype is None:
            return inner

        def autocast(state: State, batch: Batch) -> tuple[Tensor, Any, Any]:
            with torch.autocast(state.device.type, dtype=dtype):
                total, weight, outputs = inner(state, batch)
            if self.scaled and state.training and total.requires_grad:
                total.register_hook(self._scaled_up)  # type: ignore[no-untyped-call]
            return total, weight, outputs

        return autocast

    def _scaled_up(self, gradient: Tensor) -> Tensor:
        return gradient * self.scale

    @contextmanager
    def evaluation_weights(self, state: State) -> Iterator[None]:
        """Evaluation and prediction run under the same autocast."""
        with nullcontext() if self.dtype is None else torch.autocast(state.device.type, dtype=self.dtype):
            yield

    def grad(self, inner: Grad) -> Grad:
        if not self.scaled:
            return inner

        def unscaled(state: State, batch: Batch) -> Metrics:
            with state.isolated_gradients():
                metrics = inner(state, batch)
                self.found = state.mesh.agree(check_and_scale(state.parameters, self.scale.reciprocal()))
            state.skip = either(state.skip, self.found)
            return {**metrics, "loss_scale": self.scale.clone()}

        return unscaled

    def update(self, inner: Update) -> Update:
        if not self.scaled:
            return inner

        def rescaled(state: State, metrics: Metrics) -> Metrics:
            metrics = inner(state, metrics)
            torch._amp_update_scale_(
                self.scale, self.good_steps, self.found, self.growth_factor, self.backoff_factor, self.growth_interval
            )
            return metrics

        return rescaled

    def state_dict(self) -> dict[str, Any]:
        return {"scale": self.scale, "good_steps": self.good_steps} if self.scaled else {}

    def load_state_dict(self, tree: Mapping[str, Any]) -> None:
        if self.scaled != bool(tree):
            saved, own = ("with" if tree else "without"), ("with" if self.scaled else "without")
            raise CheckpointError(f"mixed_precision: the checkpoint was made {saved} a loss scale, and this run is {own} one")
        if self.scaled:
            self.scale.copy_(tree["scale"])
            self.good_steps.copy_(tree["good_steps"])
