"""A middleware wraps one of a program's four mappings. Installed, `middleware/my_name` works in every spec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

import mapsto
from mapsto.torch import State

Update = Callable[[State, dict[str, Any]], dict[str, Any]]


# A class wraps each mapping that it has a method for, loss, grad, update or step; each returns the outer mapping, and is
# called once, when the program is built. `before` and `after` say what it stands outside and inside of, by name, where
# the program holds that; `needs` and `provides` speak of capabilities. `mapsto show SPEC` prints the order that follows.
@mapsto.middleware("my_name", before=("clip_norm", "clip_value"))
class MyName:
    """Shrink a gradient whose norm is more than `factor` times the running mean of norms to that size.

    decay: of the running mean. Adds the metric `gradient_norm`. After AutoClip (Seetharaman et al. 2020).
    """

    # The arguments are the options that a spec states.
    def __init__(self, factor: float = 2.0, *, decay: float = 0.95) -> None:
        self.factor, self.decay = factor, decay
        self.mean: Tensor | None = None

    def update(self, inner: Update) -> Update:
        """Around `update`, so the gradients are whole: summed over micro-batches, divided by their weight."""

        def update(state: State, metrics: dict[str, Any]) -> dict[str, Any]:
            gradients = state.gradients()
            norm = torch.nn.utils.get_total_norm(gradients)
            # Tensors throughout: `.item()` or `if norm > ...` would make every step wait for the device.
            mean = norm if self.mean is None else torch.where(self.mean.isfinite(), self.mean, norm)
            shrink = (self.factor * mean / norm.clamp(min=1e-30)).clamp(max=1.0)
            torch._foreach_mul_(gradients, shrink)
            moved = self.decay * mean + (1 - self.decay) * norm * shrink
            self.mean = torch.where(norm.isfinite(), moved, mean)  # an overflow is skipped further in, and leaves no trace
            return inner(state, {**metrics, "gradient_norm": norm})

        return update

    # What it keeps from step to step goes into checkpoints, so that a resumed run goes on bitwise the same.
    def state_dict(self) -> dict[str, Any]:
        """The running mean."""
        return {"mean": self.mean}

    def load_state_dict(self, tree: dict[str, Any]) -> None:
        """Put it back."""
        self.mean = tree["mean"]
