"""Specs with a planted bug that shows in strict mode alone: what they compute differs between meshes in the last bits."""

from __future__ import annotations

from torch import nn

from mapsto import use
from mapsto.engine.laws.runs import usual
from mapsto.torch.mesh.one import local, whole

from . import Mutant

SOURCE = {"source": {"use": "mapsto.engine.laws.runs:Blobs"}, "batch_size": 8, "shuffle": True}


class Layers(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = nn.Sequential(nn.Linear(8, 61), nn.Tanh(), nn.Linear(61, 43), nn.Tanh())
        self.head = nn.Linear(43, 3)

    def forward(self, x):
        return self.head(self.body(x))


class Normalised:
    """Gradients of unit norm."""

    def update(self, inner):
        def outer(state, metrics):
            norm = self.norm(state)
            for gradient in state.gradients():
                local(gradient).div_(norm)
            return inner(state, metrics)

        return outer

    def norm(self, state):
        return state.mesh.norm(state.gradients())


class NormalisedByItself(Normalised):
    """Adds up the squares of the ranks' parts: right but for the order."""

    def norm(self, state):
        squares = sum(g.square().sum() for g in state.gradients())
        return whole(squares).sqrt()


class Running:
    """Weighs losses down by what this process has seen so far: as good on one rank as on two, and not the same."""

    def __init__(self):
        self.seen = 0

    def loss(self, inner):
        def outer(state, batch):
            total, weight, outputs = inner(state, batch)
            self.seen += 1
            return total * self.scale(state), weight, outputs

        return outer

    def scale(self, state):
        return 1.0 + 1e-6 * self.seen


class Scheduled(Running):
    """The same by the number of the step and the micro-shard."""

    def scale(self, state):
        return 1.0 + 1e-6 * (4 * state.step + state.shard)


def _spec(middleware):
    fields = {"model": use(Layers), "optimizer": use("sgd", lr=1.0), "schedule": None}
    return usual(data={"train": SOURCE}, middleware=[use(middleware)], **fields)


def normalised():
    return _spec(Normalised)


def normalised_by_itself():
    return _spec(NormalisedByItself)


def running():
    return _spec(Running)


def scheduled():
    return _spec(Scheduled)


MUTANTS = [
    Mutant(
        law="program.strict_ranks",
        name="ranks add up a norm in their own order",
        bug=normalised_by_itself,
        twin=normalised,
        models="FSDP: clip_grad_norm_ of sharded gradients",
    ),
    Mutant(
        law="program.strict_ranks",
        name="a running value over the micro-shards that a rank has seen",
        bug=running,
        twin=scheduled,
        models="an adaptive loss weight kept by rank",
    ),
]
