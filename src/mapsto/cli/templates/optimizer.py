"""An optimizer is the framework's own: a torch.optim.Optimizer. Installed, `optimizer/my_name` works in every spec."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

import mapsto

Array = NDArray[np.float64]


# `params` comes from the run, which builds the optimizer once the model is placed; the other arguments are the options
# that a spec states. Nothing else is asked of it: no base class of ours, no hook.
class MyName(torch.optim.Optimizer):
    """Signum (Bernstein et al. 2018): m <- beta m + (1 - beta) g, then w <- w - lr sign(m)."""

    def __init__(self, params: Any, lr: float = 1e-3, *, beta: float = 0.9, weight_decay: float = 0.0) -> None:
        if not 0 <= beta < 1:
            raise ValueError(f"beta: {beta} is not in [0, 1)")
        super().__init__(params, {"lr": lr, "beta": beta, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """One update of every parameter that has a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            for parameter in group["params"]:
                if parameter.grad is not None:
                    self._update(parameter, parameter.grad, group)
        return loss

    # What is kept in `self.state` goes into checkpoints by itself.
    def _update(self, parameter: Tensor, gradient: Tensor, group: dict[str, Any]) -> None:
        state = self.state[parameter]
        if not state:
            state["momentum"] = torch.zeros_like(parameter)
        momentum = state["momentum"].lerp_(gradient, 1 - group["beta"])
        parameter.mul_(1 - group["lr"] * group["weight_decay"]).sub_(momentum.sign(), alpha=group["lr"])


# What its laws measure it against: the rule on float64 arrays for one parameter, with a memory that is kept from step to step.
def rule(w: Array, g: Array, t: int, memory: dict[str, Array], *, lr: float, beta: float, weight_decay: float) -> Array:
    """w after update t = 1, 2, ..."""
    del t  # this rule is the same at every step
    memory["m"] = beta * memory.get("m", np.zeros_like(g)) + (1 - beta) * g
    return w - lr * (weight_decay * w + np.sign(memory["m"]))


mapsto.example(MyName, formula=rule, variants=({"weight_decay": 0.1},))
