"""Specs whose model has stages that are not its forward, or draws what no seed, step or rank changes; and their twins."""

from __future__ import annotations

import torch
from torch import nn

from mapsto import use

from . import Mutant
from .program_own_mesh import LeavesTheNormOut, _spec, leaves_the_norm_out, staged


# -- stages --------------------------------------------------------------------------------------------------------------
class Dropping(LeavesTheNormOut):
    """Dropout before the head."""

    def __init__(self):
        super().__init__()
        self.dropout = nn.Dropout(0.3)

    def forward(self, x):
        for block in self.blocks:
            x = block(x)
        return self.last(self.dropout(self.norm(x)))

    def pipeline_plan(self):
        return [*self.blocks, self.norm, self.dropout, (self.last, "head")]


class LeavesDropoutOut(Dropping):
    def pipeline_plan(self):
        return [*self.blocks, self.norm, (self.last, "head")]


class Detached(Dropping):
    """The value that travels has no gradient any more."""

    def pipeline_plan(self):
        return [*self.blocks, self.norm, (lambda x: self.dropout(x.detach()), "dropout"), (self.last, "head")]


class AnotherOrder(Dropping):
    def pipeline_plan(self):
        return [*reversed(self.blocks), self.norm, self.dropout, (self.last, "head")]


def dropping():
    return _spec(None, Dropping)


def leaves_dropout_out():
    return _spec(None, LeavesDropoutOut)


def detached():
    return _spec(None, Detached)


def another_order():
    return _spec(None, AnotherOrder)


# -- draws ---------------------------------------------------------------------------------------------------------------
class Noisy(nn.Module):
    """Noise on the inputs while it trains."""

    def __init__(self):
        super().__init__()
        self.head, self.own = nn.Linear(8, 1), torch.Generator().manual_seed(0)

    def noise(self, x):
        return torch.randn_like(x)

    def forward(self, x):
        return self.head(x + 0.1 * self.noise(x) if self.training else x)[:, 0]


class OwnGenerator(Noisy):
    """Made with one seed in every process."""

    def noise(self, x):
        return torch.randn(x.shape, generator=self.own, dtype=x.dtype)


class Seeded:
    """Seeds the framework anew before each pass."""

    def loss(self, inner):
        def outer(state, batch):
            torch.manual_seed(self.number(state))
            return inner(state, batch)

        return outer

    def number(self, state):
        return 1_000_003 * state.seed + 1009 * state.step + state.shard


class SeededForAllRanks(Seeded):
    def number(self, state):
        return 1_000_003 * state.seed + state.step


class SeededForAllSteps(Seeded):
    def number(self, state):
        return 1_000_003 * state.seed + state.shard


class SeededForAllSeeds(Seeded):
    def number(self, state):
        return 1009 * state.step + state.shard


def noisy():
    return _spec(None, Noisy)


def own_generator():
    return _spec(None, OwnGenerator)


def seeded():
    return _spec(None, Noisy, middleware=[use(Seeded)])


def for_all_ranks():
    return _spec(None, Noisy, middleware=[use(SeededForAllRanks)])


def for_all_steps():
    return _spec(None, Noisy, middleware=[use(SeededForAllSteps)])


def for_all_seeds():
    return _spec(None, Noisy, middleware=[use(SeededForAllSeeds)])


def _mutant(law, name, bug, twin, models):
    return Mutant(law=law, name=name, bug=bug, twin=twin, models=models)


MUTANTS = [
    _mutant("program.stages", "a norm is left out", leaves_the_norm_out, staged, "Megatron-LM#1304"),
    _mutant("program.stages", "dropout is left out", leaves_dropout_out, dropping, "DeepSpeedExamples#932"),
    _mutant("program.stages", "what travels is detached", detached, dropping, "Automodel#3530"),
    _mutant("program.stages", "blocks in another order", another_order, dropping, "Megatron-LM#1304"),
    _mutant("program.draws", "a generator with one seed in every process", own_generator, noisy, "accelerate#114"),
    _mutant("program.draws", "ranks draw the same", for_all_ranks, seeded, "tt-metal#55947"),
    _mutant("program.draws", "steps draw the same", for_all_steps, seeded, "accelerate#114"),
    _mutant("program.draws", "another seed draws the same", for_all_seeds, seeded, "anemoi-core#595"),
]
