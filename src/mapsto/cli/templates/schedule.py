"""A schedule is the framework's own: a torch learning-rate scheduler. Installed, `schedule/my_name` works in every spec."""

from __future__ import annotations

import torch
from torch.optim.lr_scheduler import LambdaLR

import mapsto


# `optimizer` comes from the run, and so does `total_steps`, by its name (`steps_per_epoch` and `seed` would too); the
# other arguments are the options that a spec states. The run steps it after every update, not after every epoch.
def my_name(optimizer: torch.optim.Optimizer, total_steps: int, *, rise: float = 0.1, fall: float = 0.2) -> LambdaLR:
    """Warm-up, stable, decay (Hu et al. 2024): a factor that rises for a share of the steps, stays 1, and falls to 0."""
    if rise < 0 or fall < 0 or rise + fall > 1:
        raise ValueError(f"rise {rise} and fall {fall} are not two shares of one run")

    def factor(step: int) -> float:
        up = (step + 1) / (rise * total_steps + 1)
        down = (total_steps - step) / max(fall * total_steps, 1)
        return max(0.0, min(1.0, up, down))

    return LambdaLR(optimizer, factor)


# What its laws measure it against: the rate at step t as a formula of its own, for any base rate.
def closed_form(t: int, base: float, *, total_steps: int, rise: float, fall: float) -> float:
    """A straight line up, a plateau, a straight line down."""
    rising, falling = rise * total_steps, fall * total_steps
    if t + 1 < rising + 1:
        return base * (t + 1) / (rising + 1)
    return base if t < total_steps - falling else base * max(0.0, total_steps - t) / max(falling, 1)


mapsto.example(my_name, formula=closed_form)
