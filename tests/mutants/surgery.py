"""Surgery with a planted bug, and its correct twins."""

from __future__ import annotations

import copy

import torch
from torch import nn

from mapsto.core.laws import Example

from . import Mutant


def leaky(model, *, slope=0.1):
    """Every ReLU becomes a LeakyReLU, in place."""
    for name, child in model.named_children():
        setattr(model, name, nn.LeakyReLU(slope) if isinstance(child, nn.ReLU) else leaky(child, slope=slope))
    return model


def leaky_named(model, *, slope=0.1):
    """Looks for modules by a name that there is not."""
    for name, _ in model.named_children():
        if name == "relu":
            setattr(model, name, nn.LeakyReLU(slope))
    return model


def leaky_forgotten(model, *, slope=0.1):
    """Changes a copy and returns the model."""
    leaky(copy.deepcopy(model), slope=slope)
    return model


def copied(model, *, slope=0.1):
    return leaky(copy.deepcopy(model), slope=slope)


def copied_shallowly(model, *, slope=0.1):
    found = copy.copy(model)
    leaky(found, slope=slope)
    return found


class Scaled(nn.Module):
    """A linear layer whose rows are scaled to norm 1, and back by a buffer."""

    def __init__(self, linear, buffered=True):
        super().__init__()
        self.linear = linear
        scale = linear.weight.detach().norm(dim=1)
        if buffered:
            self.register_buffer("scale", scale)
        else:
            self.scale = scale
        linear.weight.data.div_(scale[:, None])

    def forward(self, x):
        found = nn.functional.linear(x, self.linear.weight) * self.scale
        return found if self.linear.bias is None else found + self.linear.bias


def scaled(model):
    for name, child in model.named_children():
        if type(child) is nn.Linear:
            setattr(model, name, Scaled(child))
        else:
            scaled(child)
    return model


def scaled_attribute(model):
    for name, child in model.named_children():
        if type(child) is nn.Linear:
            setattr(model, name, Scaled(child, buffered=False))
        else:
            scaled_attribute(child)
    return model


def made_anew(model, *, slope=0.1):
    """Makes the head again where it only had to move it."""
    leaky(model, slope=slope)
    model.head[0] = nn.Linear(8, 16)
    return model


def pruned(model, *, sparsity=0.5):
    """The smallest weights of each linear layer become zero."""
    for module in model.modules():
        if type(module) is nn.Linear:
            flat = module.weight.detach().abs().flatten()
            count = int(sparsity * flat.numel())
            if count:
                module.weight.data[module.weight.abs() <= flat.kthvalue(count).values] = 0.0
    return model


def pruned_always(model, *, sparsity=0.5):
    """At least one weight of each layer, whatever is asked for."""
    for module in model.modules():
        if type(module) is nn.Linear:
            flat = module.weight.detach().abs().flatten()
            bound = flat.kthvalue(max(int(sparsity * flat.numel()), 1)).values
            module.weight.data[module.weight.abs() <= bound] = 0.0
    return model


class Adapted(nn.Module):
    """A linear layer and a correction of low rank (Hu et al. 2021), nothing at first, in float32 whatever the layer is in."""

    def __init__(self, inner, rank, start):
        super().__init__()
        self.inner, self.down = inner, nn.Parameter(torch.randn(rank, inner.in_features, dtype=torch.float32))
        self.up = nn.Parameter(start(inner.out_features, rank, dtype=torch.float32))

    def forward(self, x):
        return self.inner(x) + nn.functional.linear(nn.functional.linear(x, self.down), self.up)


def adapted(model, *, rank=2, start=torch.zeros):
    """Linear layers of the head get a correction, in place."""
    for name, child in model.head.named_children():
        if isinstance(child, nn.Linear):
            setattr(model.head, name, Adapted(child, rank, start))
    return model


def adapted_drawn(model, *, rank=2):
    """The correction starts from random numbers, both of its factors."""
    return adapted(model, rank=rank, start=torch.randn)


PRUNE = Example(args={"sparsity": 0.5}, tags=frozenset({"changes_weights"}), more={"neutral": {"sparsity": 0.0}})

MUTANTS = [
    Mutant(
        law="surgery.something_happened", name="no module has that name", bug=leaky_named, twin=leaky, models="executorch#22069"
    ),
    Mutant(
        law="surgery.something_happened",
        name="a copy is changed and dropped",
        bug=leaky_forgotten,
        twin=leaky,
        models="executorch#22069",
    ),
    Mutant(law="surgery.original", name="a shallow copy", bug=copied_shallowly, twin=copied, models="copy.copy of a model"),
    Mutant(
        law="surgery.kept_weights",
        name="a layer is made anew",
        bug=made_anew,
        twin=leaky,
        models="fresh weights in a replaced head",
    ),
    Mutant(law="surgery.loadable", name="scales are plain attributes", bug=scaled_attribute, twin=scaled, models="lost scales"),
    Mutant(
        law="surgery.neutral",
        name="it prunes one weight at sparsity 0",
        bug=pruned_always,
        twin=pruned,
        models="kthvalue(max(k, 1))",
        example=PRUNE,
    ),
    Mutant(
        law="surgery.neutral",
        name="a correction is something from the start, in float32",
        bug=adapted_drawn,
        twin=adapted,
        models="adapters#766",
        example=Example(args={"rank": 2}, more={"neutral": {"rank": 1}}),
    ),
]
