"""Tasks that do more with a model than call it once: its parts, its parts beside it, twice, in a method of its own."""

from __future__ import annotations

from typing import Any

import torch
from mesh_programs import MODELS, Net
from torch import Tensor
from torch.nn import functional

from mapsto.data.stream import size


def summed(logits: Tensor, batch: Any) -> tuple[Tensor, int, Tensor]:
    return functional.cross_entropy(logits, batch["target"], reduction="sum"), size(batch), logits


def parts(model: Any, batch: Any) -> Any:
    """Only parts of the model are called."""
    x = batch["input"]
    for block in model.blocks:
        x = x + block(x)
    return summed(model.head(x), batch)


def beside(model: Any, batch: Any) -> Any:
    """The model, and one of its parts on something else."""
    total, weight, logits = summed(model(batch["input"]), batch)
    return total + model.head(batch["input"]).square().sum(), weight, logits


def part_first(model: Any, batch: Any) -> Any:
    """One of its parts, and then the model."""
    extra = model.head(model.blocks[0](batch["input"])).square().sum()
    total, weight, logits = summed(model(batch["input"]), batch)
    return total + extra, weight, logits


def looked(model: Any, batch: Any) -> Any:
    """The model without gradients, and parts of it with them."""
    with torch.no_grad():
        teacher = model(batch["input"]).softmax(-1)
    total, weight, logits = parts(model, batch)
    return total - (teacher * logits.log_softmax(-1)).sum(), weight, logits


def some(model: Any, batch: Any) -> Any:
    """One part; the others take no part in the step."""
    return summed(model.head(batch["input"]), batch)


def within(model: Any, batch: Any) -> Any:
    """A part of a block."""
    total, weight, logits = parts(model, batch)
    return total + model.blocks[0].fc1(batch["input"]).square().sum(), weight, logits


def penalised(model: Any, batch: Any) -> Any:
    """A penalty on a gradient, which is differentiated within the pass."""
    with torch.enable_grad():
        x = batch["input"].clone().requires_grad_()
        total, weight, logits = summed(model(x), batch)
        (slope,) = torch.autograd.grad(total, x, create_graph=True)
    return total + slope.square().sum(), weight, logits


def twice(model: Any, batch: Any) -> Any:
    """The model on two inputs."""
    total, weight, logits = summed(model(batch["input"]), batch)
    return total + summed(model(-batch["input"]), batch)[0], weight, logits


class Own(Net):
    """A model whose loss is a method of its own."""

    def spoken(self, batch: Any) -> Any:
        return parts(self, batch)


def method(model: Any, batch: Any) -> Any:
    return model.spoken(batch)


MODELS["own"] = Own
TASKS = {f.__name__: f for f in (parts, beside, part_first, looked, twice)}
