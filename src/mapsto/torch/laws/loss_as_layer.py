"""Laws that a loss owes as a layer does: layout in memory, purity, compiling, autocast."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import torch
from torch import nn

from ...core.laws import Law, Trial
from ...laws import layer_purity
from ..drivers.layer import DRIVER
from ..drivers.loss import build, inputs, settle
from . import layer_compile, layer_layout, layer_precision

SHARED: tuple[tuple[Callable[[], Any], str, str], ...] = (
    (layer_layout.laws, "layer.layout", "predictions and targets give the same value and gradients however they lie in memory"),
    (layer_layout.laws, "layer.gradient_layout", "gradients of its value give the same gradients however they lie in memory"),
    (layer_purity.laws, "layer.purity", "it leaves its inputs, random streams and settings as they were"),
    (layer_compile.laws, "layer.compile", "compiled (aot_eager) and eager give the same value and gradients"),
    (layer_precision.laws, "layer.autocast", "under autocast it is finite and within rounding"),
)
"""Where a law of layers stands, its name, and what it says of a loss."""


class Called(nn.Module):
    """A loss as a layer: its inputs -> what it returns."""

    def __init__(self, loss: Callable[..., Any]) -> None:
        super().__init__()
        self.loss = loss

    def forward(self, *given: Any) -> Any:
        """What the loss returns."""
        return self.loss(*given)


def laws() -> tuple[Law, ...]:
    """The laws of layers in `SHARED` as laws of losses: one check, told of another kind."""
    return tuple(_of_loss(next(law for law in found() if law.name == name), said) for found, name, said in SHARED)


def _of_loss(law: Law, said: str) -> Law:
    what = law.name.partition(".")[2]

    def check(trial: Trial) -> None:
        as_layer(trial)
        if what == "autocast" and settle(trial).more["domain"] != "real":
            trial.skip("its predictions are probabilities, which autocast does not produce")
        law.check(trial)

    return replace(
        law, name=f"loss.{what}", id=f"C-{law.id}", kinds=("loss",), check=check, statement=f"{said[0].upper()}{said[1:]}."
    )


def as_layer(trial: Trial) -> None:
    """Make the trial's subject a layer that calls the loss, fed with the loss's inputs."""
    example = settle(trial)
    build(trial)  # says what is missing, if anything is
    inner = Trial(trial.subject, trial.law, seed=trial.seed)

    def fresh() -> nn.Module:
        return Called(build(inner, torch.float32))

    def fed(size: int, generator: torch.Generator) -> tuple[Any, ...]:
        made = example.inputs(size, generator) if example.inputs is not None else inputs(inner, size)
        return made if isinstance(made, tuple) else (made,)

    axes = example.more["axes"]
    more = {**example.more, "settled": True, "record_axis": axes if isinstance(axes, int) else axes[0]}
    fed_alike = replace(example, args={}, inputs=fed, more=more)
    trial.subject = replace(trial.subject, target=fresh, make=None, example=fed_alike, driver=DRIVER)
