"""How many cycles a machine has left: `mapsto train recipes/remaining_life.py`.

    mapsto train recipes/remaining_life.py task=gaussian model.outputs=2                 a normal distribution instead
    mapsto train recipes/remaining_life.py --folds 5 --run runs/cv                       five folds of whole machines
    python recipes/remaining_life.py                                                     what the age alone tells

4000 machines wear by a stated law: h(t) = a + (1 - a) (t / life)^p with a, p and life of their own, worn out at h = 1. Eight
sensors show h in their own curves, a load that comes and goes, and noise. A record is the last 24 cycles of a machine, its
target the cycles that are left, in hundreds (as for turbofans, Saxena et al. 2008). A machine is in one part alone.
"""

from __future__ import annotations

import functools

import numpy as np
from torch import Tensor, nn

from mapsto import Spec, use
from mapsto.data import Arrays

WINDOW, SENSORS, MACHINES = 24, 8, 4000
LEVELS = [0.05, 0.25, 0.5, 0.75, 0.95]


@functools.lru_cache(maxsize=2)
def machines(world: int = 0) -> Arrays:
    """Windows of all machines: `input` [WINDOW, SENSORS], `target` cycles left in hundreds, `machine`, `age`."""
    draw = np.random.default_rng(world)
    curve, lift, felt = draw.uniform(0.5, 2.5, SENSORS), draw.normal(0, 1, SENSORS), draw.normal(0, 0.3, SENSORS)
    fields: dict[str, list[np.ndarray]] = {"input": [], "target": [], "machine": [], "age": []}
    for machine in range(MACHINES):
        start, power, life = draw.uniform(0, 0.2), draw.uniform(1.2, 3.0), int(draw.uniform(120, 320))
        cycles = np.arange(life)
        health = start + (1 - start) * (cycles / life) ** power
        load = np.sin(cycles / draw.uniform(5, 20) + draw.uniform(0, 6)) + 0.3 * draw.normal(size=life)
        shown = lift * health[:, None] ** curve + felt * load[:, None] + draw.normal(0, 0.15, (life, SENSORS))
        ends = np.arange(WINDOW, life + 1, 12)
        windows = np.lib.stride_tricks.sliding_window_view(shown, WINDOW, axis=0)[ends - WINDOW].transpose(0, 2, 1)
        fields["input"].append(windows.astype(np.float32))
        fields["target"].append(((life - ends) / 100).astype(np.float32))
        fields["machine"].append(np.full(len(ends), machine))
        fields["age"].append(ends)
    return Arrays(**{name: np.concatenate(pieces) for name, pieces in fields.items()})


class Wear(nn.Module):
    """Windows [B, WINDOW, SENSORS] -> one output a quantile [B, outputs]: convolutions along time, averaged over its halves."""

    def __init__(self, width: int = 48, outputs: int = len(LEVELS)) -> None:
        super().__init__()
        self.first, self.second = nn.Conv1d(SENSORS, width, 5, padding=2), nn.Conv1d(width, width, 5, padding=2)
        self.head = nn.Sequential(nn.Linear(2 * width, width), nn.GELU(), nn.Dropout(0.1), nn.Linear(width, outputs))

    def forward(self, windows: Tensor) -> Tensor:
        x = nn.functional.gelu(self.first(windows.transpose(1, 2)))
        x = nn.functional.gelu(self.second(x))
        outputs: Tensor = self.head(
            nn.functional.layer_norm(nn.functional.adaptive_avg_pool1d(x, 2).flatten(1), (2 * x.shape[1],))
        )
        return outputs


def spec(width: int = 48) -> Spec:
    """A fifth of the machines for the test, a fifth of the others for validation; the best by the loss on these is kept."""
    fold = {"fold": 1, "of": 5, "seed": 0, "groups": "machine"}
    rest = use("fold", source=use(machines), part="rest", **fold)
    parts = {
        "train": use("split", source=rest, part="rest", fraction=0.2, seed=0, groups="machine"),
        "valid": use("split", source=rest, part="held_out", fraction=0.2, seed=0, groups="machine"),
        "test": use("fold", source=use(machines), part="held_out", **fold),
    }
    data = {name: {"source": part, "batch_size": 64 if name == "train" else 256} for name, part in parts.items()}
    data["train"]["shuffle"] = True
    return Spec(
        name="remaining-life",
        model=use(Wear, width=width),
        task=use("quantiles", levels=LEVELS, metrics=["rmse"]),
        optimizer=use("adamw", lr=2e-3, weight_decay=0.01),
        schedule=use("one_cycle", max_lr=4e-3),
        middleware=[use("clip_norm", max_norm=1.0), use("ema", decay=0.995)],
        data=data,
        epochs=6,
        device="cpu",
    )


if __name__ == "__main__":  # what the age alone tells: the mean of the cycles left at each age, on the test's machines
    rows = machines()
    every = rows[np.arange(len(rows))]
    test = every["machine"] % 5 == 0
    ages, place = np.unique(every["age"], return_inverse=True)
    means = np.array(
        [every["target"][(place == i) & ~test].mean() if ((place == i) & ~test).any() else 0 for i in range(len(ages))]
    )
    print(f"mae of the age alone: {np.abs(means[place[test]] - every['target'][test]).mean():.3f} (hundreds of cycles)")
