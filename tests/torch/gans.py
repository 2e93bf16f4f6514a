"""A generator against a discriminator, for tests: the model, the tasks of both turns, and the loop as one writes it by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from mapsto import use
from mapsto.data.reader import Batches
from mapsto.torch import build_program

LATENT, WIDTH, RECORDS = 3, 2, 40


class Gan(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.generator = nn.Sequential(nn.Linear(LATENT, 8), nn.Tanh(), nn.Linear(8, WIDTH))
        self.discriminator = nn.Sequential(nn.Linear(WIDTH, 8), nn.LeakyReLU(0.2), nn.Linear(8, 1))

    def forward(self, noise: Tensor) -> Tensor:
        return self.generator(noise)


def judged(logits: Tensor, real: bool) -> Tensor:
    return functional.softplus(-logits if real else logits).sum()


def tell(model: Any, batch: Any) -> Any:
    """The discriminator tells records from what the generator makes."""
    made = model.generator(batch["noise"]).detach()
    total = judged(model.discriminator(batch["input"]), True) + judged(model.discriminator(made), False)
    return total, len(made), made


def careless(model: Any, batch: Any) -> Any:
    """The same without `detach`: the gradient reaches the generator, whose turn it is not."""
    made = model.generator(batch["noise"])
    total = judged(model.discriminator(batch["input"]), True) + judged(model.discriminator(made), False)
    return total, len(made), made


def fool(model: Any, batch: Any) -> Any:
    """The generator makes what the discriminator takes for records."""
    made = model.generator(batch["noise"])
    return judged(model.discriminator(made), True), len(made), made


def drawn(model: Any, batch: Any) -> Any:
    """The same with noise of its own, and dropout of what is made."""
    noise = torch.randn(len(batch["input"]), LATENT, dtype=batch["input"].dtype)
    made = functional.dropout(model.generator(noise), 0.2)
    return judged(model.discriminator(made), True), len(made), made


def distance(model: Any, batch: Any) -> Any:
    """For evaluation: how far from the records what is made of their noise lies."""
    made = model(batch["noise"])
    return (made - batch["input"]).square().sum(), len(made), made


def records(dtype: str = "float64") -> dict[str, np.ndarray]:
    rng = np.random.default_rng(2)
    return {n: rng.normal(size=(RECORDS, w)).astype(dtype) for n, w in (("input", WIDTH), ("noise", LATENT))}


def reader(batch: int = 9, dtype: str = "float64") -> Batches:
    return Batches(records(dtype), batch, shuffle=True, seed=1)


TURNS: dict[str, Any] = {
    "discriminator": {
        "parameters": ["discriminator"],
        "task": tell,
        "optimizer": use(torch.optim.Adam, lr=0.02, betas=(0.5, 0.9)),
        "schedule": use(torch.optim.lr_scheduler.StepLR, step_size=3, gamma=0.5),
        "middleware": [use("clip_norm", max_norm=0.3)],
    },
    "generator": {
        "parameters": ["generator"],
        "task": fool,
        "optimizer": use(torch.optim.RMSprop, lr=0.01),
        "middleware": [use("ema", decay=0.8)],
    },
}


def turns(**changes: dict[str, Any]) -> dict[str, Any]:
    """The turns of the tests, with changes by turn."""
    return {name: {**turn, **changes.get(name, {})} for name, turn in TURNS.items()}


def gan(dtype: str = "float64", **options: Any) -> Any:
    """A program of turns on the CPU."""
    before = torch.get_default_dtype()
    torch.set_default_dtype(getattr(torch, dtype))
    try:
        given = {"turns": TURNS, "task": distance, "seed": 3, "device": "cpu", **options}
        return build_program(Gan, injected={"total_steps": 20, "steps_per_epoch": 5}, **given)
    finally:
        torch.set_default_dtype(before)


def train(program: Any, start: int, stop: int, batch: int = 9) -> list[Any]:
    window = []
    with reader(batch).stream(start, stop, **program.reader_args) as stream:
        for _, found in stream:
            window.append(program.step(found))
    return window


def by_hand(model: Gan, steps: int, *, bug: str = "", every: int = 1, times: int = 1) -> dict[str, Tensor]:
    """The same training as one writes it; bug: `shared` (the generator's step updates the discriminator too) or `kept` (its
    gradients are not set to zero after the discriminator's turn). The averaged weights of the generator, by name."""
    critic, maker = model.discriminator, model.generator
    tells = torch.optim.Adam(critic.parameters(), lr=0.02, betas=(0.5, 0.9))
    halves = torch.optim.lr_scheduler.StepLR(tells, step_size=3, gamma=0.5)
    fools = torch.optim.RMSprop(model.parameters() if bug == "shared" else maker.parameters(), lr=0.01)
    averages = {n: p.detach().clone() for n, p in maker.named_parameters(prefix="generator")}
    if bug == "kept":
        tells.zero_grad = lambda: None  # type: ignore[method-assign, misc, assignment]
    for step in range(steps):
        batch = {n: torch.from_numpy(v) for n, v in reader().batch(step).items()}
        records = len(batch["input"])
        for _ in range(times):
            tells.zero_grad()
            (tell(model, batch)[0] / records).backward()
            norm = torch.linalg.vector_norm(torch.stack([p.grad.norm() for p in critic.parameters() if p.grad is not None]))
            for parameter in critic.parameters():
                assert parameter.grad is not None
                parameter.grad.mul_(0.3 / norm.clamp(min=0.3))
            tells.step()
            halves.step()
        if (step + 1) % every == 0:
            fools.zero_grad()
            (fool(model, batch)[0] / records).backward()
            fools.step()
            for name, parameter in maker.named_parameters(prefix="generator"):
                averages[name].lerp_(parameter.detach(), 1 - 0.8)
    return averages


class Pairs:
    """A source of records and of noise for each."""

    def __init__(self, dtype: str = "float32") -> None:
        self.fields = records(dtype)

    def __len__(self) -> int:
        return RECORDS

    def __getitem__(self, indices: Any) -> dict[str, np.ndarray]:
        return {name: values[indices] for name, values in self.fields.items()}
