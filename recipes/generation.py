"""A generator against a critic on the 5 x 5 grid of Gaussians: `mapsto train recipes/generation.py` (two minutes on one core).

The usual protocol (Srivastava et al. 2017; Lin et al. 2018): 25 modes of deviation 0.05, 2 apart; a sample is of a mode, and of
quality, within 3 deviations of it; a mode is found where some sample is. A step takes two turns, each with parameters, an
optimizer and a schedule of its own: the critic compares pairs (Jolicoeur-Martineau 2019), with penalties on its gradient at
what is real and what is made (Mescheder et al. 2018; Huang et al. 2024); then the generator, whose averages are evaluated.
"""

from __future__ import annotations

from typing import Any, Literal

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import mapsto
from mapsto import Spec, use
from mapsto.tasks import panels
from mapsto.tasks.metric import Metric
from mapsto.torch.tasks import Task

DEVIATION, LATENT = 0.05, 2
MODES = np.stack(np.meshgrid(np.arange(-4, 5, 2), np.arange(-4, 5, 2)), -1).reshape(-1, 2)


@mapsto.source
def grid(records: int, split: Literal["train", "valid", "test"]) -> dict[str, np.ndarray]:
    """Points [records, 2] of the mixture, each mode as often as any other."""
    rng = np.random.default_rng(["train", "valid", "test"].index(split))
    points = MODES[np.arange(records) % len(MODES)] + DEVIATION * rng.normal(size=(records, 2))
    return {"input": points.astype(np.float32)}


@mapsto.transform
def noise(batch: dict[str, np.ndarray], *, rng: np.random.Generator) -> dict[str, np.ndarray]:
    """Beside each record what the generator makes one of."""
    return {**batch, "noise": rng.standard_normal((len(batch["input"]), LATENT), np.float32)}


@mapsto.model
class Gan(nn.Module):
    """A generator of points [batch, 2] from noise [batch, LATENT], and a critic of points."""

    def __init__(self, width: int = 128) -> None:
        super().__init__()
        w, rise = width, lambda: nn.LeakyReLU(0.2)
        self.generator = nn.Sequential(*_layers(LATENT, w, nn.ReLU), *_layers(w, w, nn.ReLU, 2), nn.Linear(w, 2))
        self.critic = nn.Sequential(*_layers(2, w, rise), *_layers(w, w, rise, 2), nn.Linear(w, 1))

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)


def _layers(inputs: int, width: int, activation: Any, count: int = 1) -> list[nn.Module]:
    return [module for _ in range(count) for module in (nn.Linear(inputs, width), activation())]


@mapsto.task
def criticise(model: Any, batch: Any, *, penalty: float = 0.03) -> tuple[Tensor, int, Tensor]:
    """What is real is worth more than what is made; penalty: on half the squared gradient of the critic at both."""
    pair = [x.detach().requires_grad_() for x in (batch["input"], model.generator(batch["noise"]))]
    with torch.enable_grad():
        real, fake = (model.critic(x) for x in pair)
        slopes = torch.autograd.grad([real.sum() + fake.sum()], pair, create_graph=True)
    return F.softplus(fake - real).sum() + penalty / 2 * sum(s.square().sum() for s in slopes), len(real), real


@mapsto.task
def convince(model: Any, batch: Any) -> tuple[Tensor, int, Tensor]:
    """What is made is worth more than what is real."""
    points = model.generator(batch["noise"])
    return F.softplus(model.critic(batch["input"]) - model.critic(points)).sum(), len(points), points


@mapsto.metric
class Modes(Metric):
    """`found` of 25; `quality`, the share of samples that are of a mode; `kl`, in nats, of their modes from all alike."""

    reads = ("point",)

    def count(self, prediction: Any, target: Any, mask: Any) -> dict[str, np.ndarray]:  # noqa: ARG002
        distance = np.linalg.norm(prediction["point"][:, None] - MODES, axis=2)
        near = distance.argmin(1)[distance.min(1) < 3 * DEVIATION]
        return {"modes": np.bincount(near, minlength=len(MODES)), "samples": np.array(len(distance))}

    def finish(self, totals: Any) -> dict[str, float]:
        good, share = totals["modes"].sum(), totals["modes"] / max(totals["modes"].sum(), 1)
        kl = (share * np.log(np.maximum(share * len(MODES), 1e-300))).sum()
        return {"found": float((share > 0).sum()), "quality": float(good / totals["samples"]), "kl": float(kl)}


@mapsto.task
class Samples(Task):
    """As many samples as there are records, for evaluation; the loss is how far they lie from their modes."""

    def __init__(self) -> None:
        def apart(x: Tensor, _: Tensor) -> tuple[Tensor, int]:
            return torch.cdist(x, x.new_tensor(MODES)).amin(1).sum(), len(x)

        super().__init__(apart, input="noise", target="input", metrics={"modes": Modes()})

    def predict(self, outputs: Tensor) -> dict[str, Tensor]:
        return {"point": outputs}

    def panels(self, collected: Any) -> list[dict[str, Any]]:
        x, y = torch.cat([p["point"] for p, _ in collected]).double().numpy().T
        return [{**panels.scatter(x, y), "title": "Samples", "x": "x", "y": "y"}]


def spec() -> Spec:
    turn = {"optimizer": use("adam", lr=2e-3, betas=(0.0, 0.99)), "schedule": use("warmup", final=0.02)}
    drawn = {"transforms": [use(noise)]}
    return Spec(
        name="generation",
        model=use(Gan),
        data={
            "train": {"source": use(grid, records=100_000, split="train"), "batch_size": 256, "shuffle": True, **drawn},
            "valid": {"source": use(grid, records=10_000, split="valid"), "batch_size": 2500, **drawn},
        },
        task=use(Samples),
        turns={
            "critic": {"parameters": ["critic"], "task": use(criticise), **turn},
            "generator": {"parameters": ["generator"], "task": use(convince), **turn, "middleware": [use("ema", warmup=10)]},
        },
        steps=10_000,
        evaluate_every=2000,
        checkpoint={"metric": "valid/modes.kl"},
        log_every=200,
    )
