"""Middleware that cannot go on where parameters are sharded, and the twin that can."""

from __future__ import annotations

import torch

import mapsto
from mapsto.torch.mesh.one import local

from . import Mutant


class Signs:
    """Adds a running mean of the gradients' signs, which its first step makes and no parameter's name tells."""

    def __init__(self, share=0.1):
        self.share, self.kept = share, {}

    def own(self, gradient):
        return gradient

    def update(self, inner):
        def outer(state, metrics):
            for number, gradient in enumerate(map(self.own, state.gradients())):
                mean = self.kept.setdefault(str(number), torch.zeros_like(gradient))
                mean.lerp_(gradient.sign(), 0.2)
                gradient.add_(mean, alpha=self.share)
            return inner(state, metrics)

        return outer

    def state_dict(self):
        return dict(self.kept)

    def load_state_dict(self, state):
        self.kept = dict(state)


class SignsOfItsPart(Signs):
    """Keeps the part of its own rank as if it were the whole: in a file there is one tensor of that name."""

    def own(self, gradient):
        return local(gradient)


mapsto.example(Signs, neutral={"share": 0.0})
mapsto.example(SignsOfItsPart, neutral={"share": 0.0})

MUTANTS = [
    Mutant(
        law="middleware.sharded_resume",
        name="a local part kept as the whole",
        bug=SignsOfItsPart,
        twin=Signs,
        models="gradient accumulators saved by rank 0 for all ranks",
    ),
]
